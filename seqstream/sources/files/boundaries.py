"""What a record is: where one starts, where it ends.

A range of bytes owns the records that start in it; a paragraph starts with the blank lines before it. Whether a record starts
at a byte is decided by a few bytes around it (`LOOK_BEHIND`), so that a range is read without its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from seqstream.arrays import Index

Buffer: TypeAlias = bytes | bytearray

BOM = b"\xef\xbb\xbf"
_SPACE = rb"(?:[ \t\r\x0b\x0c\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
"""White space as ``str.isspace`` has it, but for the newline."""

GAP = re.compile(rb"\n(?:%b*+\n)++" % _SPACE)
"""The end of a paragraph and the blank lines behind it, which hold white space only."""

LOOK_BEHIND = 8
"""Bytes before a range that decide whether a record starts with it: at most a letter of white space."""

LOOK_AHEAD = 16_384
"""Bytes after a range that are read with it: most last records end there. At least 3 are needed, to know a mark."""

_LEADING = re.compile(rb"(?:%b*+\n)*+" % _SPACE)
_BLANK_LINE = re.compile(rb"\n%b*+\n" % _SPACE)
_SPACES = re.compile(rb"(?:\n|%b)*+" % _SPACE)
_ASCII_SPACES = bytes([*range(9, 14), *range(0x1C, 0x21)])
_WIDE_SPACES = tuple(letter.encode() for letter in map(chr, range(0x80, 0x3001)) if letter.isspace())
_NONBLANK = re.compile(rb"^[ \t\r]*[^ \t\r\n]", re.MULTILINE)


class Rule(NamedTuple):
    """What a record is."""

    begin: Callable[[Buffer, int, int], int]
    """``(buffer, offset of the buffer in its file, at)`` -> first start of a record at or after ``at``, in the buffer."""
    end: Callable[[Buffer, int], int]
    """``(buffer, at)`` -> first end of a record at or after ``at``, in the buffer; -1 if there is none yet."""
    starts: Callable[[bytes], Index]
    """Whole records, without a mark -> where each of them starts."""
    is_file: bool = False
    settled: Callable[[Buffer], int] = len
    """``(buffer)`` -> how much of it the bytes that follow do not change."""


def newlines(data: bytes) -> Index:
    """Return where the newlines are."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) == 10)


def _line_begin(buffer: Buffer, base: int, at: int) -> int:
    if base + at == 0:
        return 0
    return buffer.find(b"\n", at - 1) + 1 or len(buffer)


def _line_end(buffer: Buffer, at: int) -> int:
    return buffer.find(b"\n", max(0, at - 1)) + 1 or -1


def _line_starts(data: bytes) -> Index:
    starts = np.concatenate([np.zeros(1, np.int64), newlines(data) + 1])
    return starts[starts < len(data)]


def _nonblank_line_starts(data: bytes) -> Index:
    return np.array([found.start() for found in _NONBLANK.finditer(data)], np.int64)


def _paragraph_begin(buffer: Buffer, base: int, at: int) -> int:
    return 0 if base + at == 0 else _find_gap(buffer, at, len(buffer))


def _paragraph_end(buffer: Buffer, at: int) -> int:
    return _find_gap(buffer, at, -1)


def _find_gap(buffer: Buffer, at: int, absent: int) -> int:
    """Return the end of the first line of the first gap whose white space starts at or after ``at``; it holds two newlines."""
    found = _BLANK_LINE.search(buffer, at)
    while found:
        if _space_start(buffer, found.start()) >= at:
            return found.start() + 1
        space = _SPACES.match(buffer, found.start())
        found = _BLANK_LINE.search(buffer, space.end() if space else found.end())
    return absent


def _space_start(buffer: Buffer, stop: int) -> int:
    """Return where the white space before ``stop`` starts."""
    size = 64
    while True:
        begin = max(0, stop - size)
        left = bytes(buffer[begin:stop]).rstrip(_ASCII_SPACES)
        while left.endswith(_WIDE_SPACES):
            left = left[: -2 if left[-2] == 0xC2 else -3].rstrip(_ASCII_SPACES)
        # A letter of white space may be cut off at the beginning.
        if begin == 0 or len(left) > 3:
            return begin + len(left)
        size *= 8


def _paragraph_settled(buffer: Buffer) -> int:
    # The last bytes may be a part of a letter of white space.
    return _space_start(buffer, max(0, len(buffer) - 2))


def _paragraph_starts(data: bytes) -> Index:
    leading = _LEADING.match(data)
    starts = np.array([leading.end() if leading else 0, *(gap.end() for gap in GAP.finditer(data))], np.int64)
    return np.unique(starts[starts < _space_start(data, len(data))])


def _file_begin(buffer: Buffer, base: int, at: int) -> int:
    return 0 if base + at == 0 else len(buffer)


def _file_end(buffer: Buffer, at: int) -> int:
    return -1


def _file_starts(data: bytes) -> Index:
    return np.zeros(1, np.int64)


LINES = Rule(_line_begin, _line_end, _line_starts)
NONBLANK_LINES = Rule(_line_begin, _line_end, _nonblank_line_starts)
PARAGRAPHS = Rule(_paragraph_begin, _paragraph_end, _paragraph_starts, settled=_paragraph_settled)
FILES = Rule(_file_begin, _file_end, _file_starts, is_file=True)
