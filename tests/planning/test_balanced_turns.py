"""Herding: examples by hand, properties of every order, and how much nearer the mean it stays than a random order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.balanced_turns import balanced_turns, scaled
from seqstream.shuffling import EvenOrder, shuffled

KEY = (0, 0, 17)
UNIT = 1 << 16

Counts = npt.NDArray[np.int64]

some_counts = st.tuples(st.integers(0, 50), st.integers(1, 5), st.integers(0, 2**32)).map(
    lambda given: heavy_tailed(given[0], given[1], given[2])
)


def heavy_tailed(num: int, width: int, seed: int) -> Counts:
    """Return counts with heavy tails: a few are many times the mean."""
    return (20 * np.random.default_rng(seed).pareto(1.5, (num, width))).astype(np.int64)


def distance(features: Counts, turns: Counts) -> float:
    """Return the mean over all ``n`` of the squared distance of the sum of the first ``n`` units from ``n`` times the mean."""
    sums = np.cumsum((features - features.mean(axis=0))[turns], axis=0)
    return float((sums**2).sum(axis=1).mean())


def test_four_units_by_hand() -> None:
    """With all as candidates: 9 is nearest the mean of 10, then 12 makes 21 of 20, then 4 is 5 short, and 15 makes it up."""
    features = np.array([[15], [12], [9], [4]])
    for key in (KEY, (1,), (2,)):
        assert balanced_turns(features, key, parts=1).tolist() == [2, 1, 3, 0]


def test_two_features_by_hand() -> None:
    """The unit at the mean is first; units that are above the mean in one feature and below it in the other follow."""
    features = np.array([[0, 6], [3, 3], [6, 0]])
    first, *others = balanced_turns(features, KEY, parts=1).tolist()
    assert first == 1
    assert sorted(others) == [0, 2]


def test_the_order_does_not_change_between_versions() -> None:
    """A state means the same batches in later versions."""
    turns = balanced_turns(scaled(heavy_tailed(24, 3, 0)), KEY)
    assert turns.tolist() == [22, 9, 12, 4, 19, 8, 16, 0, 23, 10, 13, 5, 18, 6, 15, 1, 21, 11, 14, 3, 20, 7, 17, 2]


@settings(max_examples=100, deadline=None)
@given(some_counts, st.integers(1, 60), st.integers(1, 20))
def test_every_unit_appears_once(counts: Counts, candidates: int, parts: int) -> None:
    """Even without units, or with fewer than candidates; the same key gives the same order, for any order of the features."""
    features = scaled(counts)
    turns = balanced_turns(features, KEY, candidates, parts)
    assert sorted(turns.tolist()) == list(range(len(counts)))
    assert balanced_turns(features[:, ::-1], KEY, candidates, parts).tolist() == turns.tolist(), "sums are exact"


@settings(max_examples=50, deadline=None)
@given(st.integers(60, 300), st.integers(1, 6), st.integers(0, 2**32))
def test_sums_stay_nearer_the_mean_than_by_chance(num: int, width: int, seed: int) -> None:
    """On heavy tails too: the squares are less than those of random orders, over a few keys."""
    features = scaled(heavy_tailed(num, width, seed))
    ours = np.mean([distance(features, balanced_turns(features, (key,))) for key in range(8)])
    random = np.mean([distance(features, shuffled(num, key)) for key in range(8)])
    assert ours < random


def test_more_candidates_follow_the_mean_more_closely() -> None:
    """With one candidate it is the even order itself; with sixteen, the mean square is at most an eighth."""
    features = scaled(heavy_tailed(400, 4, 1))
    found = [np.mean([distance(features, balanced_turns(features, (key,), num)) for key in range(6)]) for num in (1, 4, 16)]
    assert found[0] > 5 * found[1]
    assert found[1] > found[2]
    assert found[0] > 8 * found[2]
    assert balanced_turns(features, KEY, 1).tolist() == EvenOrder(400, *KEY, rotated=False).between(0, 400).tolist()


def test_lengths_stay_as_even_as_without_features() -> None:
    """Eight consecutive units are one of each eighth by length; only eight units are in the even order."""
    turns = balanced_turns(scaled(heavy_tailed(800, 4, 2)), KEY)
    assert all(sorted((turns[begin : begin + 8] // 100).tolist()) == [*range(8)] for begin in range(0, 800, 8))
    few = balanced_turns(scaled(heavy_tailed(8, 4, 2)), KEY)
    assert few.tolist() == EvenOrder(8, *KEY, rotated=False).between(0, 8).tolist()


def test_the_key_decides() -> None:
    """Another key gives another order, even for equal units, and a random first eighth."""
    features = np.zeros((50, 2), dtype=np.int64)
    turns = [balanced_turns(features, (key,)).tolist() for key in range(100)]
    assert len(set(map(tuple, turns))) > 90
    assert {own[0] * 8 // 50 for own in turns} == {*range(8)}


def test_scaled_counts_by_hand() -> None:
    """One column of variance 1; two of variance 1 each, so 2 together; constant columns; large numbers."""
    assert scaled(np.array([[1], [3]])).tolist() == [[-UNIT], [UNIT]]
    assert scaled(np.array([[0, 5], [2, 7]])).tolist() == [[-46341, -46341], [46341, 46341]]
    assert scaled(np.array([[5, 1]] * 3)).tolist() == [[0, 0]] * 3
    assert scaled(np.array([[0], [1 << 30]])).tolist() == [[-UNIT], [UNIT]]
    assert scaled(np.empty((0, 3), dtype=np.int64)).shape == (0, 3)


@settings(max_examples=100, deadline=None)
@given(some_counts, st.sampled_from([1, 1000, 10**7]))
def test_scaled_counts_vary_by_one_together(counts: Counts, factor: int) -> None:
    """Any counts have variance 1 together; equal counts are 0."""
    found = scaled(counts * factor)
    variance = float((found.astype(np.float64) ** 2).sum() / max(1, len(counts))) / UNIT**2
    if len(counts) and np.ptp(counts, axis=0).any():
        assert variance == pytest.approx(1, rel=1e-3)
        assert abs(found.mean(axis=0)).max() < 1e-3 * UNIT
    else:
        assert variance == 0
