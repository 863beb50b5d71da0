"""The exchange of lengths and of rows: row numbers on each rank, and rows at the ranks that take them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.distributed.collectives import CallbackCollectives
from seqstream.distributed.exchange import exchange_rows
from seqstream.distributed.global_order import GlobalOrder, gather_lengths
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.plan import MADE_UP
from seqstream.planning.rank_shares import schedule_turns, share_of_rank
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.rank_corpora import any_spec
from tests.helpers.rank_plans import LENGTHS, plan_global, plan_of


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
        assert global_order.length_counts.lengths.tolist() == expected.lengths.tolist()
        assert global_order.length_counts.counts.tolist() == expected.counts.tolist()
        own = np.concatenate([*spread.rows_of(rank), np.arange(0)])
        assert global_order.numbers.tolist() == sorted(number[own].tolist())
        assert number[own[global_order.rows]].tolist() == global_order.numbers.tolist()
        assert global_order.row_of(global_order.numbers).tolist() == global_order.rows.tolist()


def test_row_numbers_of_two_ranks() -> None:
    """The worked example: rank 1 has the first and the last part, rank 0 the middle."""
    spread = Spread(np.array([3, 5, 3, 3, 5]), [0, 2, 3, 5], [1, 0, 1])
    zero, one = run_ranks(2, lambda options: gather_on(options, spread.lengths, spread)[0])
    assert zero.length_counts.lengths.tolist() == [5, 3]
    assert zero.length_counts.counts.tolist() == [2, 3]
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
    served = data.draw(st.sampled_from([0, *schedule_turns(global_plan, 0, planned).served_after.tolist()[:-1]]))
    schedule = schedule_turns(global_plan, served, 3, uneven)

    def job(options: Options) -> Any:
        global_order, ranks = gather_on(options, keys, spread)
        own = np.concatenate([*spread.rows_of(ranks.rank), np.arange(0)]).astype(np.int64)
        return exchange_rows(pa.table({"row": own}), global_order, global_plan, schedule, ranks)

    for rank, rank_rows in enumerate(run_ranks(3, job)):
        share = share_of_rank(schedule, rank, 3)
        held = rank_rows.table.column("row").to_numpy()
        wanted = by_number[global_plan.row_numbers(share.places)]
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
        rank_rows = exchange_rows(table, global_order, global_plan, schedule_turns(global_plan, 0, 2), ranks)
        rows = rank_rows.table.column("row").to_numpy()[rank_rows.plan.order].tolist()
        return (
            rows,
            rank_rows.plan.cuts.tolist(),
            None if rank_rows.is_repeated is None else rank_rows.is_repeated[rank_rows.plan.order].tolist(),
        )

    zero, one = run_ranks(2, job)
    assert zero == ([4, 0, 3], [0, 2, 3], None)
    assert one == ([1, 2, 3], [0, 2, 3], [False, False, True])
