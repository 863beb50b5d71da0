"""The order of global batches in mixed plans: fair steps, and similar costs at each turn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.planning.mixed_turns import mixed_turns

quick = settings(max_examples=60, deadline=None)

COSTS = st.lists(st.integers(1, 10_000), max_size=150).map(lambda costs: np.array(costs, dtype=np.int64))


def turns(costs: object, batches_per_step: int, world_size: int, *key: object) -> list[int]:
    """Return the order of global batches with these costs."""
    given = np.array(costs, dtype=np.int64)
    return mixed_turns(given, batches_per_step=batches_per_step, world_size=world_size, key=key or ("key",)).tolist()


def test_two_steps_of_four_global_batches_for_two_ranks() -> None:
    """The worked example: pairs of neighbours are the strata; one step has the cheaper of each, the other the costlier.

    The cheaper ones cost 90, 80, 88 and 70, so 6 and 3 share a turn, and 4 and 1. The costlier ones cost 110, 96, 106 and
    84, so 7 and 2 are, and 5 and 0. The last one fills no step. The order of steps,
    of turns within them, and of ranks is random.
    """
    costs = [110, 90, 96, 80, 88, 106, 70, 84, 50]
    assert turns(costs, 4, 2, 0) == [5, 0, 2, 7, 1, 4, 6, 3, 8]
    assert turns(costs, 4, 2, 1) == [3, 6, 1, 4, 0, 5, 2, 7, 8]
    for seed in range(20):
        found = turns(costs, 4, 2, seed)
        assert found[8:] == [8]
        steps = [{frozenset(step[:2]), frozenset(step[2:])} for step in (found[:4], found[4:8])]
        cheap, dear = {frozenset({6, 3}), frozenset({4, 1})}, {frozenset({7, 2}), frozenset({5, 0})}
        assert steps in ([cheap, dear], [dear, cheap])


def test_short_steps_are_chosen_together() -> None:
    """The worked example: eight steps of two global batches are chosen together and have one of each sixteenth.

    The ninth step has the middle of each half: 4 of 0 to 8, and 13 of 9 to 17.
    """
    found = turns(np.full(18, 100), 2, 2, 5)
    assert sorted(found) == [*range(18)]
    assert sorted(found[16:]) == [4, 13]
    assert all(min(step) < 9 <= max(step) for step in zip(found[::2], found[1::2], strict=True))


@quick
@given(COSTS, st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_a_step_has_a_global_batch_of_each_stratum(
    costs: npt.NDArray[np.int64], world_size: int, accumulate: int, seed: int
) -> None:
    """For any costs, each global batch appears once, and full steps have one of each stratum by length."""
    batches_per_step = world_size * accumulate
    found = turns(costs, batches_per_step, world_size, seed)
    assert sorted(found) == [*range(len(costs))]
    num_steps = len(costs) // batches_per_step
    assert found[num_steps * batches_per_step :] == [*range(num_steps * batches_per_step, len(costs))]
    for step in np.array(found[: num_steps * batches_per_step], dtype=np.int64).reshape(-1, batches_per_step):
        assert sorted(step // num_steps) == [*range(batches_per_step)]


@quick
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 20), st.integers(0, 9))
def test_a_few_short_steps_have_finer_strata(world_size: int, accumulate: int, runs: int, seed: int) -> None:
    """Of steps of fewer than 16 global batches, several consecutive ones have one of each of at least 16 strata."""
    batches_per_step = world_size * accumulate
    at_once = -(-16 // batches_per_step)
    size = batches_per_step * at_once
    costs = np.random.default_rng(seed).integers(1, 1000, size * runs)
    for several in np.reshape(turns(costs, batches_per_step, world_size, seed), (runs, size)):
        assert sorted(several // runs) == [*range(size)]


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (4, 4), (8, 2), (3, 5)])
def test_global_batches_of_a_turn_cost_about_the_same(world_size: int, accumulate: int) -> None:
    """The costliest global batch of a turn exceeds the mean far less than in random order."""
    rng = np.random.default_rng(3)
    costs = rng.integers(600, 1000, 64 * world_size * accumulate + 1)

    def lost(order: object) -> float:
        at_once = costs[np.array(order)][: len(costs) - 1].reshape(-1, world_size)
        return float((at_once.max(axis=1) - at_once.mean(axis=1)).mean())

    random = np.mean([lost(rng.permutation(len(costs))) for _ in range(5)])
    assert lost(turns(costs, world_size * accumulate, world_size)) < 0.4 * random


def test_the_order_depends_on_the_key() -> None:
    """The same key gives the same order, and another key another order, even with equal costs."""
    costs = np.full(64, 100)
    orders = [turns(costs, 4, 4, *key) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 7)]]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == turns(costs.copy(), 4, 4, 0, 0)


def test_every_rank_gets_every_stratum() -> None:
    """Over many steps each rank has about equally many global batches of each stratum."""
    costs = np.random.default_rng(0).integers(600, 1000, 4 * 400)
    of_ranks = np.reshape(turns(costs, 4, 4), (-1, 4)) // 400
    counts = np.array([np.bincount(own, minlength=4) for own in of_ranks.T])
    assert np.abs(counts - 100).max() < 50


def test_without_a_key_the_order_stays() -> None:
    """Without a key, or with fewer global batches than a step has, the order does not change."""
    costs = np.array([5, 9, 1, 7, 3, 3])
    assert mixed_turns(costs, batches_per_step=2, world_size=2, key=None).tolist() == [*range(6)]
    assert turns(costs, 8, 4) == [*range(6)]
    assert turns([], 2, 2) == []


def test_one_rank_has_each_stratum_too() -> None:
    """The worked example of one rank: three global batches a step, one of each third, in any order."""
    found = np.reshape(turns([9, 9, 8, 8, 7, 7], 3, 1), (2, 3))
    assert [sorted(step // 2) for step in found] == [[0, 1, 2]] * 2
