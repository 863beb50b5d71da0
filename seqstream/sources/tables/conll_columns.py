"""Sentences in CoNLL's formats, a line for each word: many of them become columns of lists at once.

Shapes: ``W`` words of all sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, ranges
from seqstream.arrow import to_arrow
from seqstream.sources.files.boundaries import CONLL_LINE, CONLLU_LINE, GAP, newlines
from seqstream.sources.files.ranges import locate_byte
from seqstream.sources.files.spans import ByteSpan

CONLLU_NAMES = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""Columns of CoNLL-U, in the order of a line."""

LINES = {"conll": CONLL_LINE, "conllu": CONLLU_LINE}
"""The beginning of a line with columns, for each format."""

_DOCSTART = re.compile(rb"^-DOCSTART-(?=[ \t\n])", re.MULTILINE)
_TRAILING = re.compile(rb"[ \t]+\n")
_SPACES = re.compile(rb" +")
_LINE_WITHOUT_TAB = re.compile(rb"^[^\t\n]+$", re.MULTILINE)
_SHOWN_BYTES = 60
_MAYBE_BLANK = np.zeros(256, np.bool_)
_MAYBE_BLANK[[*b" \t\r\x0b\x0c\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3"]] = True
"""Whether white space may begin with a byte."""


class Layout(NamedTuple):
    """How sentences are written, and which columns are read.

    Attributes:
        unit: The format, ``"conll"`` or ``"conllu"``.
        width: Number of columns of a line.
        columns: Name of each column that is read, and its number in a line.
    """

    unit: str
    width: int
    columns: Mapping[str, int]


class _Lines(NamedTuple):
    """Lines with columns.

    Attributes:
        text: Tabs are between columns.
        starts: Where each line starts in the text, ``int64 (W,)``.
        ends: Where it ends, without its newline, ``int64 (W,)``.
        sentences: The number of its sentence, ascending, ``int64 (W,)``.
    """

    text: bytes
    starts: Index
    ends: Index
    sentences: Index


def parse_sentences(text: bytes, spans: list[ByteSpan], layout: Layout) -> tuple[pa.Table, Index]:
    r"""Return the sentences of spans: a column of lists of strings for each of ``layout.columns``; and the bytes of each.

    Args:
        text: The text of the spans, which has ``\n\n`` at both ends of each.
        spans: Where the text is from, for errors.
        layout: The format.

    Raises:
        ValueError: A line has another number of columns, or in CoNLL-U no number as its id; the message has file and line.
    """
    lines = _find_lines(text, layout.unit)
    tabs = np.flatnonzero(np.frombuffer(lines.text, np.uint8) == ord("\t"))
    first, last = np.searchsorted(tabs, lines.starts), np.searchsorted(tabs, lines.ends)
    wrong = np.flatnonzero(last - first != layout.width - 1)
    if len(wrong):
        found = int(last[wrong[0]] - first[wrong[0]]) + 1
        problem = f"line must have {layout.width} columns between tabs or spaces, got {found}"
        raise _error(spans, layout.unit, int(wrong[0]), problem, "correct it, or name as many columns=(...)")

    def cells(number: int) -> pa.StringArray:
        starts = lines.starts if number == 0 else tabs[first + number - 1] + 1
        ends = lines.ends if number == layout.width - 1 else tabs[first + number]
        return _strings(lines.text, starts, ends)

    words = np.arange(len(lines.starts)) if layout.unit == "conll" else _find_words(cells(0), spans)
    firsts = np.flatnonzero(np.diff(lines.sentences[words], prepend=-1))
    offsets = to_arrow(np.append(firsts, len(words)).astype(np.int32))
    is_all = len(words) == len(lines.starts)
    columns = {
        name: pa.ListArray.from_arrays(offsets, cells(number) if is_all else cells(number).take(to_arrow(words)))
        for name, number in layout.columns.items()
    }
    lasts = np.append(firsts, len(words))[1:] - 1
    return pa.table(columns), lines.ends[words[lasts]] - lines.starts[words[firsts]]


def count_columns(line: bytes) -> int:
    """Return the number of columns of a line: between tabs if it has one, else between spaces."""
    line = line.rstrip(b" \t\r\n")
    return len(line.split(b"\t") if b"\t" in line else _SPACES.split(line))


def _find_lines(text: bytes, unit: str) -> _Lines:
    text = text.replace(b" \n", b"\n").replace(b"\t\n", b"\n")  # much faster, where there is one
    if b" \n" in text or b"\t\n" in text:
        text = _TRAILING.sub(b"\n", text)
    if _MAYBE_BLANK[np.frombuffer(text, np.uint8)[newlines(text[:-1]) + 1]].any():
        text = GAP.sub(b"\n\n", text)
    text = _with_tabs(text, unit)
    ends = newlines(text)
    starts, ends = ends[:-1] + 1, ends[1:]
    has_columns = ends > starts
    sentences: Index = np.cumsum(~has_columns, dtype=np.int64)
    if unit == "conllu":
        has_columns &= np.frombuffer(text, np.uint8)[starts] != ord("#")
    elif b"\n-DOCSTART-" in text:
        marks = np.array([found.start() for found in _DOCSTART.finditer(text)], np.int64)
        has_columns[np.searchsorted(starts, marks)] = False
    kept = np.flatnonzero(has_columns)
    return _Lines(text, starts[kept], ends[kept], sentences[kept])


def _with_tabs(text: bytes, unit: str) -> bytes:
    """Return text with tabs between columns, in place of the spaces of lines that have no tab."""
    if b"\t" not in text:
        return text.replace(b" ", b"\t") if b"  " not in text else _SPACES.sub(b"\t", text)
    if b" " not in text:
        return text
    ends = newlines(text)
    tabs = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\t"))
    has_none = (np.diff(np.searchsorted(tabs, ends)) == 0) & (np.diff(ends) > 1)
    if unit == "conllu":
        has_none &= np.frombuffer(text, np.uint8)[ends[:-1] + 1] != ord("#")
    return _LINE_WITHOUT_TAB.sub(lambda line: _SPACES.sub(b"\t", line[0]), text) if has_none.any() else text


def _find_words(ids: pa.StringArray, spans: list[ByteSpan]) -> Index:
    """Return which lines of CoNLL-U are words, ``int64``: not ranges such as ``1-2`` and not empty nodes such as ``1.1``.

    Raises:
        ValueError: An id is neither.
    """
    import pyarrow.compute as pc

    is_word = pc.match_substring_regex(ids, "^[0-9]+$").to_numpy(zero_copy_only=False)
    is_other = pc.match_substring_regex(ids, r"^[0-9]+(-[0-9]+|\.[0-9]+)$").to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~(is_word | is_other))
    if len(wrong):
        remedy = "pass conllu=False if the file has other columns"
        problem = "line must begin with a number such as 1, 1-2 or 1.1"
        raise _error(spans, "conllu", int(wrong[0]), f"{problem}, got {ids[int(wrong[0])].as_py()!r}", remedy)
    return np.flatnonzero(is_word)


def _strings(text: bytes, starts: Index, ends: Index) -> pa.StringArray:
    """Return parts of a text as an array of strings."""
    lengths = ends - starts
    data = np.frombuffer(text, np.uint8)[ranges(starts, lengths)]
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))


def _error(spans: list[ByteSpan], unit: str, number: int, problem: str, remedy: str) -> ValueError:
    """Return an error with the file and the line of a line with columns, by its number in the spans."""
    for span in spans:
        starts = [found.start() for found in LINES[unit].finditer(span.text)]
        if number < len(starts):
            line = span.text[starts[number] :].split(b"\n", 1)[0][:_SHOWN_BYTES].decode("utf-8", "replace")
            offset = span.offset + len(span.data) - len(span.text) + starts[number]
            return ValueError(f"{locate_byte(span.file, offset)}: {problem}: {line!r}; {remedy}")
        number -= len(starts)
    raise IndexError("number must be of a line of the spans")
