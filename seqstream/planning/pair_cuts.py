"""Group rows of several sequences each, such as source and target, into batches: a pure function of lengths.

Legend: ``N`` rows, ``S`` sides (the sequences of a row), ``C`` candidates for a cut, ``K`` batches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.planning.bucket_cuts import STEP_COST, cuts_per_batch, few_batches, path_back
from seqstream.planning.side_limits import SideLimits
from seqstream.planning.sides import Sides

Lengths2: TypeAlias = npt.NDArray[np.int64]

_STRIP_CANDIDATES = 128
"""Most lengths of a side at which a strip may begin; more take longer, and there are only about ten strips."""


def plan_pairs(
    lengths: Lengths2,
    *,
    max_tokens: int | None,
    max_rows: int | None,
    step_cost: float = STEP_COST,
    world_size: int = 1,
    sides: Sides | None = None,
) -> tuple[Index, Cuts]:
    """Group rows of several sides into batches that pad little.

    Every row appears once. The slots of a batch are its rows times the sum over sides of its longest sequence; they never
    exceed ``max_tokens``, nor the rows ``max_rows``. The plan pads no more than rows that are sorted by the sum of their
    lengths and filled greedily, and has at most 4 % more batches.

    Rows are sorted in strips: a strip has rows of similar length on one side, sorted by the other sides, which alternately
    ascend and descend. The padding of strips is estimated from their limits, so they need not be filled to be compared. Then
    batches are cut from this order.

    Args:
        lengths: ``int64 (N, S)``, tokens of each row on each side. Rows of equal lengths keep their order.
        max_tokens: Budget of a batch in padded tokens of all sides. Larger means fewer, bigger batches.
        max_rows: Most rows of a batch. At least one of the two limits must be given; alone, all batches except the last have
            this number of rows.
        step_cost: Cost of a batch besides its tokens, as a share of ``max_tokens``. Larger means fuller batches and more
            padding.
        world_size: Number of ranks that share a batch; the limits hold for the part of each.
        sides: What the numbers of each side are, for records of several texts and for groups, which take the place of rows;
            ``None`` for lengths.

    Returns:
        The order, ``int64 (N,)``: rows, batch after batch; within a batch longest first by the first side, then the second and
        so on. And the cuts, ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.

    Raises:
        ValueError: A row is longer than ``max_tokens``, all sides together, or no limit is given.
    """
    limits = SideLimits(sides or Sides.plain(lengths.shape[1]), max_tokens, max_rows, world_size)
    if len(lengths):
        limits.check_fit(lengths)
    cost = step_cost * (max_tokens or 0) * world_size
    parts = limits.sides.parts(lengths)
    max_rows_by_cost = limits.most_by_cost(int(parts.max(0, initial=1).sum()))
    plain = _fill(lengths, _descending(parts.sum(1)), limits)
    orders = [_in_strips(parts, side, max_rows_by_cost) for side in range(parts.shape[1])]
    if numbers := limits.sides.numbers:
        orders.append(np.lexsort([-parts.sum(1), *(-lengths[:, side] for side in numbers)]))
    strips = (_fill(lengths, order, limits) for order in orders)
    no_worse = [filling for filling in strips if filling.slots <= plain.slots and len(filling.cuts) <= len(plain.cuts)]
    best = min([plain, *no_worse], key=lambda filling: filling.slots + cost * len(filling.cuts))
    cuts = best.cuts if max_tokens is None else _recut(lengths[best.order], best.cuts, limits, cost)
    return _longest_first(lengths, best.order, cuts), cuts


@dataclasses.dataclass(frozen=True)
class _Filling:
    """An order of rows whose batches are filled greedily, the cuts of its batches, and the number of their slots."""

    order: Index
    cuts: Cuts
    slots: int


def _fill(lengths: Lengths2, order: Index, limits: SideLimits) -> _Filling:
    """Return the fewest batches of rows in an order.

    Args:
        lengths: ``int64 (N, S)``.
        order: ``int64 (N,)``, rows.
        limits: Limits of a batch.
    """
    ordered = lengths[order]
    most = limits.most(ordered).tolist()
    cuts, slots = [0], 0
    while (begin := cuts[-1]) < len(ordered):
        longest = np.maximum.accumulate(ordered[begin : begin + most[begin]])
        num_rows = int(np.count_nonzero(np.arange(1, len(longest) + 1) <= limits.most(longest)))
        cuts.append(begin + num_rows)
        slots += num_rows * int(limits.sides.costs(longest[num_rows - 1]))
    return _Filling(order, np.array(cuts, dtype=np.int64), slots)


def _descending(lengths: Lengths) -> Index:
    return np.argsort(-lengths, kind="stable")


def _in_strips(lengths: Lengths2, side: int, max_rows_by_cost: Lengths) -> Index:
    """Return rows sorted by one side into strips, and within strips by the other sides, alternately ascending and descending.

    So neighbours are similar at the border of two strips too, and a batch may extend over it.
    """
    by_side = _descending(lengths[:, side])
    own = lengths[by_side, side]
    rest = lengths[by_side].sum(1) - own
    is_start = np.zeros(len(lengths), dtype=np.int64)
    is_start[_strip_starts(own, rest, max_rows_by_cost)] = 1
    strip = np.cumsum(is_start)
    return by_side[np.lexsort([np.where(strip % 2, -rest, rest), strip])]


def _strip_starts(own: Lengths, rest: Lengths, max_rows_by_cost: Lengths) -> Index:
    """Return the first row of each strip, chosen by dynamic programming to pad least.

    A strip of ``n`` rows whose longest is ``top`` has ``n * top`` slots on its own side. On the other sides, whose sum goes
    from ``high`` to ``low``, a batch over which it drops by ``d`` pads ``d / 2`` a row on average and has
    ``max_rows_by_cost[top + rest]`` rows: all batches together pad half of the sum of ``max_rows_by_cost`` from
    ``top + low`` to ``top + high``. Both are doubled, so they are whole numbers.

    Args:
        own: ``int64 (N,)``, lengths of the side by which rows are sorted, descending.
        rest: ``int64 (N,)``, the sum of the other sides.
        max_rows_by_cost: ``int64``, most rows of a batch, by the sum over sides of its longest sequence.
    """
    starts = _strip_candidates(own, rest)
    high, low = np.maximum.reduceat(rest, starts), np.minimum.reduceat(rest, starts)
    ends = np.append(starts[1:], len(own))
    total_rows = np.cumsum(max_rows_by_cost)
    total = np.full(len(starts) + 1, np.iinfo(np.int64).max)
    total[0] = 0
    origin = np.zeros(len(starts) + 1, dtype=np.int64)
    for i, (start, top) in enumerate(zip(starts.tolist(), own[starts].tolist(), strict=True)):
        padding = total_rows[top + np.maximum.accumulate(high[i:])] - total_rows[top + np.minimum.accumulate(low[i:])]
        sums = total[i] + 2 * top * (ends[i:] - start) + padding
        better = i + 1 + np.flatnonzero(sums < total[i + 1 :])
        total[better] = sums[better - i - 1]
        origin[better] = i
    return starts[path_back(origin.tolist())[:-1]]


def _strip_candidates(own: Lengths, rest: Lengths) -> Index:
    """Return the rows at which the length of the side changes; if they are many, one in each of `_STRIP_CANDIDATES` shares."""
    changes = np.flatnonzero(np.diff(own, prepend=-1))
    if len(changes) <= _STRIP_CANDIDATES:
        return changes
    tokens = np.cumsum(own + rest)
    cells = (tokens[changes] - 1) * _STRIP_CANDIDATES // tokens[-1]
    return changes[np.flatnonzero(np.diff(cells, prepend=-1))]


def _longest_first(lengths: Lengths2, order: Index, cuts: Cuts) -> Index:
    """Return the rows with each batch sorted by the first side, then the second and so on; equal rows keep their order."""
    batch = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
    sides = [-lengths[order, side] for side in range(lengths.shape[1])]
    return order[np.lexsort([*reversed(sides), batch])]


def _recut(rows: Lengths2, greedy: Cuts, limits: SideLimits, cost: float) -> Cuts:
    """Cut rows, in their order, into the batches that pad least, with at most 4 % more batches than greedy filling."""
    candidates = _candidates(greedy)
    cheapest = functools.partial(_cheapest, _slots(rows, candidates, limits))
    return candidates[few_batches(cheapest, len(greedy) - 1, cost)]


def _candidates(greedy: Cuts) -> Cuts:
    """Return the candidates for a cut, ``int64 (C,)``: the greedy cuts, and evenly spaced ones between them."""
    per_batch = cuts_per_batch(greedy)
    inside = np.diff(greedy)[:, None] * np.arange(per_batch) // per_batch
    candidates = np.append(greedy[:-1, None] + inside, greedy[-1])
    return candidates[np.flatnonzero(np.diff(candidates, prepend=-1))]


def _slots(rows: Lengths2, candidates: Cuts, limits: SideLimits) -> list[list[int]]:
    """Return for each candidate the slots of the batches that begin there and end at the next one, the one after, and so on."""
    longest = cells = np.maximum.reduceat(rows, candidates[:-1])
    found: list[list[int]] = [[] for _ in cells]
    for reach in range(1, len(candidates)):
        longest = np.maximum(longest[: len(candidates) - reach], cells[reach - 1 :])
        padded = limits.sides.costs(longest)
        num_rows = candidates[reach:] - candidates[:-reach]
        fitting = np.flatnonzero(num_rows <= limits.most(longest))
        if not len(fitting):
            break
        for begin, slots in zip(fitting.tolist(), (num_rows * padded)[fitting].tolist(), strict=True):
            found[begin].append(slots)
    return found


def _cheapest(slots: list[list[int]], cost: float) -> list[int]:
    """Return the indices of the candidates, from the first to the last, that minimise slots plus ``cost`` a batch."""
    total = [0.0, *([math.inf] * len(slots))]
    origin = [0] * len(total)
    for i, slots_from_i in enumerate(slots):
        base = total[i] + cost
        for j, slots_to_j in enumerate(slots_from_i, i + 1):
            if base + slots_to_j < total[j]:
                total[j] = base + slots_to_j
                origin[j] = i
    return path_back(origin)
