"""Cut the rows of a window into global batches: by length, by the lengths of several sides, or into given shapes.

Legend: ``G`` global batches, ``R`` ranks, ``K`` shapes.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.planning.batch_limits import BatchLimits
from seqstream.planning.bucket_cuts import fill_greedily, fitting_rows, plan_batches
from seqstream.planning.global_plan import ListedOrder, RoundRobinOrder, RowOrder, split_to_multiple
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pair_cuts import plan_pairs
from seqstream.planning.shape_choice import shape_of
from seqstream.planning.side_limits import fitting_groups
from seqstream.planning.sides import Sides


@dataclasses.dataclass(frozen=True)
class GlobalBatches:
    """Global batches before they have turns.

    Attributes:
        order: From places to row numbers.
        cuts: ``int64 (G + 1,)``: global batch ``g`` holds places ``cuts[g]`` to ``cuts[g + 1]``.
        max_rows: ``int64 (G,)``, most rows that a rank's batch may have.
        costs: ``int64 (G,)``, the cost of a rank's batch, in units of `BatchLimits`.
        widths: ``int64 (G,)``, padded lengths; ``None`` where they follow from the longest row.
    """

    order: RowOrder
    cuts: Cuts
    max_rows: Index
    costs: Index
    widths: Lengths | None = None

    def __len__(self) -> int:
        return len(self.max_rows)

    def for_single_ranks(self, world_size: int) -> GlobalBatches:
        """Split each global batch into one for each rank, by taking its rows in turn; none of them is empty."""
        order = RoundRobinOrder(self.order, self.cuts, world_size)
        sizes = np.diff(order.part_cuts)
        kept = sizes > 0
        max_rows, costs = (np.repeat(each, world_size)[kept] for each in (self.max_rows, self.costs))
        widths = None if self.widths is None else np.repeat(self.widths, world_size)[kept]
        return GlobalBatches(order, np.append(0, np.cumsum(sizes[kept])), max_rows, costs, widths)


def cut_by_length(
    length_counts: LengthCounts,
    order: RowOrder,
    limits: BatchLimits,
    *,
    world_size: int,
    batches_per_step: int,
    step_cost: float,
) -> GlobalBatches:
    """Cut rows, longest first, into the global batches that pad least under the limits.

    Only every ``rows_multiple_of * world_size``-th row is planned, and stands for the rows up to the next, which are no longer.
    So a global batch costs each rank at most what is counted here.

    Args:
        length_counts: The rows of the window by length.
        order: From places to row numbers, longest first.
        limits: Limits of each rank's batch.
        world_size: Number of ranks that share a global batch.
        batches_per_step: Under a budget, the number of global batches is a multiple of it.
        step_cost: Cost of a batch besides its tokens, as a share of the budget.

    Raises:
        ValueError: The longest row exceeds the budget.
    """
    rows_per_cut = limits.rows_multiple_of
    stride = rows_per_cut * world_size
    padded = limits.rounded(length_counts.every(stride))
    if len(padded):
        limits.check_fit(int(padded[0]))
    costs = limits.costs(padded)
    max_rows = None if limits.batch_size is None else limits.batch_size // rows_per_cut
    budget = None if limits.budget is None else limits.budget // rows_per_cut
    cuts = plan_batches(costs, max_tokens=budget, max_rows=max_rows, step_cost=step_cost)
    if limits.max_tokens is not None:
        cuts = split_to_multiple(cuts, batches_per_step)
    longest = costs[cuts[:-1]]
    return GlobalBatches(
        order,
        np.minimum(cuts * stride, length_counts.num_rows),
        fitting_rows(longest, budget, max_rows) * rows_per_cut,
        longest * np.diff(cuts),
    )


def cut_by_sides(
    length_counts: LengthCounts,
    order: RowOrder,
    limits: BatchLimits,
    *,
    world_size: int,
    batches_per_step: int,
    step_cost: float,
) -> GlobalBatches:
    """Cut rows of several sides, such as a source and a target; for the arguments see `cut_by_length`."""
    lengths = length_counts.every(1)
    sides = limits.sides or Sides.plain(lengths.shape[1])
    lengths = sides.rounded(lengths, limits.multiple_of)
    rows, cuts = plan_pairs(
        lengths,
        max_tokens=limits.max_tokens,
        max_rows=limits.batch_size,
        step_cost=step_cost,
        world_size=world_size,
        sides=sides,
    )
    if limits.max_tokens is not None:
        cuts = split_to_multiple(cuts, batches_per_step)
    longest = np.maximum.reduceat(lengths[rows], cuts[:-1]) if len(rows) else lengths
    max_rows = fitting_groups(sides, longest, limits.max_tokens, limits.batch_size)
    costs = sides.costs(longest) * -(-np.diff(cuts) // world_size)
    return GlobalBatches(ListedOrder(order.rows_at(rows)), cuts, max_rows, costs)


def cut_into_shapes(
    length_counts: LengthCounts,
    order: RowOrder,
    limits: BatchLimits,
    rows: Index,
    widths: Lengths,
    *,
    world_size: int,
    batches_per_step: int,
) -> GlobalBatches:
    """Fill batches of given shapes: each has the shape of its longest row, and takes shorter rows where those are used up.

    Args:
        length_counts: The rows of the window by length.
        order: From places to row numbers, longest first.
        limits: Say what a row costs.
        rows: ``int64 (K,)``, number of rows of each shape.
        widths: ``int64 (K,)``, padded length of each shape, ascending.
        world_size: Number of ranks that share a global batch.
        batches_per_step: The number of global batches is a multiple of it.
    """
    shapes = shape_of(length_counts.every(world_size), widths)
    cuts = split_to_multiple(fill_greedily(rows[shapes]), batches_per_step)
    used = shapes[cuts[:-1]]
    cuts = np.minimum(cuts * world_size, length_counts.num_rows)
    return GlobalBatches(order, cuts, rows[used], limits.costs(widths[used]) * rows[used], widths[used])
