"""Put rows of several sequences each, such as source and target, into batches: a pure function of lengths.

Legend: ``N`` rows, ``S`` sides (the sequences of a row), ``C`` positions where a cut is considered, ``K`` batches.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.planning.bucket_cuts import STEP_COST, fitting_rows

Lengths2: TypeAlias = npt.NDArray[np.int64]

_MORE_BATCHES = 1.04
"""At most this many times the batches that greedy filling makes."""

_CUTS_PER_BATCH = 8
"""How many cuts are considered in a batch, at least; more pad little less and take longer."""

_CANDIDATES = 1 << 14
"""About how many batches are weighed against each other, so that few of them are cut more finely in the same time."""

_STRIP_PLACES = 128
"""At how many lengths of a side strips may begin; more take longer, and there are some ten strips."""


def plan_pairs(
    lengths: Lengths2, *, max_tokens: int | None, max_rows: int | None, step_cost: float = STEP_COST, world_size: int = 1
) -> tuple[Index, Cuts]:
    """Put rows of several sides into batches that pad little.

    Every row appears once. A batch holds its rows times the sum over sides of its longest; that never exceeds ``max_tokens``,
    nor its rows ``max_rows``. The plan pads no more than rows sorted by their sum and filled greedily, and has at most 4 % more
    batches.

    Rows are sorted in strips: those of similar length on one side together, and in a strip by the other sides, down and up in
    turn. What strips will pad follows from their limits, so they need not be tried. Then batches are cut from that order.

    Args:
        lengths: ``int64 (N, S)``, tokens of each row on each side. Rows of the same lengths keep the order given.
        max_tokens: Budget of a batch in padded tokens of all sides. Larger means fewer, bigger batches.
        max_rows: Most rows of a batch. One of the two limits must be given; alone, every batch but the last has as many.
        step_cost: What a batch costs besides its tokens, as a share of ``max_tokens``. Larger means fuller batches and more
            padding.
        world_size: How many ranks share a batch, each with its part of the rows under these limits.

    Returns:
        The order, ``int64 (N,)``: rows, batch after batch, and in a batch longest first by the first side, then the second and
        so on. And the cuts, ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.

    Raises:
        ValueError: A row is longer than ``max_tokens``, all sides together, or no limit is given.
    """
    if max_tokens is not None:
        _check_fit(lengths, max_tokens)
    sums = np.arange(lengths.max(0, initial=1).sum() + 1)
    fits = fitting_rows(np.maximum(sums, 1), max_tokens, max_rows) * world_size
    cost = step_cost * (max_tokens or 0) * world_size
    plain = _fill(lengths, _descending(lengths.sum(1)), fits)
    strips = (_fill(lengths, _in_strips(lengths, side, fits), fits) for side in range(lengths.shape[1]))
    no_worse = [filling for filling in strips if filling.slots <= plain.slots and len(filling.cuts) <= len(plain.cuts)]
    best = min([plain, *no_worse], key=lambda filling: filling.slots + cost * len(filling.cuts))
    cuts = best.cuts if max_tokens is None else _recut(lengths[best.order], best.cuts, fits, cost)
    return _longest_first(lengths, best.order, cuts), cuts


def _check_fit(lengths: Lengths2, max_tokens: int) -> None:
    sums = lengths.sum(1)
    if len(sums) and sums.max() > max_tokens:
        *sides, last = (f"{length:,}" for length in lengths[sums.argmax()].tolist())
        raise ValueError(
            f"sequences of {', '.join(sides)} and {last} tokens cannot fit max_tokens={max_tokens} together; "
            "raise max_tokens or set Tokenize(max_length=...)"
        )


@dataclasses.dataclass(frozen=True)
class _Filling:
    """An order of rows, cut by filling each batch as far as it goes; ``slots`` are its padded tokens."""

    order: Index
    cuts: Cuts
    slots: int


def _fill(lengths: Lengths2, order: Index, fits: Lengths) -> _Filling:
    """Cut rows into the fewest batches that there are in this order.

    Args:
        lengths: ``int64 (N, S)``.
        order: ``int64 (N,)``, the order in which rows are taken.
        fits: How many rows a batch can hold, by the sum over sides of its longest.
    """
    rows = lengths[order]
    most = fits[rows.sum(1)].tolist()
    cuts, slots = [0], 0
    while (begin := cuts[-1]) < len(rows):
        padded = np.maximum.accumulate(rows[begin : begin + most[begin]]).sum(1)
        num_rows = int(np.count_nonzero(np.arange(1, len(padded) + 1) <= fits[padded]))
        cuts.append(begin + num_rows)
        slots += num_rows * int(padded[num_rows - 1])
    return _Filling(order, np.array(cuts, dtype=np.int64), slots)


def _descending(lengths: Lengths) -> Index:
    return np.argsort(-lengths, kind="stable")


def _in_strips(lengths: Lengths2, side: int, fits: Lengths) -> Index:
    """Sort rows by one side into strips, and those of a strip by the rest, longest first and shortest first in turn.

    So neighbours are alike at the border of two strips as well, and a batch may reach over it.
    """
    by_side = _descending(lengths[:, side])
    tall = lengths[by_side, side]
    rest = lengths[by_side].sum(1) - tall
    strip = np.zeros(len(lengths), dtype=np.int64)
    strip[_strip_starts(tall, rest, fits)] = 1
    strip = np.cumsum(strip)
    return by_side[np.lexsort([np.where(strip % 2, -rest, rest), strip])]


def _strip_starts(tall: Lengths, rest: Lengths, fits: Lengths) -> Index:
    """Choose where strips begin, by dynamic programming on what they pad.

    A strip of ``n`` rows, the tallest of which is ``top``, has ``n * top`` slots on its side. On the rest, which goes from
    ``high`` to ``low``, a batch over which it drops by ``d`` pads ``d / 2`` a row on average and has ``fits[top + rest]`` rows:
    all batches together pad half of the sum of ``fits`` from ``top + low`` to ``top + high``. Both are doubled, to be whole.

    Args:
        tall: ``int64 (N,)``, the side by which rows are sorted, descending.
        rest: ``int64 (N,)``, the sum of the other sides.
        fits: How many rows a batch can hold, by the sum over sides of its longest.
    """
    starts = _strip_places(tall, rest)
    high, low = np.maximum.reduceat(rest, starts), np.minimum.reduceat(rest, starts)
    ends = np.append(starts[1:], len(tall))
    spread = np.cumsum(fits)
    total = np.full(len(starts) + 1, np.iinfo(np.int64).max)
    total[0] = 0
    origin = np.zeros(len(starts) + 1, dtype=np.int64)
    for i, (start, top) in enumerate(zip(starts.tolist(), tall[starts].tolist(), strict=True)):
        inside = spread[top + np.maximum.accumulate(high[i:])] - spread[top + np.minimum.accumulate(low[i:])]
        candidates = total[i] + 2 * top * (ends[i:] - start) + inside
        better = i + 1 + np.flatnonzero(candidates < total[i + 1 :])
        total[better] = candidates[better - i - 1]
        origin[better] = i
    return starts[_path(origin.tolist())[:-1]]


def _strip_places(tall: Lengths, rest: Lengths) -> Index:
    """Return where the length of the side changes, but of many such places only one in each of `_STRIP_PLACES` equal shares."""
    changes = np.flatnonzero(np.diff(tall, prepend=-1))
    if len(changes) <= _STRIP_PLACES:
        return changes
    tokens = np.cumsum(tall + rest)
    cells = (tokens[changes] - 1) * _STRIP_PLACES // tokens[-1]
    return changes[np.flatnonzero(np.diff(cells, prepend=-1))]


def _longest_first(lengths: Lengths2, order: Index, cuts: Cuts) -> Index:
    """Sort the rows of each batch by the first side, then the second and so on; equal rows stay as they are."""
    batch = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
    sides = [-lengths[order, side] for side in range(lengths.shape[1])]
    return order[np.lexsort([*reversed(sides), batch])]


def _recut(rows: Lengths2, greedy: Cuts, fits: Lengths, cost: float) -> Cuts:
    """Cut rows, in the order given, into batches that pad least, at most 4 % more than greedy filling makes."""
    num_batches = len(greedy) - 1
    places = _considered(greedy)
    slots = _slots(rows, places, fits)
    while len(path := _cheapest(slots, cost)) - 1 > max(num_batches, int(_MORE_BATCHES * num_batches)):
        cost = max(2 * cost, 1)
    return places[path]


def _considered(greedy: Cuts) -> Cuts:
    """Return where cuts are considered, ``int64 (C,)``: at the greedy ones and evenly between them."""
    per_batch = max(_CUTS_PER_BATCH, math.isqrt(_CANDIDATES // len(greedy)))
    inside = np.diff(greedy)[:, None] * np.arange(per_batch) // per_batch
    places = np.append(greedy[:-1, None] + inside, greedy[-1])
    return places[np.flatnonzero(np.diff(places, prepend=-1))]


def _slots(rows: Lengths2, places: Cuts, fits: Lengths) -> list[list[int]]:
    """Return for each place the padded tokens of the batches from there to the next place, to the next but one, and so on."""
    longest = cells = np.maximum.reduceat(rows, places[:-1])
    found: list[list[int]] = [[] for _ in cells]
    for reach in range(1, len(places)):
        longest = np.maximum(longest[: len(places) - reach], cells[reach - 1 :])
        padded = longest.sum(1)
        num_rows = places[reach:] - places[:-reach]
        fitting = np.flatnonzero(num_rows <= fits[padded])
        if not len(fitting):
            break
        for place, slots in zip(fitting.tolist(), (num_rows * padded)[fitting].tolist(), strict=True):
            found[place].append(slots)
    return found


def _cheapest(slots: list[list[int]], cost: float) -> list[int]:
    """Return the way from the first place to the last that minimises slots plus ``cost`` a batch."""
    total = [0.0, *([math.inf] * len(slots))]
    origin = [0] * len(total)
    for i, steps in enumerate(slots):
        base = total[i] + cost
        for j, step in enumerate(steps, i + 1):
            if base + step < total[j]:
                total[j] = base + step
                origin[j] = i
    return _path(origin)


def _path(origin: list[int]) -> list[int]:
    """Follow the origins back from the last place to the first."""
    path = [len(origin) - 1]
    while path[-1]:
        path.append(origin[path[-1]])
    return path[::-1]
