"""The order of groups of which each rank takes its own: fair steps, and like costs of what ranks take at once."""

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
    """Order groups by the costs that they have."""
    given = np.array(costs, dtype=np.int64)
    return mixed_turns(given, batches_per_step=batches_per_step, world_size=world_size, key=key or ("key",)).tolist()


def test_two_steps_of_four_groups_for_two_ranks() -> None:
    """The worked example: pairs of neighbours are the strata; one step has the cheaper of each, the other the dearer.

    The cheaper ones cost 90, 80, 88 and 70, so 6 and 3 are taken at once, and 4 and 1. The dearer ones cost 110, 96, 106 and
    84, so 7 and 2 are, and 5 and 0. The last group fills no step. Chance orders steps, what is in them, and who takes which.
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


def test_a_step_of_few_groups_is_made_with_others() -> None:
    """The worked example: steps of two groups are made eight at a time, and those eight have one of each sixteenth.

    Of nine steps one is left, which has a group of the middle of either half: 4 of 0 to 8, and 13 of 9 to 17.
    """
    found = turns(np.full(18, 100), 2, 2, 5)
    assert sorted(found) == [*range(18)]
    assert sorted(found[16:]) == [4, 13]
    assert all(min(step) < 9 <= max(step) for step in zip(found[::2], found[1::2], strict=True))


@quick
@given(COSTS, st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_a_step_has_a_group_of_each_stratum(costs: npt.NDArray[np.int64], world_size: int, accumulate: int, seed: int) -> None:
    """Whatever groups cost, each comes once, and full steps have one of each of as many equal parts, by length."""
    batches_per_step = world_size * accumulate
    found = turns(costs, batches_per_step, world_size, seed)
    assert sorted(found) == [*range(len(costs))]
    num_steps = len(costs) // batches_per_step
    assert found[num_steps * batches_per_step :] == [*range(num_steps * batches_per_step, len(costs))]
    for step in np.array(found[: num_steps * batches_per_step], dtype=np.int64).reshape(-1, batches_per_step):
        assert sorted(step // num_steps) == [*range(batches_per_step)]


@quick
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 20), st.integers(0, 9))
def test_a_few_small_steps_have_a_group_of_finer_strata(world_size: int, accumulate: int, runs: int, seed: int) -> None:
    """Steps of fewer than 16 groups follow each other so that several, 16 groups or just more, are of as many strata."""
    batches_per_step = world_size * accumulate
    at_once = -(-16 // batches_per_step)
    size = batches_per_step * at_once
    costs = np.random.default_rng(seed).integers(1, 1000, size * runs)
    for several in np.reshape(turns(costs, batches_per_step, world_size, seed), (runs, size)):
        assert sorted(several // runs) == [*range(size)]


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (4, 4), (8, 2), (3, 5)])
def test_groups_taken_at_once_cost_about_the_same(world_size: int, accumulate: int) -> None:
    """The dearest of those that ranks take at once costs far less over the mean than if they were dealt at random."""
    rng = np.random.default_rng(3)
    costs = rng.integers(600, 1000, 64 * world_size * accumulate + 1)

    def lost(order: object) -> float:
        at_once = costs[np.array(order)][: len(costs) - 1].reshape(-1, world_size)
        return float((at_once.max(axis=1) - at_once.mean(axis=1)).mean())

    dealt = np.mean([lost(rng.permutation(len(costs))) for _ in range(5)])
    assert lost(turns(costs, world_size * accumulate, world_size)) < 0.4 * dealt


def test_chance_depends_on_the_key() -> None:
    """The same key gives the same order at any time, and each other key another one, also where all costs are the same."""
    costs = np.full(64, 100)
    orders = [turns(costs, 4, 4, *key) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 7)]]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == turns(costs.copy(), 4, 4, 0, 0)


def test_every_rank_gets_every_kind_of_group() -> None:
    """Over many steps each rank has about as many groups of each stratum as any other."""
    costs = np.random.default_rng(0).integers(600, 1000, 4 * 400)
    of_ranks = np.reshape(turns(costs, 4, 4), (-1, 4)) // 400
    counts = np.array([np.bincount(own, minlength=4) for own in of_ranks.T])
    assert np.abs(counts - 100).max() < 50


def test_without_a_key_groups_stay() -> None:
    """Without chance, or with fewer groups than a step has, groups are served as they are."""
    costs = np.array([5, 9, 1, 7, 3, 3])
    assert mixed_turns(costs, batches_per_step=2, world_size=2, key=None).tolist() == [*range(6)]
    assert turns(costs, 8, 4) == [*range(6)]
    assert turns([], 2, 2) == []


def test_one_rank_has_a_group_of_each_stratum_as_well() -> None:
    """The worked example of one rank: three groups a step, one of each third, in any order."""
    found = np.reshape(turns([9, 9, 8, 8, 7, 7], 3, 1), (2, 3))
    assert [sorted(step // 2) for step in found] == [[0, 1, 2]] * 2
