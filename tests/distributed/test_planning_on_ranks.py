"""The pure functions by which ranks share a window: length counts, schedules, shares, and the exchange of rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.distributed.collectives import CallbackCollectives
from seqstream.distributed.exchange import exchange_rows
from seqstream.distributed.global_order import GlobalOrder, gather_lengths
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.plan import MADE_UP
from seqstream.planning.rank_shares import Steps, cut_steps, deal, owners
from seqstream.planning.tie_order import SpreadTies
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.rank_corpora import any_spec

quick = settings(max_examples=60, deadline=None)

LENGTHS = st.lists(st.integers(1, 24), min_size=1, max_size=60).map(np.array)


def plan_of(cuts: Sequence[int], turns: Sequence[int], max_rows: Sequence[int]) -> GlobalPlan:
    """Return a plan whose places are row numbers."""
    order = SpreadTies.of(np.array([cuts[-1]]), None)
    return GlobalPlan(order, np.array(cuts), np.array(turns), np.array(max_rows), np.ones(len(max_rows), dtype=np.int64))


def listed_parts(steps: Steps) -> list[tuple[int, int, int]]:
    """Return global batch, first place and size of each part."""
    return [*zip(steps.global_batches.tolist(), steps.first_places.tolist(), steps.sizes.tolist(), strict=True)]


def listed(steps: Steps) -> list[tuple[int, int, int, int]]:
    """Return global batch, first place, size, and places served after it, of each turn."""
    return [
        *zip(*(getattr(steps, name).tolist() for name in ("global_batches", "first_places", "sizes", "after")), strict=True)
    ]


# --- Rows by length ---


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


@quick
@given(st.lists(st.integers(0, 30) | st.integers(60_000, 300_000), max_size=80), st.integers(1, 9))
def test_length_counts_have_all_sorted_lengths(values: list[int], stride: int) -> None:
    """Every ``stride``-th sorted length, for any lengths."""
    lengths = np.array(values, dtype=np.int64)
    counts = LengthCounts.of(lengths)
    assert counts.every(stride).tolist() == sorted(values, reverse=True)[::stride]
    assert (counts.num_rows, counts.num_tokens) == (len(values), sum(values))
    assert lengths[sorted_order(lengths)].tolist() == sorted(values, reverse=True)


@quick
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


def test_spread_ties_do_not_change_between_versions() -> None:
    """A state means the same rows in later versions, in both directions."""
    spread_ties = SpreadTies.of(np.array([1, 7, 5]), (0, 0, 3))
    rows = spread_ties.rows_at(np.arange(13)).tolist()
    assert spread_ties.places_of(np.array(rows)).tolist() == [*range(13)]
    assert rows[0] == 0
    assert len({(late - early) % 7 for early, late in itertools.pairwise(rows[1:8])}) == 1, "one stride"


# --- Turns ---


def test_a_turn_of_each_global_batch() -> None:
    """The worked example: for the two ranks of the plan each global batch is one turn."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(cut_steps(global_plan, 0, 2)) == [(1, 4, 6, 6), (0, 0, 4, 10)]


def test_fewer_ranks_take_a_global_batch_in_several_turns() -> None:
    """One rank takes several turns, as the most rows of a batch require, of even sizes, the larger first."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(cut_steps(global_plan, 0, 1)) == [(1, 4, 3, 3), (1, 7, 3, 6), (0, 0, 2, 8), (0, 2, 2, 10)]
    uneven = plan_of([0, 7], [0], [2])
    assert listed(cut_steps(uneven, 0, 1)) == [(0, 0, 2, 2), (0, 2, 2, 4), (0, 4, 2, 6), (0, 6, 1, 7)]


def test_more_ranks_take_a_whole_global_batch() -> None:
    """No part reaches beyond its global batch, so its lengths are similar."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(cut_steps(global_plan, 0, 5)) == [(1, 4, 6, 6), (0, 0, 4, 10)]


def test_served_places_are_left_out() -> None:
    """After five places the schedule begins within a global batch, after a whole one with the next."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    assert listed(cut_steps(global_plan, 5, 1)) == [(1, 9, 1, 6), (0, 0, 2, 8), (0, 2, 2, 10)]
    assert listed(cut_steps(global_plan, 6, 4)) == [(0, 0, 4, 10)]
    assert listed(cut_steps(global_plan, 10, 2)) == []


def test_turns_of_too_few_rows_are_dropped() -> None:
    """With ``uneven="drop"`` a turn of fewer places than ranks is left out and counted; with one rank none is."""
    global_plan = plan_of([0, 4, 10], [1, 0], [2, 3])
    steps = cut_steps(global_plan, 5, 4, "drop")
    assert (listed(steps), steps.num_dropped) == ([(0, 0, 4, 10)], 1)
    one = cut_steps(global_plan, 0, 11, "drop")
    assert (listed(one), one.num_dropped) == ([], 10)
    assert cut_steps(plan_of([0, 1], [0], [2]), 0, 1, "drop").num_dropped == 0


def test_short_global_batches_are_taken_together() -> None:
    """Where dropped turns would leave out as many rows as there are ranks, each rank takes the next batch instead."""
    global_plan = plan_of([0, 3, 6, 9], [1, 0, 2], [1, 1, 1])  # planned for three ranks, one row each
    steps = cut_steps(global_plan, 0, 4, "drop")
    assert (steps.parts_per_turn, steps.after.tolist(), steps.num_dropped) == (4, [4, 8], 1)
    assert listed_parts(steps) == [(1, 3, 1), (1, 4, 1), (1, 5, 1), (0, 0, 1), (0, 1, 1), (0, 2, 1), (2, 6, 1), (2, 7, 1)]
    rest = cut_steps(global_plan, 4, 4, "drop")
    assert listed_parts(rest) == listed_parts(steps)[4:], "the same after an interruption"
    fewer = cut_steps(plan_of([0, 4, 8], [0, 1], [1, 1]), 0, 3, "drop")
    assert (fewer.after.tolist(), fewer.num_dropped) == ([3, 6], 2)
    assert cut_steps(global_plan, 0, 4, "repeat").num_dropped == 0


@quick
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(2, 6),
    st.integers(1, 4),
    st.booleans(),
    st.data(),
)
def test_few_rows_are_dropped(
    sizes: list[int], world_size: int, max_rows_of_all: int, is_mixed: bool, data: st.DataObject
) -> None:
    """Of any plan, fewer than twice as many rows as ranks are dropped, and after an interruption the schedule is the same."""
    cuts = [0, *np.cumsum(sizes).tolist()]
    global_plan = dataclasses.replace(plan_of(cuts, range(len(sizes)), [max_rows_of_all] * len(sizes)), is_mixed=is_mixed)
    if is_mixed:
        global_plan = dataclasses.replace(global_plan, max_rows=np.array(sizes))
    steps = cut_steps(global_plan, 0, world_size, "drop")
    assert steps.num_dropped < 2 * world_size
    assert steps.sizes.sum() + steps.num_dropped == cuts[-1]
    assert (steps.totals >= world_size).all()
    if len(steps):
        number = data.draw(st.integers(0, len(steps) - 1))
        rest = cut_steps(global_plan, int(steps.after[number]), world_size, "drop")
        assert listed_parts(rest) == listed_parts(steps)[(number + 1) * steps.parts_per_turn :]


def test_dropped_pieces_count_once() -> None:
    """Of packed rows, sequences of which no piece is left are dropped; those of which some are left are truncated."""
    spec = ss.Pack(4, rows=1, overflow="split")
    global_plan = spec.plan_global(LengthCounts.of(np.array([9, 1])), key=None, world_size=2)  # rows of 4, 4 and 1 + 1
    steps = cut_steps(global_plan, 0, 2, "drop")
    assert [size for _, _, size, _ in listed(steps)] == [2]
    assert (steps.num_dropped, steps.num_truncated) == (1, 1), "the short one; two pieces of the long one are served"


def test_shares_of_three_ranks() -> None:
    """The worked example: three ranks take five places in turn, then one place, which two ranks repeat."""
    steps = Steps(np.array([0, 1]), np.array([0, 5]), np.array([5, 1]), np.array([5, 6]), np.array([0, 1]))
    shares = [deal(steps, rank, 3) for rank in range(3)]
    assert [share.places.tolist() for share in shares] == [[0, 3, 5], [1, 4, 5], [2, 5]]
    assert [share.cuts.tolist() for share in shares] == [[0, 2, 3], [0, 2, 3], [0, 1, 2]]
    assert [share.is_repeated.tolist() for share in shares] == [[False] * 3, [False, False, True], [False, True]]
    receivers, step = owners(steps, np.arange(7), 3)
    assert receivers.tolist() == [0, 1, 2, 0, 1, 0, -1]
    assert step.tolist() == [0, 0, 0, 0, 0, 1, -1]


def test_two_rows_for_five_ranks() -> None:
    """The remaining ranks repeat places from the first on."""
    steps = Steps(np.array([0]), np.array([3]), np.array([2]), np.array([2]), np.array([0]))
    shares = [deal(steps, rank, 5) for rank in range(5)]
    assert [share.places.tolist() for share in shares] == [[3], [4], [3], [4], [3]]
    assert [share.is_repeated.tolist() for share in shares] == [[False], [False], [True], [True], [True]]


def test_no_turns() -> None:
    """Without turns no rank takes a place."""
    empty = np.empty(0, dtype=np.int64)
    steps = Steps(empty, empty, empty, empty, empty)
    assert len(deal(steps, 1, 2).places) == 0
    receivers, step = owners(steps, np.arange(3), 2)
    assert receivers.tolist() == step.tolist() == [-1, -1, -1]


def plan_global(spec: BatchSpec, lengths: Any, world_size: int, key: Any = (0,)) -> GlobalPlan:
    """Plan rows for some ranks."""
    return spec.plan_global(LengthCounts.of(spec.sort_keys(lengths)), key=key, world_size=world_size)


@quick
@given(LENGTHS, any_spec, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(["repeat", "drop"]), st.data())
def test_any_ranks_resume(lengths: Any, spec: BatchSpec, world_sizes: list[int], uneven: Any, data: st.DataObject) -> None:
    """Any number of ranks resume after any turn and take each place left once; `owners` is the inverse of `deal`."""
    assume(not isinstance(spec, ss.Pack) or spec.overflow != "error")
    global_plan = plan_global(spec, lengths, world_sizes[0])
    total = int(global_plan.cuts[-1])
    by_turn = np.concatenate([np.arange(*global_plan.cuts[turn : turn + 2]) for turn in global_plan.turns] or [np.arange(0)])
    served = 0
    for world_size in world_sizes:
        steps = cut_steps(global_plan, served, world_size, uneven)
        rest = set(by_turn[served:].tolist())
        shares = [deal(steps, rank, world_size) for rank in range(world_size)]
        taken = [place for share in shares for place in share.places[~share.is_repeated].tolist()]
        sizes = steps.sizes if steps.is_repeated is None else steps.sizes[~steps.is_repeated]
        assert len(taken) == len(set(taken)) == int(sizes.sum())
        assert set(taken) <= rest
        if uneven == "repeat":
            assert set(taken) == rest
            assert steps.after[-1:].tolist() == ([total] if len(steps) else [])
        receivers, part = owners(steps, np.arange(total), world_size)
        step = np.where(part < 0, -1, part // steps.parts_per_turn)
        for rank, share in enumerate(shares):
            assert np.diff(share.cuts).min(initial=1) >= 1, "every rank has a row at every turn"
            own = np.repeat(np.arange(len(steps)), np.diff(share.cuts))
            first = ~share.is_repeated
            assert set(zip(share.places[first].tolist(), own[first].tolist(), strict=True)) == {
                (place, int(step[place])) for place in np.flatnonzero(receivers == rank).tolist()
            }
        if not len(steps):
            break
        number = data.draw(st.integers(0, len(steps) - 1))
        served = int(steps.after[number])


@quick
@given(LENGTHS, any_spec, st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_budget_holds_for_every_rank(
    lengths: Any, spec: BatchSpec, planned: int, world_size: int, data: st.DataObject
) -> None:
    """A window that was planned for some ranks keeps the budget for any other ranks that resume, after any turn."""
    assume(isinstance(spec, ss.Bucket))
    assert isinstance(spec, ss.Bucket)
    global_plan = plan_global(spec, lengths, planned)
    before = cut_steps(global_plan, 0, planned)
    served = data.draw(st.sampled_from([0, *before.after.tolist()]))
    steps = cut_steps(global_plan, served, world_size)
    ordered = np.sort(lengths)[::-1]
    for rank in range(world_size):
        share = deal(steps, rank, world_size)
        wanted = global_plan.wanted(share.places)
        plan = global_plan.lay_out(wanted, share.places, share.cuts, share.global_batches, np.arange(len(steps)))
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
    steps = cut_steps(global_plan, 0, 2)
    ordered = np.array([6, 6, 5, 4, 4, 4, 3, 3])
    batches = [
        [ordered[share.places[begin:end]].tolist() for begin, end in itertools.pairwise(share.cuts.tolist())]
        for share in (deal(steps, rank, 2) for rank in range(2))
    ]
    assert batches == [[[6, 5], [4, 3]], [[6, 4], [4, 3]]]


# --- Row numbers, and the exchange of rows ---


@dataclasses.dataclass(frozen=True)
class Spread:
    """Rows of a window on some ranks.

    Attributes:
        lengths: Lengths of all rows, in the order of the data.
        cuts: Cuts of the parts.
        owners: The rank of each part.
    """

    lengths: Any
    cuts: list[int]
    owners: list[int]

    def rows_of(self, rank: int) -> list[Any]:
        """Return the rows of each part of a rank."""
        parts = zip(itertools.pairwise(self.cuts), self.owners, strict=True)
        return [np.arange(begin, end) for (begin, end), owner in parts if owner == rank]


@st.composite
def spreads(draw: st.DrawFn, world_size: int) -> Spread:
    """Draw a window of any parts, some of them without rows, and some ranks without parts."""
    lengths = draw(LENGTHS)
    inner = sorted(draw(st.lists(st.integers(0, len(lengths)), max_size=8)))
    cuts = [0, *inner, len(lengths)]
    owners = draw(st.lists(st.integers(0, world_size - 1), min_size=len(cuts) - 1, max_size=len(cuts) - 1))
    return Spread(lengths, cuts, owners)


def gather_on(options: Options, keys: Any, spread: Spread) -> tuple[GlobalOrder, CallbackCollectives]:
    """Gather the lengths on one rank."""
    ranks = CallbackCollectives(**options)
    return gather_lengths([keys[rows] for rows in spread.rows_of(ranks.rank)], spread.owners, ranks), ranks


@settings(max_examples=40, deadline=None)
@given(spreads(3), st.booleans())
def test_row_numbers_are_those_of_one_process(spread: Spread, pairs: bool) -> None:
    """For any parts, all ranks have the same length counts, and each the row numbers of its own rows."""
    keys = np.stack([spread.lengths, spread.lengths[::-1] % 5], axis=1) if pairs else spread.lengths
    number = np.empty(len(keys), dtype=np.int64)
    number[sorted_order(keys)] = np.arange(len(keys))
    expected = LengthCounts.of(keys)
    for rank, global_order in enumerate(run_ranks(3, lambda options: gather_on(options, keys, spread)[0])):
        assert global_order.runs.lengths.tolist() == expected.lengths.tolist()
        assert global_order.runs.counts.tolist() == expected.counts.tolist()
        own = np.concatenate([*spread.rows_of(rank), np.arange(0)])
        assert global_order.numbers.tolist() == sorted(number[own].tolist())
        assert number[own[global_order.rows]].tolist() == global_order.numbers.tolist()
        assert global_order.row_of(global_order.numbers).tolist() == global_order.rows.tolist()


def test_row_numbers_of_two_ranks() -> None:
    """The worked example: rank 1 has the first and the last part, rank 0 the middle."""
    spread = Spread(np.array([3, 5, 3, 3, 5]), [0, 2, 3, 5], [1, 0, 1])
    zero, one = run_ranks(2, lambda options: gather_on(options, spread.lengths, spread)[0])
    assert zero.runs.lengths.tolist() == [5, 3]
    assert zero.runs.counts.tolist() == [2, 3]
    assert (zero.numbers.tolist(), zero.rows.tolist()) == ([3], [0])
    assert (one.numbers.tolist(), one.rows.tolist()) == ([0, 1, 2, 4], [1, 3, 0, 2])


@settings(max_examples=40, deadline=None)
@given(spreads(3), any_spec, st.sampled_from(["repeat", "drop"]), st.integers(1, 4), st.data())
def test_rows_reach_the_ranks_that_take_them(
    spread: Spread, spec: BatchSpec, uneven: Any, planned: int, data: st.DataObject
) -> None:
    """For any parts, a rank has at each turn the rows of its share; it receives no other row, and none twice."""
    keys = spec.sort_keys(spread.lengths)
    by_number = sorted_order(keys)
    global_plan = plan_global(spec, spread.lengths, planned)
    served = data.draw(st.sampled_from([0, *cut_steps(global_plan, 0, planned).after.tolist()[:-1]]))
    steps = cut_steps(global_plan, served, 3, uneven)

    def job(options: Options) -> Any:
        global_order, ranks = gather_on(options, keys, spread)
        own = np.concatenate([*spread.rows_of(ranks.rank), np.arange(0)]).astype(np.int64)
        return exchange_rows(pa.table({"row": own}), global_order, global_plan, steps, ranks)

    for rank, rank_rows in enumerate(run_ranks(3, job)):
        share = deal(steps, rank, 3)
        held = rank_rows.table.column("row").to_numpy()
        wanted = by_number[global_plan.wanted(share.places)]
        real = rank_rows.plan.order[rank_rows.plan.order != MADE_UP]
        assert held[real].tolist() == wanted.tolist()
        assert set(held.tolist()) == set(wanted.tolist())
        repeated = np.zeros(len(held), dtype=bool) if rank_rows.is_repeated is None else rank_rows.is_repeated
        assert repeated[real].tolist() == np.repeat(share.is_repeated, global_plan.num_items(share.places)).tolist()
        assert len(set(held[~repeated].tolist())) == int((~repeated).sum()), "a row travels once"


def test_exchanged_rows_of_two_ranks() -> None:
    """The worked example: two ranks take five rows in turn, longest first, from the ranks that have them."""
    spread = Spread(np.array([3, 5, 3, 2, 9]), [0, 2, 5], [0, 1])
    global_plan = plan_of([0, 4, 5], [0, 1], [2, 1])  # lengths 9, 5, 3, 3 and then 2, which rank 1 repeats

    def job(options: Options) -> Any:
        global_order, ranks = gather_on(options, spread.lengths, spread)
        table = pa.table({"row": np.concatenate(spread.rows_of(ranks.rank))})
        rank_rows = exchange_rows(table, global_order, global_plan, cut_steps(global_plan, 0, 2), ranks)
        rows = rank_rows.table.column("row").to_numpy()[rank_rows.plan.order].tolist()
        return (
            rows,
            rank_rows.plan.cuts.tolist(),
            None if rank_rows.is_repeated is None else rank_rows.is_repeated[rank_rows.plan.order].tolist(),
        )

    zero, one = run_ranks(2, job)
    assert zero == ([4, 0, 3], [0, 2, 3], None)
    assert one == ([1, 2, 3], [0, 2, 3], [False, False, True])


@quick
@given(LENGTHS, any_spec, st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_plan_depends_on_lengths_only(lengths: Any, spec: BatchSpec, world_size: int, random: Any) -> None:
    """Rows in another order give the same global batches of the same lengths."""
    spread_ties = lengths.copy()
    random.shuffle(spread_ties)
    one, other = plan_global(spec, lengths, world_size), plan_global(spec, spread_ties, world_size)
    assert one.cuts.tolist() == other.cuts.tolist()
    assert one.turns.tolist() == other.turns.tolist()
    places = np.arange(one.cuts[-1])
    assert one.wanted(places).tolist() == other.wanted(places).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_global_batches_are_full(world_size: int) -> None:
    """With a fixed number of rows, every global batch but the last has this number for each rank."""
    global_plan = plan_global(ss.Bucket(batch_size=5), np.random.default_rng(0).integers(1, 90, 333), world_size)
    sizes = np.diff(global_plan.cuts)
    assert (sizes[:-1] == 5 * world_size).all()
    assert sizes.sum() == 333
