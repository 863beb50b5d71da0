"""Packing sequences into rows: the same rows as plain best fit decreasing, and examples by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.arrays import Lengths
from seqstream.planning.best_fit import num_packed_rows, pack_rows
from seqstream.planning.length_counts import LengthCounts

some = settings(max_examples=150, deadline=None)


def descending(lengths: list[int]) -> Lengths:
    return np.sort(np.array(lengths, dtype=np.int64))[::-1].copy()


def packed(lengths: Lengths, row_length: int) -> list[list[int]]:
    """Return the positions in each row, after checks of their form."""
    order, cuts = pack_rows(lengths, row_length)
    assert order.dtype == cuts.dtype == np.int64
    assert cuts[0] == 0
    assert cuts[-1] == len(order) == len(lengths)
    return [row.tolist() for row in np.split(order, cuts[1:-1])] if len(lengths) else []


def best_fit(lengths: Lengths, row_length: int) -> list[list[int]]:
    """Pack one sequence at a time, into the row with the least sufficient room, of several the one that got this room first."""
    rows: list[list[int]] = []
    room: list[int] = []
    since: list[int] = []
    for position, length in enumerate(lengths.tolist()):
        fitting = [row for row in range(len(rows)) if room[row] >= length]
        row = min(fitting, key=lambda row: (room[row], since[row]), default=len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_length)
            since.append(0)
        rows[row].append(position)
        room[row] -= length
        since[row] = position
    return rows


row_lengths = st.integers(1, 40) | st.sampled_from([48, 64, 100, 127, 128, 129])


@st.composite
def problems(draw: st.DrawFn) -> tuple[Lengths, int]:
    """Draw a row length, and sequences that fit: of all lengths, of few lengths, or only short ones."""
    row_length = draw(row_lengths)
    longest = draw(st.sampled_from([row_length, max(1, row_length // 2), max(1, row_length // 5)]))
    some_lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=draw(st.sampled_from([3, 40]))))
    return descending(draw(st.lists(st.sampled_from(some_lengths), max_size=200))), row_length


@some
@given(problems())
def test_rows_are_those_of_best_fit_decreasing(problem: tuple[Lengths, int]) -> None:
    """Every row and every position is the same as with packing one sequence at a time."""
    lengths, row_length = problem
    rows = packed(lengths, row_length)
    assert rows == best_fit(lengths, row_length)
    counts = LengthCounts.of(lengths)
    assert num_packed_rows(counts.lengths, counts.counts, row_length) == len(rows)


@some
@given(problems())
def test_every_sequence_is_in_one_row_whole(problem: tuple[Lengths, int]) -> None:
    """Every sequence once, no row over its length or empty, longest first in a row, and no two rows that fit in one."""
    lengths, row_length = problem
    rows = packed(lengths, row_length)
    assert sorted(position for row in rows for position in row) == list(range(len(lengths)))
    fill = sorted(int(lengths[row].sum()) for row in rows)
    assert all(0 < tokens <= row_length for tokens in fill)
    assert all((np.diff(lengths[row]) <= 0).all() for row in rows)
    assert len(fill) < 2 or fill[0] + fill[1] > row_length


def test_rows_by_hand() -> None:
    """Rows of 10: each 6 takes a 4; the third 4 opens a row; the 3 fills that of the 7; the 2 goes to the third 4."""
    lengths = np.array([7, 6, 6, 4, 4, 4, 3, 2])
    order, cuts = pack_rows(lengths, 10)
    assert order.tolist() == [0, 6, 1, 3, 2, 4, 5, 7]
    assert cuts.tolist() == [0, 2, 4, 6, 8]
    order, cuts = pack_rows(lengths, 11)  # 7 takes a 4, 6 and 6 one each; the 3 opens a row, with room for the 2
    assert order.tolist() == [0, 3, 1, 4, 2, 5, 6, 7]
    assert cuts.tolist() == [0, 2, 4, 6, 8]
    order, cuts = pack_rows(lengths, 12)  # 6 takes 6; 7 takes a 4; the other 4s and the 3 are 11, the 2 opens a row
    assert order.tolist() == [0, 3, 1, 2, 4, 5, 6, 7]
    assert cuts.tolist() == [0, 2, 4, 7, 8]


def test_the_fullest_row_is_taken_even_if_it_is_younger() -> None:
    """A 2 goes to the row of 8, opened second, which it fills, and not to the row of 9 or to that of 6."""
    order, cuts = pack_rows(np.array([9, 8, 6, 2]), 10)
    assert order.tolist() == [0, 1, 3, 2]
    assert cuts.tolist() == [0, 1, 3, 4]


def test_of_equally_full_rows_the_first_to_be_so_is_taken() -> None:
    """Two rows get 12 of 13 tokens: that of the 7 first, as the 5 fits nowhere else, so it takes the first 1."""
    order, cuts = pack_rows(np.array([9, 7, 5, 3, 1, 1]), 13)
    assert order.tolist() == [0, 3, 5, 1, 2, 4]
    assert cuts.tolist() == [0, 3, 6]


def test_skipped_rows_keep_their_turn() -> None:
    """Three rows have 26 tokens and room for 4: the first takes the 3, and the second, not the third, takes the 2."""
    order, cuts = pack_rows(np.array([26, 26, 21, 5, 3, 2]), 30)
    assert order.tolist() == [0, 4, 1, 5, 2, 3]
    assert cuts.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("row_length", [1, 2, 7, 100, 2048, 2047, 1 << 17])
def test_sequences_as_long_as_a_row_fill_one_each(row_length: int) -> None:
    """A sequence of the row length fills a row of its own, for any length."""
    order, cuts = pack_rows(np.full(5, row_length), row_length)
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert cuts.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("row_length", "sizes"), [(20, [2] * 5 + [1]), (21, [3] * 3 + [2]), (69, [9, 2]), (77, [11]), (7, [1] * 11)]
)
def test_equal_sequences_fill_row_after_row(row_length: int, sizes: list[int]) -> None:
    """Eleven sequences of 7 fill rows in their order, with the rest in the last row."""
    order, cuts = pack_rows(np.full(11, 7), row_length)
    assert order.tolist() == list(range(11))
    assert np.diff(cuts).tolist() == sizes


def test_no_sequences_give_no_rows() -> None:
    """An empty window has no rows."""
    order, cuts = pack_rows(np.empty(0, dtype=np.int64), 10)
    assert (order.tolist(), cuts.tolist()) == ([], [0])
    assert order.dtype == cuts.dtype == np.int64


def test_more_rows_than_16_bits_count() -> None:
    """With more than 65,536 rows, sequences are still in their rows, in order."""
    order, cuts = pack_rows(np.array([2] * 70_000 + [1] * 70_000), 3)
    assert (np.diff(cuts) == 2).all()
    assert (order.reshape(-1, 2) == np.arange(70_000)[:, None] + [0, 70_000]).all()


def test_packing_is_fast() -> None:
    """Forty thousand sequences take milliseconds, as the loop is over distinct lengths and distinct rooms."""
    lengths = descending(np.minimum(np.random.default_rng(0).lognormal(5, 1, 40_000).astype(np.int64) + 1, 2048).tolist())
    begun = time.perf_counter()
    _, cuts = pack_rows(lengths, 2048)
    assert time.perf_counter() - begun < 0.5  # 5 ms; one by one it is more than a second
    assert lengths.sum() / (2048 * (len(cuts) - 1)) > 0.995


def test_a_sequence_longer_than_a_row_raises() -> None:
    """The message has its length, the row length, and the remedy."""
    message = r"^sequence of 2,113 tokens cannot fit row_length=2048; raise row_length or set Pack\(overflow=\.\.\.\)$"
    with pytest.raises(ValueError, match=message):
        pack_rows(np.array([2113, 5]), 2048)
    with pytest.raises(ValueError, match=r"^sequence of 2,049 tokens cannot fit row_length=2048;"):
        pack_rows(np.array([2049, 5]), 2048)


def test_a_sequence_without_tokens_raises() -> None:
    """The message has the least length."""
    with pytest.raises(ValueError, match=r"^sequence must have at least 1 token, got 0$"):
        pack_rows(np.array([3, 1, 0]), 10)
