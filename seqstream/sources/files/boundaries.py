"""Where records start and end in bytes: lines, paragraphs, sentences in CoNLL's formats, and whole files.

A range of bytes owns the records that start in it; a paragraph starts with the blank lines before it. A few bytes around a byte
(`LOOK_BEHIND`) decide whether a record starts there, so that a range is read without its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from seqstream.arrays import Index

Buffer: TypeAlias = bytes | bytearray

BOM = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""

_SPACE = rb"(?:[ \t\r\x0b\x0c\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
"""White space as in ``str.isspace``, without the newline."""

GAP = re.compile(rb"\n(?:%b*+\n)++" % _SPACE)
"""The end of a paragraph and the blank lines after it, which have white space only."""

LOOK_BEHIND = 8
"""Bytes before a range that decide whether a record starts with it: a newline, or at most one character of white space."""

LOOK_AHEAD = 16_384
"""Bytes after a range that are read with it: most last records end there. At least 3, to recognise a byte order mark."""

_LEADING = re.compile(rb"(?:%b*+\n)*+" % _SPACE)
_BLANK_LINE = re.compile(rb"\n%b*+\n" % _SPACE)
_SPACES = re.compile(rb"(?:\n|%b)*+" % _SPACE)
_ASCII_SPACES = bytes([*range(9, 14), *range(0x1C, 0x21)])
_WIDE_SPACES = tuple(letter.encode() for letter in map(chr, range(0x80, 0x3001)) if letter.isspace())
_NONBLANK = re.compile(rb"^[ \t\r]*[^ \t\r\n]", re.MULTILINE)

CONLL_LINE = re.compile(rb"^(?!-DOCSTART-(?:[ \t\r\n]|\Z))%b*+[^\n]" % _SPACE, re.MULTILINE)
"""The beginning of the line of a word: neither blank, nor a mark between documents."""
CONLLU_LINE = re.compile(rb"^(?!#)%b*+[^\n]" % _SPACE, re.MULTILINE)
"""The beginning of a line of CoNLL-U that is no comment."""
_CONLLU_WORD = re.compile(rb"^(?!#|\d+[-.]\d)%b*+[^\n]" % _SPACE, re.MULTILINE)


class Rule(NamedTuple):
    """How records are found in bytes."""

    begin: Callable[[Buffer, int, int], int]
    """``(buffer, offset of the buffer in its file, at)`` -> first start of a record at or after ``at``, in the buffer."""
    end: Callable[[Buffer, int], int]
    """``(buffer, at)`` -> first end of a record at or after ``at``, in the buffer; -1 if there is none yet."""
    starts: Callable[[bytes], Index]
    """Bytes of whole records, without a byte order mark -> where each record starts, ``int64 (records,)``."""
    is_file: bool = False
    """Whether a record is a whole file."""
    settled: Callable[[Buffer], int] = len
    """``(buffer)`` -> the size of its beginning in which further bytes do not change where records start and end."""


def newlines(data: bytes) -> Index:
    """Return the offsets of newlines, ``int64 (newlines,)``."""
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
    """Return the offset after the first newline of the first gap whose white space starts at or after ``at``, or ``absent``."""
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
        # A character of white space may be cut at the beginning.
        if begin == 0 or len(left) > 3:
            return begin + len(left)
        size *= 8


def _paragraph_settled(buffer: Buffer) -> int:
    # The last bytes may be part of a character of white space.
    return _space_start(buffer, max(0, len(buffer) - 2))


def _paragraph_starts(data: bytes) -> Index:
    leading = _LEADING.match(data)
    starts = np.array([leading.end() if leading else 0, *(gap.end() for gap in GAP.finditer(data))], np.int64)
    return np.unique(starts[starts < _space_start(data, len(data))])


def _conll_starts(data: bytes) -> Index:
    return _starts_with(CONLL_LINE, data)


def _conllu_starts(data: bytes) -> Index:
    return _starts_with(_CONLLU_WORD, data)


def _starts_with(line: re.Pattern[bytes], data: bytes) -> Index:
    """Return where the paragraphs start that have such a line."""
    starts = _paragraph_starts(data)
    words = np.array([found.start() for found in line.finditer(data)], np.int64)
    return starts[np.unique(np.searchsorted(starts, words, side="right") - 1)] if len(words) else starts[:0]


def _file_begin(buffer: Buffer, base: int, at: int) -> int:
    return 0 if base + at == 0 else len(buffer)


def _file_end(buffer: Buffer, at: int) -> int:
    return -1


def _file_starts(data: bytes) -> Index:
    return np.zeros(1, np.int64)


LINES = Rule(_line_begin, _line_end, _line_starts)
NONBLANK_LINES = Rule(_line_begin, _line_end, _nonblank_line_starts)
PARAGRAPHS = Rule(_paragraph_begin, _paragraph_end, _paragraph_starts, settled=_paragraph_settled)
CONLL = PARAGRAPHS._replace(starts=_conll_starts)
CONLLU = PARAGRAPHS._replace(starts=_conllu_starts)
FILES = Rule(_file_begin, _file_end, _file_starts, is_file=True)
