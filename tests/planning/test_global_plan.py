"""Global plans and the schedules of ranks: shared global batches, and mixed plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.planning.global_plan import GlobalPlan, ListedOrder, split_to_multiple
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.rank_shares import Schedule, owners_of, schedule_turns, share_of_rank
from seqstream.planning.tie_order import SpreadTies

quick = settings(max_examples=80, deadline=None)


def plan_of(
    sizes: Sequence[int], turns: Sequence[int], batches_per_step: int, *, is_mixed: bool = True, max_rows: int = 3
) -> GlobalPlan:
    """Return a plan whose places are row numbers."""
    cuts = np.append(0, np.cumsum(sizes)).astype(np.int64)
    ones = np.ones(len(sizes), dtype=np.int64)
    order = SpreadTies.of(np.array([cuts[-1]]), None)
    return GlobalPlan(order, cuts, np.array(turns), max_rows * ones, ones, batches_per_step=batches_per_step, is_mixed=is_mixed)


def listed(schedule: Schedule) -> list[tuple[list[tuple[int, int, int]], int, int]]:
    """Return for each turn the global batch, first place and size of its parts; the places served after it; and its step."""
    parts = [*zip(schedule.global_batches.tolist(), schedule.first_places.tolist(), schedule.sizes.tolist(), strict=True)]
    at_once = [parts[at : at + schedule.parts_per_turn] for at in range(0, len(parts), schedule.parts_per_turn)]
    return [*zip(at_once, schedule.served_after.tolist(), schedule.step_numbers.tolist(), strict=True)]


@pytest.fixture
def six() -> GlobalPlan:
    """Global batches of 2 to 7 rows; the first step has the global batches 3, 0, 5 and 1, the second 4 and 2."""
    return plan_of([2, 3, 4, 5, 6, 7], [3, 0, 5, 1, 4, 2], 4)


# --- Splitting global batches ---


def test_global_batches_are_split_in_halves() -> None:
    """The worked example: global batches of four, one and four rows become four, five and seven."""
    cuts = np.array([0, 4, 5, 9])
    assert split_to_multiple(cuts, 1).tolist() == split_to_multiple(cuts, 3).tolist() == [0, 4, 5, 9]
    assert split_to_multiple(cuts, 4).tolist() == [0, 2, 4, 5, 9]
    assert split_to_multiple(cuts, 5).tolist() == [0, 2, 4, 5, 7, 9]
    assert split_to_multiple(cuts, 7).tolist() == [0, 1, 2, 4, 5, 6, 7, 9], "first all of several rows, then some of the halves"
    assert split_to_multiple(np.array([0, 3, 6, 9, 12, 15]), 7).tolist() == [0, 2, 3, 6, 8, 9, 12, 15], "evenly apart"


def test_what_cannot_be_split_stays() -> None:
    """Global batches of one row stay as they are, even if they are too few; and so does an empty plan."""
    assert split_to_multiple(np.array([0, 1, 2]), 4).tolist() == [0, 1, 2]
    assert split_to_multiple(np.array([0, 1, 3]), 4).tolist() == [0, 1, 2, 3]
    assert split_to_multiple(np.array([0]), 4).tolist() == [0]


@quick
@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 40))
def test_splitting_adds_the_fewest_cuts(sizes: list[int], multiple: int) -> None:
    """The number of global batches is a multiple, or all have one row; old cuts stay, and the fewest are added."""
    cuts = np.append(0, np.cumsum(sizes)).astype(np.int64)
    found = split_to_multiple(cuts, multiple)
    assert set(cuts.tolist()) <= set(found.tolist())
    assert (np.diff(found) >= 1).all()
    assert len(found) - 1 == min(-(-len(sizes) // multiple) * multiple, sum(sizes))


# --- Turns of mixed plans ---


def test_each_rank_takes_its_own_global_batches(six: GlobalPlan) -> None:
    """The worked example: two ranks take two global batches a turn; the first step has four of them, the last two."""
    schedule = schedule_turns(six, 0, 2)
    assert listed(schedule) == [
        ([(3, 9, 5), (0, 0, 2)], 7, 0),
        ([(5, 20, 7), (1, 2, 3)], 17, 0),
        ([(4, 14, 6), (2, 5, 4)], 27, 1),
    ]
    assert schedule.ends_step.tolist() == [False, True, True]
    assert six.num_steps == 2


def test_the_last_global_batches_of_a_step_are_split(six: GlobalPlan) -> None:
    """The worked example: for three ranks the fourth global batch is split in thirds, and the larger of two in halves."""
    schedule = schedule_turns(six, 0, 3)
    assert listed(schedule) == [
        ([(3, 9, 5), (0, 0, 2), (5, 20, 7)], 14, 0),
        ([(1, 2, 1), (1, 3, 1), (1, 4, 1)], 17, 0),
        ([(4, 14, 3), (4, 17, 3), (2, 5, 4)], 27, 1),
    ]
    assert schedule.is_repeated is None


def test_the_global_batch_with_the_most_rows_a_part_is_split() -> None:
    """The worked example: for five ranks nine rows are split in thirds; then four rows are more than three, and split."""
    schedule = schedule_turns(plan_of([4, 9], [1, 0], 2), 0, 5)
    assert listed(schedule) == [([(1, 4, 3), (1, 7, 3), (1, 10, 3), (0, 0, 2), (0, 2, 2)], 13, 0)]


def test_one_rank_takes_one_global_batch_after_the_other(six: GlobalPlan) -> None:
    """One rank takes one global batch a turn, and steps end at the same global batches."""
    schedule = schedule_turns(six, 0, 1)
    assert [parts for parts, _, _ in listed(schedule)] == [
        [(3, 9, 5)],
        [(0, 0, 2)],
        [(5, 20, 7)],
        [(1, 2, 3)],
        [(4, 14, 6)],
        [(2, 5, 4)],
    ]
    assert schedule.step_numbers.tolist() == [0, 0, 0, 0, 1, 1]
    assert schedule.ends_step.tolist() == [False, False, False, True, False, True]


def test_other_ranks_resume_within_a_step(six: GlobalPlan) -> None:
    """The worked example: after two global batches three ranks take the rest of the step, 7 and 3 rows; after three, two."""
    assert listed(schedule_turns(six, 7, 3))[0] == ([(5, 20, 4), (5, 24, 3), (1, 2, 3)], 17, 0)
    assert listed(schedule_turns(six, 14, 2))[0] == ([(1, 2, 2), (1, 4, 1)], 17, 0)
    assert listed(schedule_turns(six, 16, 1))[0] == ([(1, 4, 1)], 17, 0), "the rest of a global batch"
    assert listed(schedule_turns(six, 17, 2)) == [([(4, 14, 6), (2, 5, 4)], 27, 1)]
    assert listed(schedule_turns(six, 27, 2)) == []


def test_ranks_without_rows_repeat_those_of_another(six: GlobalPlan) -> None:
    """The worked example: of three rows for five ranks, the last two ranks repeat those of the first and the second."""
    schedule = schedule_turns(six, 14, 5)
    assert listed(schedule)[0] == ([(1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 2, 1), (1, 3, 1)], 17, 0)
    assert schedule.is_repeated is not None
    assert np.flatnonzero(schedule.is_repeated).tolist() == [3, 4]
    assert [share_of_rank(schedule, rank, 5).is_repeated[0] for rank in range(5)] == [False, False, False, True, True]
    rank, part = owners_of(schedule, np.arange(2, 5), 5)
    assert rank.tolist() == part.tolist() == [0, 1, 2]


def test_too_few_rows_for_the_ranks_are_dropped(six: GlobalPlan) -> None:
    """With ``uneven="drop"`` the three rows are left out and counted; the next step does not change."""
    schedule = schedule_turns(six, 14, 5, "drop")
    assert schedule.num_dropped == 3
    assert [(after, number) for _, after, number in listed(schedule)] == [(27, 1)]
    assert schedule.sizes.sum() == 10
    assert (owners_of(schedule, np.arange(2, 5), 5)[0] == -1).all()


@st.composite
def plans(draw: st.DrawFn) -> GlobalPlan:
    """Draw plans of either kind, with global batches and rows in any order."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=14))
    turns = draw(st.permutations(range(len(sizes))))
    global_plan = plan_of(sizes, turns, draw(st.integers(1, 6)), is_mixed=draw(st.booleans()), max_rows=draw(st.integers(1, 4)))
    return dataclasses.replace(global_plan, order=ListedOrder(np.array(draw(st.permutations(range(sum(sizes)))))))


@quick
@given(plans(), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(["repeat", "drop"]), st.data())
def test_every_place_is_taken_once(global_plan: GlobalPlan, world_sizes: list[int], uneven: Any, data: st.DataObject) -> None:
    """Any ranks resume anywhere: exactly one rank takes each place left, in the step of its global batch."""
    sizes = np.diff(global_plan.cuts)
    step_of_global_batch = np.empty(len(sizes), dtype=np.int64)
    step_of_global_batch[global_plan.turns] = np.arange(len(sizes)) // global_plan.batches_per_step
    step_of_place = np.repeat(step_of_global_batch, sizes)
    by_turn = np.concatenate([np.arange(*global_plan.cuts[turn : turn + 2]) for turn in global_plan.turns])
    served = 0
    for world_size in world_sizes:
        schedule = schedule_turns(global_plan, served, world_size, uneven)
        shares = [share_of_rank(schedule, rank, world_size) for rank in range(world_size)]
        taken = np.concatenate([share.places[~share.is_repeated] for share in shares])
        assert len(set(taken.tolist())) == len(taken)
        assert set(taken.tolist()) <= set(by_turn[served:].tolist())
        assert len(taken) + schedule.num_dropped == len(by_turn) - served
        assert uneven == "drop" or not schedule.num_dropped
        receivers, parts = owners_of(schedule, np.arange(len(by_turn)), world_size)
        for rank, share in enumerate(shares):
            assert (np.diff(share.cuts) > 0).all(), "no rank is without rows"
            at = np.repeat(np.arange(len(schedule)), np.diff(share.cuts))
            late = step_of_place[share.places] - schedule.step_numbers[at]
            assert (late >= 0).all()
            assert uneven == "drop" or not late.any(), "in the optimiser step of its global batch"
            assert sorted(share.places[~share.is_repeated]) == np.flatnonzero(receivers == rank).tolist()
            own = share.places[~share.is_repeated]
            assert (parts[own] // schedule.parts_per_turn == at[~share.is_repeated]).all()
        assert (np.diff(schedule.step_numbers) >= 0).all()
        if not len(schedule):
            return
        served = int(schedule.served_after[data.draw(st.integers(0, len(schedule) - 1))])


@quick
@given(plans(), st.integers(1, 5))
def test_planned_for_as_many_ranks_steps_have_whole_global_batches(global_plan: GlobalPlan, world_size: int) -> None:
    """Where a step of a mixed plan has a multiple of the ranks, no global batch of a full step is split."""
    global_plan = dataclasses.replace(global_plan, is_mixed=True, batches_per_step=world_size * global_plan.batches_per_step)
    schedule = schedule_turns(global_plan, 0, world_size)
    full = len(global_plan) // global_plan.batches_per_step * global_plan.batches_per_step
    assert schedule.global_batches[:full].tolist() == global_plan.turns[:full].tolist()
    assert schedule.sizes[:full].tolist() == np.diff(global_plan.cuts)[global_plan.turns[:full]].tolist()


# --- Unfinished steps ---


def test_served_places_of_an_unfinished_step(six: GlobalPlan) -> None:
    """The worked example: the served places of an unfinished step, in the order of serving; none at its beginning."""
    assert six.begun_places(0).tolist() == []
    assert six.begun_places(3).tolist() == [9, 10, 11]
    assert six.begun_places(7).tolist() == [9, 10, 11, 12, 13, 0, 1]
    assert six.begun_places(16).tolist() == [9, 10, 11, 12, 13, 0, 1, *range(20, 27), 2, 3]
    assert six.begun_places(17).tolist() == []
    assert six.begun_places(20).tolist() == [14, 15, 16]


@quick
@given(plans(), st.integers(1, 5), st.integers(1, 5))
def test_served_places_and_the_rest_are_the_step(global_plan: GlobalPlan, first: int, other: int) -> None:
    """In any step, the places that some ranks have served and those that others take are its global batches."""
    by_turn = [set(range(*global_plan.cuts[turn : turn + 2].tolist())) for turn in global_plan.turns.tolist()]
    for served in schedule_turns(global_plan, 0, first).served_after[:-1].tolist():
        begun = global_plan.begun_places(served).tolist()
        schedule = schedule_turns(global_plan, served, other)
        number = int(schedule.step_numbers[0])
        rest = {
            place
            for rank in range(other)
            for share in [share_of_rank(schedule, rank, other)]
            for place in share.places[: share.cuts[int((schedule.step_numbers == number).sum())]].tolist()
        }
        whole = by_turn[number * global_plan.batches_per_step : (number + 1) * global_plan.batches_per_step]
        assert len(set(begun)) == len(begun)
        assert set(begun).isdisjoint(rest)
        assert set(begun) | rest == set().union(*whole)


def test_own_rows_at_some_places() -> None:
    """The worked example: the rows of a rank that lie at the places, with all their tokens."""
    global_plan = dataclasses.replace(plan_of([2, 3], [0, 1], 1), order=ListedOrder(np.array([3, 0, 4, 1, 2])))
    which, begins, lengths = global_plan.own_items(np.array([0, 2, 3]), np.array([0, 3, 4]))  # rows 3, 1 and 2
    assert which.tolist() == [1, 2]
    assert begins.tolist() == [0, 0]
    assert (lengths > 1 << 60).all()
    assert global_plan.own_items(np.array([], dtype=np.int64), np.array([0]))[0].tolist() == []


def test_own_pieces_at_some_places() -> None:
    """The worked example: nine tokens and one in rows of four; the piece of one token and the short sequence share a row."""
    global_plan = ss.Pack(4, rows=1, overflow="split").plan_global(LengthCounts.of(np.array([9, 1])), key=None, world_size=2)

    def items(numbers: list[int], places: list[int]) -> list[list[int]]:
        return [found.tolist() for found in global_plan.own_items(np.array(numbers), np.array(places))]

    assert items([0, 1], [2]) == [[0, 1], [8, 0], [1, 1]]
    assert items([1], [2]) == [[0], [0], [1]]
    assert items([1], [0, 1]) == [[], [], []]
    assert items([0], [1, 0]) == [[0, 0], [0, 4], [4, 4]]


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.sampled_from(["truncate", "split"]), st.integers(0, 9))
def test_own_pieces_of_all_ranks_are_all_items(lengths: list[int], overflow: Any, seed: int) -> None:
    """For any rows of ranks: over all ranks and global batches of packed rows, each item appears once."""
    spec = ss.Pack(8, rows=2, overflow=overflow)
    global_plan = spec.plan_global(LengthCounts.of(np.array(lengths)), key=(seed,), world_size=1, accumulate=2)
    has = np.random.default_rng(seed).integers(0, 3, len(lengths))
    ordered = np.sort(lengths)[::-1]
    total = 0
    for turn in range(len(global_plan)):
        global_batch = int(global_plan.turns[turn])
        places = np.arange(*global_plan.cuts[global_batch : global_batch + 2])
        found: list[int] = []
        for rank in range(3):
            own = np.flatnonzero(has == rank)
            which, begins, taken = global_plan.own_items(own, places)
            found += own[which].tolist()
            assert (begins + taken <= ordered[own[which]]).all()
            total += int(taken.sum())
        assert sorted(found) == sorted(global_plan.row_numbers(places).tolist())
    assert total == (sum(lengths) if overflow == "split" else int(np.minimum(ordered, 8).sum()))
