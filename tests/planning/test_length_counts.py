"""Rows by length: counts, row numbers, and the sorted order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.length_counts import LengthCounts, sorted_order, sorted_within


def test_length_counts_of_five_rows() -> None:
    """The worked example: lengths descending, the number of rows of each, and the first row number of each."""
    counts = LengthCounts.of(np.array([3, 5, 3, 2, 3]))
    assert counts.lengths.tolist() == [5, 3, 2]
    assert counts.counts.tolist() == [1, 3, 1]
    assert counts.starts.tolist() == [0, 1, 4]
    assert (counts.num_rows, counts.num_tokens) == (5, 16)
    assert counts.every(1).tolist() == [5, 3, 3, 3, 2]
    assert counts.every(2).tolist() == [5, 3, 2]
    assert counts.every(3).tolist() == [5, 3]
    assert counts.every(9).tolist() == [5]


def test_length_counts_of_pairs() -> None:
    """Rows of two sides are sorted by the first, then the second; only rows equal on both sides are counted together."""
    lengths = np.array([[2, 1], [3, 1], [2, 1], [2, 4]])
    counts = LengthCounts.of(lengths)
    assert counts.lengths.tolist() == [[3, 1], [2, 4], [2, 1]]
    assert counts.counts.tolist() == [1, 1, 2]
    assert counts.num_tokens == 3 + 1 + 2 + 4 + 2 * 3
    assert counts.every(2).tolist() == [[3, 1], [2, 1]]
    assert sorted_order(lengths).tolist() == [1, 3, 0, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30) | st.integers(60_000, 300_000), max_size=80), st.integers(1, 9))
def test_length_counts_have_all_sorted_lengths(values: list[int], stride: int) -> None:
    """Every ``stride``-th sorted length, for any lengths."""
    lengths = np.array(values, dtype=np.int64)
    counts = LengthCounts.of(lengths)
    assert counts.every(stride).tolist() == sorted(values, reverse=True)[::stride]
    assert (counts.num_rows, counts.num_tokens) == (len(values), sum(values))
    assert lengths[sorted_order(lengths)].tolist() == sorted(values, reverse=True)
    parts = np.arange(len(values)) * 7_001 % 5 * 20_000  # in any order
    expected = sorted(range(len(values)), key=lambda row: (parts[row], -values[row]))
    assert sorted_within(parts, lengths).tolist() == expected
