"""What a record is: where one starts, where it ends.

A range of bytes owns the records that start in it. Whether a record starts at a byte is decided by a few bytes around it
(`LOOK_BEHIND`), so that a range is read without its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from seqstream.sources.files import Int64s

Buffer: TypeAlias = bytes | bytearray

BOM = b"\xef\xbb\xbf"
BOUNDARY = re.compile(rb"\n\r?\n")

LOOK_BEHIND = 8
"""Bytes before a range that decide whether a record starts with it: at most a mark and an empty line, at a file's beginning."""

LOOK_AHEAD = 16_384
"""Bytes after a range that are read with it: most last records end there. At least 3 are needed, to know a mark."""

_LEADING = re.compile(rb"(?:\r?\n)*+")
_LEADING_WITH_BOM = re.compile(rb"(?:\xef\xbb\xbf)?(?:\r?\n)*+")
_GAP = re.compile(rb"\n\r?\n(?:\r?\n)*+")
_NONBLANK = re.compile(rb"^[ \t\r]*[^ \t\r\n]", re.MULTILINE)


class Rule(NamedTuple):
    """What a record is."""

    begin: Callable[[Buffer, int, int], int]
    """``(buffer, offset of the buffer in its file, at)`` -> first start of a record at or after ``at``, in the buffer."""
    end: Callable[[Buffer, int], int]
    """``(buffer, at)`` -> first end of a record at or after ``at``, in the buffer; -1 if there is none yet."""
    starts: Callable[[bytes], Int64s]
    """Whole records, without a mark -> where each of them starts."""
    is_file: bool = False


def newlines(data: bytes) -> Int64s:
    """Return where the newlines are."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) == 10)


def _line_begin(buffer: Buffer, base: int, at: int) -> int:
    if base + at == 0:
        return 0
    return buffer.find(b"\n", at - 1) + 1 or len(buffer)


def _line_end(buffer: Buffer, at: int) -> int:
    return buffer.find(b"\n", max(0, at - 1)) + 1 or -1


def _line_starts(data: bytes) -> Int64s:
    starts = np.concatenate([np.zeros(1, np.int64), newlines(data) + 1])
    return starts[starts < len(data)]


def _nonblank_line_starts(data: bytes) -> Int64s:
    return np.array([found.start() for found in _NONBLANK.finditer(data)], np.int64)


def _paragraph_begin(buffer: Buffer, base: int, at: int) -> int:
    if base == 0:
        leading = _LEADING_WITH_BOM.match(buffer)
        if leading and leading.end() >= at:
            return leading.end()
    return next((gap.end() for gap in _GAP.finditer(buffer) if gap.end() >= at), len(buffer))


def _paragraph_end(buffer: Buffer, at: int) -> int:
    found = BOUNDARY.search(buffer, max(0, at - 3))
    while found and found.end() < at:
        found = BOUNDARY.search(buffer, found.start() + 1)
    return found.end() if found else -1


def _paragraph_starts(data: bytes) -> Int64s:
    leading = _LEADING.match(data)
    starts = np.array([leading.end() if leading else 0, *(gap.end() for gap in _GAP.finditer(data))], np.int64)
    return np.unique(starts[starts < len(data)])


def _file_begin(buffer: Buffer, base: int, at: int) -> int:
    return 0 if base + at == 0 else len(buffer)


def _file_end(buffer: Buffer, at: int) -> int:
    return -1


def _file_starts(data: bytes) -> Int64s:
    return np.zeros(1, np.int64)


LINES = Rule(_line_begin, _line_end, _line_starts)
NONBLANK_LINES = Rule(_line_begin, _line_end, _nonblank_line_starts)
PARAGRAPHS = Rule(_paragraph_begin, _paragraph_end, _paragraph_starts)
FILES = Rule(_file_begin, _file_end, _file_starts, is_file=True)
