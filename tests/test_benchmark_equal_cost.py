"""The tools that measure packed steps are right: the method of Karmarkar and Karp, and windows of many ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from benchmarks.equal_cost import Window
from benchmarks.harness.karmarkar_karp import karmarkar_karp


def test_four_rows_in_two_parts_by_hand() -> None:
    """8 and 7 stand against each other, 6 and 5 too: 8 joins 5, and 7 joins 6."""
    assert sorted(map(sorted, karmarkar_karp([5, 8, 6, 7], 2))) == [[0, 1], [2, 3]]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_parts_have_as_many_rows(num_parts: int, rows: int, data: st.DataObject) -> None:
    """Every row is in one part, and parts differ by no more than two rows do."""
    size = num_parts * rows
    costs = data.draw(st.lists(st.integers(1, 100), min_size=size, max_size=size))
    parts = karmarkar_karp(costs, num_parts)
    assert sorted(row for part in parts for row in part) == list(range(size))
    assert [len(part) for part in parts] == [rows] * num_parts
    sums = [sum(costs[row] for row in part) for part in parts]
    assert max(sums) - min(sums) <= max(costs) - min(costs)


@pytest.fixture(scope="module")
def window() -> Window:
    """A window of four ranks, five steps or so, with long sequences among short ones."""
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 1.2, 5_000).astype(np.int64), 1, 256)
    return Window.of(lengths, ss.Pack(256, rows=4, window_batches=5), 4, 5_000)


def test_a_window_is_as_full_as_its_packing(window: Window) -> None:
    """A window has about the requested number of batches, and dealing rows to ranks keeps their fill."""
    assert 4 <= window.num_full <= 5
    assert window.fill() == window.fill_of_packing() > 0.95
    assert window.tokens.sum() == window.global_plan.lengths.sum()


def test_balancing_leaves_less_to_wait_for(window: Window) -> None:
    """Rows balanced by seqstream and by Karmarkar and Karp, which keeps every row, are better than a random order."""
    peer = window.balanced_by_peer(1)
    assert sorted(peer.tolist()) == sorted(window.balanced_by_peer(window.num_full).tolist()) == list(range(len(peer)))
    ours, stepwise, random = (window.slowest(order) for order in (np.arange(len(peer)), peer, window.chance))
    assert 1 <= ours[1] < random[1]
    assert 1 <= stepwise[1] < random[1]
    assert ours[0] < random[0]
