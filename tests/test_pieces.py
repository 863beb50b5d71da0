"""Dropping, shortening and cutting rows of ids: worked examples. Properties are tested through `Tokenize`."""

from __future__ import annotations

import numpy as np
import pytest

from seqstream.pieces import Frame, TokenRows, keep_rows, split, truncate


@pytest.fixture
def rows() -> TokenRows:
    """Three rows with 1 before and 9 after: of four, of no, and of two tokens of their own."""
    ids = np.array([1, 11, 12, 13, 14, 9, 1, 9, 1, 15, 16, 9], np.int32)
    return TokenRows(ids, np.array([0, 6, 8, 12]))


def lists(rows: TokenRows) -> list[list[int]]:
    return [rows.ids[begin:end].tolist() for begin, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def test_truncate_drops_the_end_of_what_is_too_long(rows: TokenRows) -> None:
    """A row of exactly the limit stays whole; a longer one loses its own last tokens, never the special ones."""
    assert lists(truncate(rows, Frame(1, 1), 4, "right")) == [[1, 11, 12, 9], [1, 9], [1, 15, 16, 9]]
    assert lists(truncate(rows, Frame(1, 1), 3, "right")) == [[1, 11, 9], [1, 9], [1, 15, 9]]


def test_truncate_drops_the_beginning_on_the_left(rows: TokenRows) -> None:
    """On the left it is the first tokens of its own that go."""
    assert lists(truncate(rows, Frame(1, 1), 4, "left")) == [[1, 13, 14, 9], [1, 9], [1, 15, 16, 9]]


def test_split_cuts_into_full_pieces(rows: TokenRows) -> None:
    """Pieces are full but for the last; a row without tokens of its own is one piece."""
    pieces, source, number = split(rows, Frame(1, 1), 5)
    assert lists(pieces) == [[1, 11, 12, 13, 9], [1, 14, 9], [1, 9], [1, 15, 16, 9]]
    assert source.tolist() == [0, 0, 1, 2]
    assert number.tolist() == [0, 1, 0, 0]


def test_keep_rows_keeps_only_those(rows: TokenRows) -> None:
    """The rows that are left out leave no ids behind."""
    assert lists(keep_rows(rows, np.array([0, 2]))) == [[1, 11, 12, 13, 14, 9], [1, 15, 16, 9]]
    assert lists(keep_rows(rows, np.array([], np.int64))) == []


def test_nothing_is_copied_without_need(rows: TokenRows) -> None:
    """Where no row is too long, or only rows without ids go, the buffer stays the one it was."""
    assert truncate(rows, Frame(1, 1), 6, "right").ids is rows.ids
    assert split(rows, Frame(1, 1), 6)[0].ids is rows.ids
    empty = TokenRows(rows.ids, np.array([0, 6, 6, 12]))
    assert keep_rows(empty, np.array([0, 2])).ids is rows.ids
