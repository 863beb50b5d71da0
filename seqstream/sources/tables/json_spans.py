"""Byte ranges of the objects in a field, over many lines of JSON at once, without parsing them."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index

_Letters: TypeAlias = npt.NDArray[np.uint8]

_QUOTE, _COLON, _BACKSLASH = b'":\\'
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = b"{}[]"
_BRACE_BIT = _OPEN ^ _OPEN_LIST
"""``{`` and ``}`` have this bit, ``[`` and ``]`` do not."""


class Objects(NamedTuple):
    """The objects in the lists of a field of records.

    Attributes:
        counts: Number of objects in each list; records without the field, or with null, have no list.
        starts: Offset in the text of each object.
        ends: Offset of the byte after each object.
        has_more: Whether each object holds anything but strings.
    """

    counts: Index
    starts: Index
    ends: Index
    has_more: npt.NDArray[np.bool_]


class Spans:
    """The marks of well-formed lines of JSON objects."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        letters = np.frombuffer(text, np.uint8)
        folded = letters | _BRACE_BIT
        at = np.flatnonzero((letters == _QUOTE) | (letters == _COLON) | (folded == _OPEN) | (folded == _CLOSE))
        if b"\\" in text:
            at = without_escaped(letters, at)
        kinds = letters[at]
        is_quote = kinds == _QUOTE
        is_mark = is_quote | (np.cumsum(is_quote) & 1 == 0)
        self._letters = letters
        self._at: Index = at[is_mark]
        """Offsets of quotes around strings, and of colons and brackets outside of strings."""
        self._kinds: _Letters = kinds[is_mark]
        folded = self._kinds | _BRACE_BIT
        self._depths: Index = np.cumsum((folded == _OPEN).astype(np.int8) - (folded == _CLOSE))
        """How deep the text nests after each mark."""

    def objects(self, name: str) -> Objects:
        """Return the objects in the lists of a field; none if its name is written with escapes."""
        at, kinds = self._at, self._kinds
        lists, list_ends = self._pairs(_OPEN_LIST, _CLOSE_LIST, 2)
        word = np.frombuffer(name.encode(), np.uint8)
        # Before the list of a field there are the quotes around its name, and a colon.
        is_named = at[lists - 2] - at[lists - 3] == len(word) + 1
        keys = at[lists[is_named] - 3][:, None] + np.arange(1, len(word) + 1)
        is_named[is_named] = (self._letters[keys] == word).all(axis=1)
        lists, list_ends = lists[is_named], list_ends[is_named]
        first, end = self._pairs(_OPEN, _CLOSE, 3)
        owner = np.searchsorted(lists, first) - 1
        is_inside = first < np.append(list_ends, 0)[owner]  # owner -1, no list before, takes the appended 0
        first, end, owner = first[is_inside], end[is_inside], owner[is_inside]
        quotes, colons = np.cumsum(kinds == _QUOTE), np.cumsum(kinds == _COLON)
        num_quotes, num_colons = quotes[end] - quotes[first], colons[end] - colons[first]
        # A name and its string have four quotes and a colon; a nested value has brackets.
        has_more = (num_quotes != 4 * num_colons) | (num_quotes + num_colons != end - first - 1)
        return Objects(np.bincount(owner, minlength=len(lists)), at[first], at[end] + 1, has_more)

    def _pairs(self, opening: int, closing: int, depth: int) -> tuple[Index, Index]:
        """Return the indices of the marks that open a bracket at a depth, and of those that close it."""
        opens, closes = np.flatnonzero(self._kinds == opening), np.flatnonzero(self._kinds == closing)
        return opens[self._depths[opens] == depth], closes[self._depths[closes] == depth - 1]


def without_escaped(letters: _Letters, at: Index) -> Index:
    """Return the offsets without quotes that have an odd number of backslashes before them."""
    behind = np.flatnonzero((letters[at] == _QUOTE) & (letters[at - 1] == _BACKSLASH))
    slashes = np.flatnonzero(letters == _BACKSLASH)
    firsts = slashes[np.diff(slashes, prepend=-2) != 1]
    run = at[behind] - firsts[np.searchsorted(firsts, at[behind]) - 1]
    return np.delete(at, behind[run & 1 == 1])
