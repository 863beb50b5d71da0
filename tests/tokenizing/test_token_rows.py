"""Dropping, shortening and cutting rows of ids: worked examples. Properties are tested through `Tokenize`."""

from __future__ import annotations

import numpy as np
import pytest

from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows, join, keep_rows, split, take_token_rows, truncate


@pytest.fixture
def rows() -> TokenRows:
    """Three rows with 1 before and 9 after: of four, of no, and of two tokens of their own."""
    ids = np.array([1, 11, 12, 13, 14, 9, 1, 9, 1, 15, 16, 9], np.int32)
    return TokenRows(ids, np.array([0, 6, 8, 12]))


def lists(rows: TokenRows) -> list[list[int]]:
    return [rows.ids[begin:end].tolist() for begin, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def test_truncate_drops_the_end_of_what_is_too_long(rows: TokenRows) -> None:
    """A row of exactly the limit stays whole; a longer one loses its own last tokens, never the special ones."""
    assert lists(truncate(rows, SpecialCounts(1, 1), 4, "right")) == [[1, 11, 12, 9], [1, 9], [1, 15, 16, 9]]
    assert lists(truncate(rows, SpecialCounts(1, 1), 3, "right")) == [[1, 11, 9], [1, 9], [1, 15, 9]]


def test_truncate_drops_the_beginning_on_the_left(rows: TokenRows) -> None:
    """On the left a row loses the first of its own tokens."""
    assert lists(truncate(rows, SpecialCounts(1, 1), 4, "left")) == [[1, 13, 14, 9], [1, 9], [1, 15, 16, 9]]


def test_split_cuts_into_full_pieces(rows: TokenRows) -> None:
    """Pieces are full but for the last; a row without tokens of its own is one piece."""
    pieces, source, number = split(rows, SpecialCounts(1, 1), 5)
    assert lists(pieces) == [[1, 11, 12, 13, 9], [1, 14, 9], [1, 9], [1, 15, 16, 9]]
    assert source.tolist() == [0, 0, 1, 2]
    assert number.tolist() == [0, 1, 0, 0]


def test_keep_rows_keeps_only_those(rows: TokenRows) -> None:
    """The ids of rows that are left out are gone."""
    assert lists(keep_rows(rows, np.array([0, 2]))) == [[1, 11, 12, 13, 14, 9], [1, 15, 16, 9]]
    assert lists(keep_rows(rows, np.array([], np.int64))) == []


def test_nothing_is_copied_without_need(rows: TokenRows) -> None:
    """Where no row is too long, or only rows without ids go, the buffer stays the one it was."""
    assert truncate(rows, SpecialCounts(1, 1), 6, "right").ids is rows.ids
    assert split(rows, SpecialCounts(1, 1), 6)[0].ids is rows.ids
    empty = TokenRows(rows.ids, np.array([0, 6, 6, 12]))
    assert keep_rows(empty, np.array([0, 2])).ids is rows.ids


def with_double(rows: TokenRows) -> TokenRows:
    """Return the same rows with a parallel column that is twice the id."""
    return TokenRows(rows.ids, rows.offsets, {"double": rows.ids * 2})


def test_parallel_columns_change_as_the_ids_do(rows: TokenRows) -> None:
    """Each function changes parallel columns as it changes ids, by slices or by one gather."""
    long = TokenRows(np.arange(4000, dtype=np.int32), np.array([0, 1500, 1600, 4000]))
    for given, limit in ((rows, 4), (long, 1000)):
        for changed in (
            keep_rows(with_double(given), np.array([0, 2])),
            take_token_rows(with_double(given), np.array([2, 0, 2])),
            truncate(with_double(given), SpecialCounts(1, 1), limit, "right"),
            truncate(with_double(given), SpecialCounts(1, 1), limit, "left"),
            split(with_double(given), SpecialCounts(1, 1), limit)[0],
            join([TokenRows.constant([7], double=[14]), with_double(given), with_double(given)], len(given)),
        ):
            assert len(changed.ids) == changed.offsets[-1]
            assert changed.parallel["double"].tolist() == (changed.ids * 2).tolist()


def test_each_row_may_have_a_limit_of_its_own(rows: TokenRows) -> None:
    """A limit for each row shortens those that are longer than theirs, and leaves others as they are."""
    cut = truncate(rows, SpecialCounts(), np.array([2, 5, 4]), "right")
    assert lists(cut) == [[1, 11], [1, 9], [1, 15, 16, 9]]
    assert lists(truncate(rows, SpecialCounts(), np.array([0, 1, 3]), "left")) == [[], [9], [15, 16, 9]]


def test_rows_are_taken_in_any_order(rows: TokenRows) -> None:
    """A row may be taken twice, and in any order."""
    assert lists(take_token_rows(rows, np.array([2, 1, 2]))) == [[1, 15, 16, 9], [1, 9], [1, 15, 16, 9]]


def test_join_puts_parts_behind_each_other(rows: TokenRows) -> None:
    """Row by row, constant parts in each of them; a part alone is not copied."""
    other = TokenRows(np.array([21, 22, 23], np.int32), np.array([0, 1, 1, 3]))
    joined = join([TokenRows.constant([5]), rows, TokenRows.constant([]), other, TokenRows.constant([6, 7])], 3)
    assert lists(joined) == [
        [5, 1, 11, 12, 13, 14, 9, 21, 6, 7],
        [5, 1, 9, 6, 7],
        [5, 1, 15, 16, 9, 22, 23, 6, 7],
    ]
    assert join([TokenRows.constant([]), rows, TokenRows.constant([])], 3) is rows
    assert lists(join([TokenRows.constant([]), TokenRows.constant([])], 2)) == [[], []]
    assert lists(join([TokenRows.constant([5]), keep_rows(rows, np.array([], np.int64))], 0)) == []


def test_long_rows_are_joined_too() -> None:
    """Rows so long that they are copied by slices are joined as short ones are."""
    long = TokenRows(np.arange(4000, dtype=np.int32), np.array([0, 1500, 4000]))
    joined = join([TokenRows.constant([-1]), long], 2)
    assert joined.ids.tolist() == [-1, *range(1500), -1, *range(1500, 4000)]
    assert joined.offsets.tolist() == [0, 1501, 4002]


def test_the_end_is_on_the_last_piece(rows: TokenRows) -> None:
    """The token of ``end`` is on the last piece alone, other special tokens are on every piece."""
    pieces, source, number = split(rows, SpecialCounts(1, 1, end=1), 4)
    assert lists(pieces) == [[1, 11, 12, 13], [1, 14, 9], [1, 9], [1, 15, 16, 9]]
    assert source.tolist() == [0, 0, 1, 2]
    assert number.tolist() == [0, 1, 0, 0]
