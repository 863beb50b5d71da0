"""Choosing padded lengths: properties for any histogram, and examples by hand."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.shapes import equal_token_lengths, quantile_lengths
from seqstream.arrays import Lengths
from seqstream.planning.shape_choice import Histogram, choose_lengths, shape_of

few = settings(max_examples=100, deadline=None)


def histogram(counts: list[int]) -> Histogram:
    return np.array([0, *counts], dtype=np.int64)


def slots_of(counts: Histogram, lengths: Lengths | tuple[int, ...]) -> int:
    """Count real tokens and padding where each row is padded to the shortest length that holds it."""
    ends = np.array(lengths)
    return int(ends[np.searchsorted(ends, np.flatnonzero(counts))] @ counts[counts > 0])


def least_slots(counts: Histogram, num_shapes: int, multiple_of: int) -> int:
    """Try every choice of lengths, one by one."""
    top = -(-(len(counts) - 1) // multiple_of) * multiple_of
    lower = range(multiple_of, top, multiple_of)
    choices = itertools.chain.from_iterable(itertools.combinations(lower, size) for size in range(num_shapes))
    return min(slots_of(counts, (*choice, top)) for choice in choices)


histograms = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=400),
    st.lists(st.sampled_from([0, 0, 0, 1, 1000]), min_size=1, max_size=400),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=40),
).map(histogram)


@few
@given(st.lists(st.integers(0, 5), min_size=1, max_size=10).map(histogram), st.integers(1, 6), st.integers(1, 4))
def test_no_other_choice_pads_less(counts: Histogram, num_shapes: int, multiple_of: int) -> None:
    """Of all choices of lengths, tried one by one, none needs fewer slots."""
    lengths = choose_lengths(counts, num_shapes, multiple_of=multiple_of)
    assert slots_of(counts, lengths) == least_slots(counts, num_shapes, multiple_of)


@few
@given(histograms, st.integers(1, 20), st.integers(1, 70))
def test_lengths_hold_every_row(counts: Histogram, num_shapes: int, multiple_of: int) -> None:
    """Lengths are ascending multiples up to the greatest possible length, and each but the last is used by some rows."""
    lengths = choose_lengths(counts, num_shapes, multiple_of=multiple_of)
    assert lengths.dtype == np.int64
    assert 1 <= len(lengths) <= num_shapes
    assert lengths[-1] == -(-(len(counts) - 1) // multiple_of) * multiple_of
    assert (np.diff(lengths) > 0).all()
    assert (lengths % multiple_of == 0).all()
    rounded = np.zeros(lengths[-1] + 1, dtype=np.int64)
    np.add.at(rounded, -(-np.arange(len(counts)) // multiple_of) * multiple_of, counts)
    assert (rounded[lengths[:-1]] > 0).all()
    fitted = lengths[np.searchsorted(lengths, np.flatnonzero(counts))]
    assert len(lengths) == min(num_shapes, len(set(np.flatnonzero(rounded)) | {lengths[-1]}))
    assert (fitted >= np.flatnonzero(counts)).all()


@few
@given(histograms, st.integers(1, 20), st.integers(1, 20))
def test_usual_rules_never_pad_less(counts: Histogram, num_shapes: int, multiple_of: int) -> None:
    """Neither quantiles of rows nor parts of equal tokens need fewer slots, for any histogram."""
    slots = slots_of(counts, choose_lengths(counts, num_shapes, multiple_of=multiple_of))
    for rule in (quantile_lengths, equal_token_lengths):
        lengths = rule(counts, num_shapes, multiple_of=multiple_of)
        assert len(lengths) <= num_shapes
        assert slots <= slots_of(counts, lengths)


@few
@given(histograms, st.integers(1, 20))
def test_more_lengths_never_pad_more(counts: Histogram, num_shapes: int) -> None:
    """One more length needs fewer slots, unless each row has its own length already."""
    fewer, more = (choose_lengths(counts, number) for number in (num_shapes, num_shapes + 1))
    assert slots_of(counts, more) < slots_of(counts, fewer) or len(more) == len(fewer)


def test_lengths_by_hand() -> None:
    """Besides 10, the best length is 3: 6 rows of 2 and 3 of 3 have 27 slots, and 3 of 7 have 30."""
    counts = histogram([0, 6, 3, 0, 0, 0, 3, 0, 0, 0])
    assert choose_lengths(counts, 1).tolist() == [10]
    assert choose_lengths(counts, 2).tolist() == [3, 10]  # 57; [2, 10] makes 72, [7, 10] makes 84
    assert choose_lengths(counts, 3).tolist() == [3, 7, 10]  # 48; [2, 3, 10] makes 51, [2, 7, 10] makes 54
    assert choose_lengths(counts, 4).tolist() == [2, 3, 7, 10]
    assert choose_lengths(counts, 9).tolist() == [2, 3, 7, 10]
    assert choose_lengths(counts, 9, multiple_of=4).tolist() == [4, 8, 12]
    assert choose_lengths(counts, 2, multiple_of=4).tolist() == [4, 12]
    assert choose_lengths(counts, 9, multiple_of=16).tolist() == [16]


def test_rules_to_compare_with_by_hand() -> None:
    """Of rows 1 1 2 2 2 5 9 half are those up to 2; 1 1 2 2 2 5 are the first with more than 22 / 2 tokens."""
    counts = histogram([2, 3, 0, 0, 1, 0, 0, 0, 1, 0])
    assert quantile_lengths(counts, 1).tolist() == equal_token_lengths(counts, 1).tolist() == [10]
    assert quantile_lengths(counts, 2).tolist() == [2, 10]
    assert quantile_lengths(counts, 7).tolist() == [1, 2, 5, 10]
    assert quantile_lengths(counts, 4, multiple_of=4).tolist() == [4, 8, 12]
    assert equal_token_lengths(counts, 2).tolist() == [5, 10]
    # 1 1 2 2 is more than 22 / 4, so a row of 2 begins the second bucket, where all rows of 2 go; 2 5 fills it.
    assert equal_token_lengths(counts, 4).tolist() == [1, 5, 10]


def test_no_rows_need_one_length() -> None:
    """Without rows there is only the greatest length; rows without tokens are padded to one token, and counted."""
    assert choose_lengths(histogram([0] * 50), 8, multiple_of=8).tolist() == [56]
    assert choose_lengths(np.array([3, 0, 0]), 8).tolist() == [1, 2]


def test_long_histograms_are_fast() -> None:
    """16 of 8,192 lengths are chosen in well under a second, as not every pair of lengths is tried."""
    counts = np.random.default_rng(0).integers(1, 1000, 8193)
    begun = time.perf_counter()
    assert len(choose_lengths(counts, 16)) == 16
    assert time.perf_counter() - begun < 0.5


def test_rows_go_to_the_shortest_shape_that_holds_them() -> None:
    """A row as long as a shape goes there; one token more goes to the next."""
    lengths = np.array([4, 5, 1, 8, 9, 16, 0])
    assert shape_of(lengths, np.array([4, 8, 16])).tolist() == [0, 1, 0, 1, 2, 2, 0]
    assert shape_of(np.empty(0, dtype=np.int64), np.array([4])).tolist() == []


def test_rows_longer_than_all_shapes_raise() -> None:
    """The message has the length of the row, the longest shape and the remedy."""
    expected = (
        r"^sequence of 1,700 tokens cannot fit the longest shape, 512; add a longer shape or set Tokenize\(max_length=512\)$"
    )
    with pytest.raises(ValueError, match=expected):
        shape_of(np.array([3, 1700, 600]), np.array([128, 512]))


@pytest.mark.parametrize(
    ("counts", "num_shapes", "multiple_of", "message"),
    [
        ([0, 1], 0, 1, r"^num_shapes must be a positive whole number, got 0$"),
        ([0, 1], 2, 0, r"^multiple_of must be a positive whole number, got 0$"),
        ([], 2, 1, r"^counts must have an entry for every length from 0 to the longest, got 0 entries$"),
        ([7], 2, 1, r"^counts must have an entry for every length from 0 to the longest, got 1 entries$"),
    ],
)
def test_bad_input_raises(counts: list[int], num_shapes: int, multiple_of: int, message: str) -> None:
    """Numbers that are not positive and a histogram without lengths raise."""
    with pytest.raises(ValueError, match=message):
        choose_lengths(np.array(counts, dtype=np.int64), num_shapes, multiple_of=multiple_of)
