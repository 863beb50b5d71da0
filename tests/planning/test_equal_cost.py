"""Packed rows of equal cost for all ranks at a turn: every row once, how equal costs are, and what is random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.best_fit import pack_rows
from seqstream.planning.equal_cost import TOKEN_COST, equal_cost_order, row_costs
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import Pack
from seqstream.planning.rank_shares import schedule_turns, share_of_rank
from seqstream.shuffling import shuffled

KEY = (0, 0, 17)

some_costs = st.lists(st.integers(1, 20) | st.integers(1, 10**12), max_size=120).map(lambda values: np.array(values, np.int64))
counts = st.integers(1, 6)


def by_rank(order: npt.NDArray[np.int64], rows: int, world_size: int) -> list[list[list[int]]]:
    """Return the rows of each rank at each turn, as `share_of_rank` has them."""
    size = rows * world_size
    steps = [order[begin : begin + size] for begin in range(0, len(order), size)]
    return [[step[rank::world_size].tolist() for rank in range(world_size)] for step in steps]


def costs_of(costs: npt.NDArray[np.int64], steps: list[list[list[int]]]) -> list[list[int]]:
    """Return the cost of each rank at each turn."""
    return [[int(costs[batch].sum()) for batch in step] for step in steps]


def test_eight_rows_by_hand() -> None:
    """Rows of 9 5 4 3 are joined by 1 1 1 2, so batches cost 10, 6, 5 and 5; the two of 5 share a turn."""
    costs = np.array([9, 1, 1, 1, 5, 4, 3, 2])
    steps = by_rank(equal_cost_order(costs, rows=2, world_size=2, key=KEY), 2, 2)
    assert sorted(sorted(step) for step in costs_of(costs, steps)) == [[5, 5], [6, 10]]
    assert sorted(sorted(costs[batch].tolist()) for step in steps for batch in step) == [[1, 4], [1, 5], [1, 9], [2, 3]]


def test_the_order_does_not_change_between_versions() -> None:
    """A state means the same rows in later versions: the same eight rows, and three more."""
    costs = np.array([9, 1, 1, 1, 5, 4, 3, 2, 6, 8, 7])
    assert equal_cost_order(costs, rows=2, world_size=2, key=KEY).tolist() == [4, 6, 5, 8, 0, 7, 2, 9, 3, 10, 1]


def test_three_rows_for_two_ranks() -> None:
    """Too few for a full turn: the costliest row is a batch alone, of the last rank, which gets one row less."""
    costs = np.array([3, 5, 4])
    assert costs_of(costs, by_rank(equal_cost_order(costs, rows=2, world_size=2, key=KEY), 2, 2)) == [[7, 5]]


def test_row_costs_by_hand() -> None:
    """One sequence of 20 costs more attention than two of 10: 400 pairs of tokens, not 200."""
    assert row_costs(np.array([20, 10, 10]), np.array([0, 1, 3])).tolist() == [20 * TOKEN_COST + 400, 20 * TOKEN_COST + 200]
    assert row_costs(np.array([], dtype=np.int64), np.array([0])).tolist() == []


@settings(max_examples=200, deadline=None)
@given(some_costs, counts, counts)
def test_every_row_appears_once(costs: npt.NDArray[np.int64], rows: int, world_size: int) -> None:
    """Even with fewer rows than a turn takes, or none; all batches of full turns have equally many rows."""
    order = equal_cost_order(costs, rows=rows, world_size=world_size, key=KEY)
    assert sorted(order.tolist()) == list(range(len(costs)))
    *full, last = by_rank(order, rows, world_size) or [[]]
    assert {len(batch) for step in full for batch in step} <= {rows}
    sizes = [len(batch) for batch in last]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@settings(max_examples=200, deadline=None)
@given(some_costs, counts, counts)
def test_all_turns_together_are_uneven_by_one_row(costs: npt.NDArray[np.int64], rows: int, world_size: int) -> None:
    """The differences of the costliest and the cheapest batch of all turns add up to no more than that of two rows."""
    full = len(costs) // (rows * world_size)
    steps = costs_of(
        costs, by_rank(equal_cost_order(costs, rows=rows, world_size=world_size, key=KEY), rows, world_size)[:full]
    )
    assert sum(max(step) - min(step) for step in steps) <= (np.ptp(costs) if len(costs) else 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(2, 16), st.integers(4, 20))
def test_costs_are_more_equal_than_in_random_order(seed: int, rows: int, world_size: int, num_steps: int) -> None:
    """With heavy tails the costliest batches of all turns cost less than with rows in random order."""
    size = rows * world_size
    costs = 1 + (1_000 * np.random.default_rng(seed).pareto(1.5, num_steps * size)).astype(np.int64)
    ours = costs_of(costs, by_rank(equal_cost_order(costs, rows=rows, world_size=world_size, key=(seed,)), rows, world_size))
    random = costs_of(costs, by_rank(shuffled(len(costs), seed, "rows"), rows, world_size))
    assert sum(map(max, ours)) <= 1.1 * sum(map(max, random))  # few random orders are better, by chance


def test_the_key_decides() -> None:
    """The same key gives the same order, another key other batches, turns and ranks."""
    for costs in (np.full(60, 7), np.random.default_rng(0).integers(1, 9, 60), np.arange(1, 61)):
        one, again, other = (equal_cost_order(costs, rows=3, world_size=4, key=key).tolist() for key in (KEY, KEY, (0, 1, 17)))
        assert one == again
        assert one != other
        assert one != sorted(one)


def test_the_last_turn_has_rows_of_every_cost() -> None:
    """The rows of the last turn are random: over many keys they have the mean cost of all rows."""
    costs = np.arange(1, 44)
    left = [costs[equal_cost_order(costs, rows=2, world_size=4, key=(seed,))[40:]] for seed in range(400)]
    assert np.mean(left) == pytest.approx(costs.mean(), rel=0.05)


def test_every_rank_has_the_costliest_batch_sometimes() -> None:
    """Which rank takes which batch of a turn is random, and so is the order of turns."""
    costs = np.arange(1, 4 * 300 + 1)
    steps = np.array(costs_of(costs, by_rank(equal_cost_order(costs, rows=1, world_size=4, key=KEY), 1, 4)))
    assert np.bincount(steps.argmax(axis=1), minlength=4).min() > 50
    sums = steps.sum(axis=1)
    assert abs(np.corrcoef(sums[:-1], sums[1:])[0, 1]) < 0.2


# --- In a window ---


@pytest.mark.parametrize("world_size", [1, 8, 64])
def test_ranks_have_as_much_attention_to_compute(world_size: int) -> None:
    """With few long documents the costliest batch of a turn is within 0.5 % of the mean, and rows are equally full."""
    lengths = np.random.default_rng(0).lognormal(4, 1.5, 400 * world_size + 10_000).astype(np.int64)
    lengths = np.clip(lengths, 1, 1024)
    global_plan = Pack(1024, rows=4).plan_global(LengthCounts.of(lengths), key=KEY, world_size=world_size)
    assert len(global_plan.row_cuts) == len(pack_rows(-np.sort(-lengths), 1024)[1])
    steps = schedule_turns(global_plan, 0, world_size)
    costs = row_costs(global_plan.lengths, global_plan.row_cuts)
    shares = [share_of_rank(steps, rank, world_size) for rank in range(world_size)]
    batches = np.stack([np.add.reduceat(costs[share.places], share.cuts[:-1]) for share in shares], axis=1)
    full = batches[steps.sizes == 4 * world_size]
    assert len(full) >= 3
    assert full.max(axis=1).sum() <= 1.005 * full.mean(axis=1).sum()


def test_without_a_key_rows_keep_their_order() -> None:
    """``key=None`` leaves rows as packed: 5 alone, 4 with 2, 3 with 2."""
    global_plan = Pack(6, rows=1).plan_global(LengthCounts.of(np.array([2, 5, 3, 2, 4])), key=None, world_size=2)
    assert global_plan.lengths.tolist() == [5, 4, 2, 3, 2]
    assert global_plan.row_cuts.tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("lengths", [[], [3], [6, 6], [6] * 40], ids=len)
@pytest.mark.parametrize("world_size", [1, 3])
def test_few_rows_and_equal_ones(lengths: list[int], world_size: int) -> None:
    """No row, one row, fewer rows than ranks, equal rows: every sequence appears once."""
    global_plan = Pack(6, rows=2).plan_global(
        LengthCounts.of(np.array(lengths, dtype=np.int64)), key=KEY, world_size=world_size
    )
    assert sorted(global_plan.sequences.tolist()) == list(range(len(lengths)))
    assert global_plan.cuts[-1] == len(lengths)
