"""The order of a window's rows: longest first, equal lengths spread out."""

from __future__ import annotations

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.tie_order import SpreadTies, longest_first


def runs_of(lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each length in their new order."""
    ordered = lengths[order]
    return np.split(order, np.flatnonzero(np.diff(ordered)) + 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30) | st.integers(60_000, 200_000), max_size=200), st.none() | st.integers())
def test_rows_are_longest_first(values: list[int], seed: int | None) -> None:
    """Every row once, lengths descending, whatever the lengths and the key."""
    lengths = np.array(values, dtype=np.int64)
    order = longest_first(lengths, None if seed is None else (seed, 0))
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(values)))
    assert (np.diff(lengths[order]) <= 0).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5) | st.integers(0, 100_000), max_size=200))
def test_without_a_key_equal_lengths_keep_their_order(values: list[int]) -> None:
    """Without a key, rows of equal length keep the order of the source."""
    lengths = np.array(values, dtype=np.int64)
    order = longest_first(lengths, None)
    assert order.tolist() == sorted(range(len(values)), key=lambda row: -values[row])


@pytest.mark.parametrize("size", [200, 1000, 1024, 5040, 20_000])
@pytest.mark.parametrize("size_of_part", [16, 64])
def test_any_part_of_a_run_takes_rows_from_everywhere(size: int, size_of_part: int) -> None:
    """Between consecutive rows of one length no gap is over six times the mean gap of their positions."""
    for seed in range(40):
        order = longest_first(np.full(size, 9), (seed, "window"))
        for begin in (0, size // 3, size - size_of_part):
            taken = np.sort(order[begin : begin + size_of_part])
            gaps = np.diff(taken, append=taken[0] + size)
            assert gaps.max() <= 6 * size / size_of_part, (seed, begin)


def test_runs_between_others_are_spread_out_too() -> None:
    """Each run is spread out by itself, wherever its rows are."""
    lengths = np.random.default_rng(0).choice([3, 5, 9], 3000)
    for run in runs_of(lengths, longest_first(lengths, (1,))):
        for begin in range(0, len(run) - 40, 100):
            eighths = np.bincount(run[begin : begin + 40] * 8 // 3000, minlength=8)
            assert eighths.min() >= 2


def test_keys_spread_equal_lengths_differently() -> None:
    """Another seed, epoch or window gives other neighbours, not only another first row."""
    orders = [longest_first(np.full(1000, 4), (seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len({tuple(order.tolist()) for order in orders}) == 25
    steps = {int((order[1] - order[0]) % 1000) for order in orders}
    assert len(steps) >= 15
    assert longest_first(np.full(1000, 4), (3, 4)).tolist() == orders[-6].tolist()


def test_runs_of_one_window_are_spread_differently() -> None:
    """Two runs of equal size do not share their order."""
    first, second = runs_of(np.repeat([8, 7], 500), longest_first(np.repeat([8, 7], 500), (1,)))
    assert first.tolist() != (second - 500).tolist()


def test_an_order_does_not_change_between_versions() -> None:
    """A state means the same rows in later versions."""
    lengths = np.array([2, 5, 2, 2, 5, 2, 7, 2, 2, 2, 2])
    assert longest_first(lengths, None).tolist() == [6, 1, 4, 0, 2, 3, 5, 7, 8, 9, 10]
    assert longest_first(lengths, (0, 0, 3)).tolist() == [6, 4, 1, 8, 3, 10, 7, 2, 9, 5, 0]


def test_a_window_of_many_lengths_is_ordered_fast() -> None:
    """A third of a million rows take well under a second."""
    lengths = np.random.default_rng(0).geometric(0.003, 300_000)
    begin = time.perf_counter()
    longest_first(lengths, (0,))
    assert time.perf_counter() - begin < 2


def test_no_rows_have_an_empty_order() -> None:
    """An empty window is fine."""
    assert longest_first(np.array([], dtype=np.int64), (0,)).tolist() == []
    assert longest_first(np.array([], dtype=np.int64), None).dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=20), st.none() | st.integers())
def test_places_of_rows_are_the_inverse(sizes: list[int], seed: int | None) -> None:
    """Rows are spread out within their run only, each at one place, and `places_of` is the inverse of `rows_at`."""
    spread_ties = SpreadTies.of(np.array(sizes, dtype=np.int64), None if seed is None else (seed,))
    places = np.arange(sum(sizes))
    rows = spread_ties.rows_at(places)
    assert sorted(rows.tolist()) == places.tolist()
    run = np.repeat(np.arange(len(sizes)), sizes)
    assert run[rows].tolist() == run.tolist()
    assert spread_ties.places_of(rows).tolist() == places.tolist()


@pytest.mark.parametrize("size", [1 << 20, (1 << 26) - 1, 1 << 26, 1 << 29])
def test_places_in_long_runs_are_exact(size: int) -> None:
    """They are what whole numbers of any size give, whether places ascend or not, where products exceed 2^53 too."""
    spread_ties = SpreadTies.of(np.array([3, size]), (1,))
    stride, offset = int(spread_ties.strides[1]), int(spread_ties.offsets[1])
    places = np.append(np.arange(0, size, size // 97), size - 1)
    expected = [3 + (stride * place + offset) % size for place in places.tolist()]
    assert spread_ties.rows_at(3 + places).tolist() == expected
    assert spread_ties.rows_at(3 + places[::-1]).tolist() == expected[::-1]
    assert spread_ties.places_of(np.array(expected)).tolist() == (3 + places).tolist()


def test_spread_ties_do_not_change_between_versions() -> None:
    """A state means the same rows in later versions, in both directions."""
    spread_ties = SpreadTies.of(np.array([1, 7, 5]), (0, 0, 3))
    rows = spread_ties.rows_at(np.arange(13)).tolist()
    assert spread_ties.places_of(np.array(rows)).tolist() == [*range(13)]
    assert rows[0] == 0
    assert len({(late - early) % 7 for early, late in itertools.pairwise(rows[1:8])}) == 1, "one stride"
