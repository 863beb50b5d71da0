"""Schedules: the turns of a window for any number of ranks, and the share of each rank."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.plan import MADE_UP
from seqstream.planning.rank_shares import Schedule, owners_of, schedule_turns, share_of_rank
from tests.helpers.rank_corpora import any_spec
from tests.helpers.rank_plans import LENGTHS, plan_global, plan_of

quick = settings(max_examples=60, deadline=None)


def listed_parts(schedule: Schedule) -> list[tuple[int, int, int]]:
    """Return global batch, first place and size of each part."""
    return [*zip(schedule.global_batches.tolist(), schedule.first_places.tolist(), schedule.sizes.tolist(), strict=True)]


def listed(schedule: Schedule) -> list[tuple[int, int, int, int]]:
    """Return global batch, first place, size, and places served after it, of each turn."""
    return [
        *zip(
            *(getattr(schedule, name).tolist() for name in ("global_batches", "first_places", "sizes", "served_after")),
            strict=True,
        )
    ]


def test_a_turn_of_each_global_batch() -> None:
    """The worked example: for the two ranks of the plan each global batch is one turn."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(schedule_turns(global_plan, 0, 2)) == [(1, 4, 6, 6), (0, 0, 4, 10)]


def test_fewer_ranks_take_a_global_batch_in_several_turns() -> None:
    """One rank takes several turns, as the most rows of a batch require, of even sizes, the larger first."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(schedule_turns(global_plan, 0, 1)) == [(1, 4, 3, 3), (1, 7, 3, 6), (0, 0, 2, 8), (0, 2, 2, 10)]
    uneven = plan_of([0, 7], [0], [2])
    assert listed(schedule_turns(uneven, 0, 1)) == [(0, 0, 2, 2), (0, 2, 2, 4), (0, 4, 2, 6), (0, 6, 1, 7)]


def test_more_ranks_take_a_whole_global_batch() -> None:
    """No part reaches beyond its global batch, so its lengths are similar."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(schedule_turns(global_plan, 0, 5)) == [(1, 4, 6, 6), (0, 0, 4, 10)]


def test_served_places_are_left_out() -> None:
    """After five places the schedule begins within a global batch, after a whole one with the next."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(schedule_turns(global_plan, 5, 1)) == [(1, 9, 1, 6), (0, 0, 2, 8), (0, 2, 2, 10)]
    assert listed(schedule_turns(global_plan, 6, 4)) == [(0, 0, 4, 10)]
    assert listed(schedule_turns(global_plan, 10, 2)) == []


def test_turns_of_too_few_rows_are_dropped() -> None:
    """With ``uneven="drop"`` a turn of fewer places than ranks is left out and counted; with one rank none is."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    schedule = schedule_turns(global_plan, 5, 4, "drop")
    assert (listed(schedule), schedule.num_dropped) == ([(0, 0, 4, 10)], 1)
    one = schedule_turns(global_plan, 0, 11, "drop")
    assert (listed(one), one.num_dropped) == ([], 10)
    assert schedule_turns(plan_of([0, 1], [0], [2]), 0, 1, "drop").num_dropped == 0


def test_short_global_batches_are_taken_together() -> None:
    """Where dropped turns would leave out as many rows as there are ranks, each rank takes the next batch instead."""
    global_plan = plan_of([0, 3, 6, 9], [1, 0, 2], [1, 1, 1])  # planned for three ranks, one row each
    schedule = schedule_turns(global_plan, 0, 4, "drop")
    assert (schedule.parts_per_turn, schedule.served_after.tolist(), schedule.num_dropped) == (4, [4, 8], 1)
    assert listed_parts(schedule) == [(1, 3, 1), (1, 4, 1), (1, 5, 1), (0, 0, 1), (0, 1, 1), (0, 2, 1), (2, 6, 1), (2, 7, 1)]
    rest = schedule_turns(global_plan, 4, 4, "drop")
    assert listed_parts(rest) == listed_parts(schedule)[4:], "the same after an interruption"
    fewer = schedule_turns(plan_of([0, 4, 8], [0, 1], [1, 1]), 0, 3, "drop")
    assert (fewer.served_after.tolist(), fewer.num_dropped) == ([3, 6], 2)
    assert schedule_turns(global_plan, 0, 4, "repeat").num_dropped == 0


@quick
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(2, 6),
    st.integers(1, 4),
    st.booleans(),
    st.data(),
)
def test_few_rows_are_dropped(sizes: list[int], world_size: int, max_rows: int, is_mixed: bool, data: st.DataObject) -> None:
    """Of any plan, fewer than twice as many rows as ranks are dropped, and after an interruption the schedule is the same."""
    cuts = [0, *np.cumsum(sizes).tolist()]
    global_plan = dataclasses.replace(plan_of(cuts, range(len(sizes)), [max_rows] * len(sizes)), is_mixed=is_mixed)
    if is_mixed:
        global_plan = dataclasses.replace(global_plan, max_rows=np.array(sizes))
    schedule = schedule_turns(global_plan, 0, world_size, "drop")
    assert schedule.num_dropped < 2 * world_size
    assert schedule.sizes.sum() + schedule.num_dropped == cuts[-1]
    assert (schedule.rows_per_turn >= world_size).all()
    if len(schedule):
        number = data.draw(st.integers(0, len(schedule) - 1))
        rest = schedule_turns(global_plan, int(schedule.served_after[number]), world_size, "drop")
        assert listed_parts(rest) == listed_parts(schedule)[(number + 1) * schedule.parts_per_turn :]


def test_dropped_pieces_count_once() -> None:
    """Of packed rows, sequences of which no piece is left are dropped; those of which some are left are truncated."""
    spec = ss.Pack(4, rows=1, overflow="split")
    global_plan = spec.plan_global(LengthCounts.of(np.array([9, 1])), key=None, world_size=2)  # rows of 4, 4 and 1 + 1
    schedule = schedule_turns(global_plan, 0, 2, "drop")
    assert [size for _, _, size, _ in listed(schedule)] == [2]
    assert (schedule.num_dropped, schedule.num_truncated) == (1, 1), "the short one; two pieces of the long one are served"


def test_shares_of_three_ranks() -> None:
    """The worked example: three ranks take five places in turn, then one place, which two ranks repeat."""
    schedule = Schedule(np.array([0, 1]), np.array([0, 5]), np.array([5, 1]), np.array([5, 6]), np.array([0, 1]))
    shares = [share_of_rank(schedule, rank, 3) for rank in range(3)]
    assert [share.places.tolist() for share in shares] == [[0, 3, 5], [1, 4, 5], [2, 5]]
    assert [share.cuts.tolist() for share in shares] == [[0, 2, 3], [0, 2, 3], [0, 1, 2]]
    assert [share.is_repeated.tolist() for share in shares] == [[False] * 3, [False, False, True], [False, True]]
    receivers, turn = owners_of(schedule, np.arange(7), 3)
    assert receivers.tolist() == [0, 1, 2, 0, 1, 0, -1]
    assert turn.tolist() == [0, 0, 0, 0, 0, 1, -1]


def test_two_rows_for_five_ranks() -> None:
    """The remaining ranks repeat places from the first on."""
    schedule = Schedule(np.array([0]), np.array([3]), np.array([2]), np.array([2]), np.array([0]))
    shares = [share_of_rank(schedule, rank, 5) for rank in range(5)]
    assert [share.places.tolist() for share in shares] == [[3], [4], [3], [4], [3]]
    assert [share.is_repeated.tolist() for share in shares] == [[False], [False], [True], [True], [True]]


def test_no_turns() -> None:
    """Without turns no rank takes a place."""
    empty = np.empty(0, dtype=np.int64)
    schedule = Schedule(empty, empty, empty, empty, empty)
    assert len(share_of_rank(schedule, 1, 2).places) == 0
    receivers, turn = owners_of(schedule, np.arange(3), 2)
    assert receivers.tolist() == turn.tolist() == [-1, -1, -1]


@quick
@given(LENGTHS, any_spec, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(["repeat", "drop"]), st.data())
def test_any_ranks_resume(lengths: Any, spec: BatchSpec, world_sizes: list[int], uneven: Any, data: st.DataObject) -> None:
    """Any ranks resume after any turn and take each place left once; `owners_of` is the inverse of `share_of_rank`."""
    assume(not isinstance(spec, ss.Pack) or spec.overflow != "error")
    global_plan = plan_global(spec, lengths, world_sizes[0])
    total = int(global_plan.cuts[-1])
    by_turn = np.concatenate([np.arange(*global_plan.cuts[turn : turn + 2]) for turn in global_plan.turns] or [np.arange(0)])
    served = 0
    for world_size in world_sizes:
        schedule = schedule_turns(global_plan, served, world_size, uneven)
        rest = set(by_turn[served:].tolist())
        shares = [share_of_rank(schedule, rank, world_size) for rank in range(world_size)]
        taken = [place for share in shares for place in share.places[~share.is_repeated].tolist()]
        sizes = schedule.sizes if schedule.is_repeated is None else schedule.sizes[~schedule.is_repeated]
        assert len(taken) == len(set(taken)) == int(sizes.sum())
        assert set(taken) <= rest
        if uneven == "repeat":
            assert set(taken) == rest
            assert schedule.served_after[-1:].tolist() == ([total] if len(schedule) else [])
        receivers, part = owners_of(schedule, np.arange(total), world_size)
        turn = np.where(part < 0, -1, part // schedule.parts_per_turn)
        for rank, share in enumerate(shares):
            assert np.diff(share.cuts).min(initial=1) >= 1, "every rank has a row at every turn"
            own = np.repeat(np.arange(len(schedule)), np.diff(share.cuts))
            first = ~share.is_repeated
            assert set(zip(share.places[first].tolist(), own[first].tolist(), strict=True)) == {
                (place, int(turn[place])) for place in np.flatnonzero(receivers == rank).tolist()
            }
        if not len(schedule):
            break
        number = data.draw(st.integers(0, len(schedule) - 1))
        served = int(schedule.served_after[number])


@quick
@given(LENGTHS, any_spec, st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_budget_holds_for_every_rank(
    lengths: Any, spec: BatchSpec, planned: int, world_size: int, data: st.DataObject
) -> None:
    """A window that was planned for some ranks keeps the budget for any other ranks that resume, after any turn."""
    assume(isinstance(spec, ss.Bucket))
    assert isinstance(spec, ss.Bucket)
    global_plan = plan_global(spec, lengths, planned)
    before = schedule_turns(global_plan, 0, planned)
    served = data.draw(st.sampled_from([0, *before.served_after.tolist()]))
    schedule = schedule_turns(global_plan, served, world_size)
    ordered = np.sort(lengths)[::-1]
    for rank in range(world_size):
        share = share_of_rank(schedule, rank, world_size)
        wanted = global_plan.row_numbers(share.places)
        plan = global_plan.lay_out(wanted, share.places, share.cuts, share.global_batches, np.arange(len(schedule)))
        for batch in range(len(plan)):
            rows = plan.order[plan.cuts[batch] : plan.cuts[batch + 1]]
            longest = max(1 if row == MADE_UP else int(ordered[row]) for row in rows.tolist())
            width = plan.width(batch, longest)
            assert longest <= width
            assert spec.max_tokens is None or len(rows) * width <= spec.max_tokens
            assert spec.batch_size is None or len(rows) <= spec.batch_size
            assert len(rows) % spec.rows_multiple_of == 0
            if spec.shapes is not None:
                assert (len(rows), width) in spec.shapes  # type: ignore[operator]  # they are a tuple


def test_a_global_batch_keeps_the_budget_of_each_rank() -> None:
    """The worked example: eight rows for two ranks, 12 tokens each; no rank's batch exceeds its budget."""
    global_plan = plan_global(ss.Bucket(12, step="alike"), np.array([6, 6, 5, 4, 4, 4, 3, 3]), 2, None)
    assert global_plan.cuts.tolist() == [0, 4, 8]
    assert global_plan.max_rows.tolist() == [2, 3]
    schedule = schedule_turns(global_plan, 0, 2)
    ordered = np.array([6, 6, 5, 4, 4, 4, 3, 3])
    batches = [
        [ordered[share.places[begin:end]].tolist() for begin, end in itertools.pairwise(share.cuts.tolist())]
        for share in (share_of_rank(schedule, rank, 2) for rank in range(2))
    ]
    assert batches == [[[6, 5], [4, 3]], [[6, 4], [4, 3]]]


@quick
@given(LENGTHS, any_spec, st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_plan_depends_on_lengths_only(lengths: Any, spec: BatchSpec, world_size: int, random: Any) -> None:
    """Rows in another order give the same global batches of the same lengths."""
    shuffled = lengths.copy()
    random.shuffle(shuffled)
    one, other = plan_global(spec, lengths, world_size), plan_global(spec, shuffled, world_size)
    assert one.cuts.tolist() == other.cuts.tolist()
    assert one.turns.tolist() == other.turns.tolist()
    places = np.arange(one.cuts[-1])
    assert one.row_numbers(places).tolist() == other.row_numbers(places).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_global_batches_are_full(world_size: int) -> None:
    """With a fixed number of rows, every global batch but the last has this number for each rank."""
    global_plan = plan_global(ss.Bucket(batch_size=5), np.random.default_rng(0).integers(1, 90, 333), world_size)
    sizes = np.diff(global_plan.cuts)
    assert (sizes[:-1] == 5 * world_size).all()
    assert sizes.sum() == 333
