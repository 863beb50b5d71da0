"""Cut rows, sorted longest first, into batches: pure functions of lengths.

Legend: ``N`` rows, ``C`` positions where a cut is considered, ``K`` batches.
"""

from __future__ import annotations

import math

import numpy as np

from seqstream.arrays import Cuts, Lengths, positions

STEP_COST = 0.06
"""What a batch costs besides its tokens, as a share of its budget, unless that would make too many batches."""

_MORE_BATCHES = 1.04
"""At most this many times the batches that greedy filling makes."""

_CUTS_PER_BATCH = 8
"""How many cuts are considered in the room of one full batch, at least; more pad little less and take longer."""

_CANDIDATES = 1 << 14
"""About how many batches are weighed against each other, so that few of them are cut more finely in the same time."""


def plan_batches(
    lengths: Lengths, *, max_tokens: int | None = None, max_rows: int | None = None, step_cost: float = STEP_COST
) -> Cuts:
    """Cut rows, longest first, into the batches that pad least.

    Every row appears once, and ``rows * longest`` of a batch never exceeds ``max_tokens``, nor its rows ``max_rows``. There are
    at most 4 % more batches than `fill_greedily` makes, and where there are as many it pads no less.

    Args:
        lengths: ``int64 (N,)``, padded tokens of each row, descending, all positive.
        max_tokens: Budget of a batch in padded tokens. Larger means fewer, bigger batches.
        max_rows: Most rows of a batch. One of the two limits must be given.
        step_cost: What a batch costs besides its tokens, as a share of ``max_tokens``. Larger means fuller batches and more
            padding.

    Returns:
        ``int64 (K + 1,)``, ascending from 0 to ``N``: batch ``k`` holds rows ``cuts[k]`` to ``cuts[k + 1]``.

    Raises:
        ValueError: A row is longer than ``max_tokens``.
    """
    rows = fitting_rows(lengths, max_tokens, max_rows)
    greedy = fill_greedily(rows)
    if max_tokens is None or len(greedy) <= 2:
        return greedy
    places = _considered(lengths, rows, greedy)
    most = max(len(greedy) - 1, int(_MORE_BATCHES * (len(greedy) - 1)))
    cost = step_cost * max_tokens
    while len(cuts := _cheapest(lengths, rows, places, cost)) - 1 > most:
        cost = max(2 * cost, 1)
    return cuts


def fitting_rows(lengths: Lengths, max_tokens: int | None, max_rows: int | None) -> Lengths:
    """Return how many rows a batch can hold that begins with each row, ``int64 (N,)``."""
    if max_tokens is None:
        if max_rows is None:
            raise ValueError("max_tokens or max_rows must be given, got neither")
        return np.full(len(lengths), max_rows, dtype=np.int64)
    if len(lengths) and lengths[0] > max_tokens:
        raise ValueError(
            f"sequence of {lengths[0]:,} tokens cannot fit max_tokens={max_tokens}; "
            "raise max_tokens or set Tokenize(max_length=...)"
        )
    rows: Lengths = max_tokens // lengths
    return rows if max_rows is None else np.minimum(rows, max_rows)


def fill_greedily(rows: Lengths) -> Cuts:
    """Cut by filling each batch as far as it goes, the fewest batches there can be.

    Args:
        rows: ``int64 (N,)``, how many rows a batch can hold that begins with each row.
    """
    cuts = [0]
    while cuts[-1] < len(rows):
        cuts.append(min(len(rows), cuts[-1] + int(rows[cuts[-1]])))
    return np.array(cuts, dtype=np.int64)


def _considered(lengths: Lengths, rows: Lengths, greedy: Cuts) -> Cuts:
    """Return where cuts are considered, ``int64 (C,)``: where greedy filling cuts, and the largest drop in each cell of a grid.

    A cell is a fixed part of a full batch, so ``C`` follows from the number of batches and not from that of the rows.
    """
    starts = np.flatnonzero(np.diff(lengths, prepend=lengths[0] + 1))  # of runs of equal length
    sizes = np.diff(starts, append=len(lengths))
    cuts_per_batch = max(_CUTS_PER_BATCH, math.isqrt(_CANDIDATES // len(greedy)))
    cell_rows = np.maximum(rows[starts] // cuts_per_batch, 1)
    points = -(-sizes // cell_rows)
    step = positions(points)
    places = np.repeat(starts, points) + step * np.repeat(cell_rows, points)
    widths = sizes / cell_rows
    cells = np.floor(np.repeat(np.cumsum(widths) - widths, points) + step + 1e-9)
    drops = np.where(step == 0, np.repeat(-np.diff(lengths[starts], prepend=lengths[0]), points), 0)
    by_drop = np.lexsort((places, -drops, cells))
    best = by_drop[np.flatnonzero(np.diff(cells[by_drop], prepend=-1))]
    merged = np.sort(np.concatenate([greedy, places[best]]))  # np.union1d would import numpy.ma
    return merged[np.flatnonzero(np.diff(merged, prepend=-1))]


def _cheapest(lengths: Lengths, rows: Lengths, places: Cuts, cost: float) -> Cuts:
    """Return the cuts among ``places`` that minimise padded tokens plus ``cost`` a batch, by dynamic programming.

    ``f(j) = min_i f(i) + (j - i) * length_i + cost`` over the places ``i`` from which ``j`` can be reached.
    """
    last = len(places) - 1
    reach = (np.searchsorted(places, places[:-1] + rows[places[:-1]], side="right") - 1).tolist()
    at = places.tolist()
    tall = lengths[places[:-1]].tolist()
    total = [float("inf")] * (last + 1)
    total[0] = 0.0
    origin = [0] * (last + 1)
    for i in range(last):
        length = tall[i]
        base = total[i] + cost - at[i] * length
        for j in range(i + 1, reach[i] + 1):
            candidate = base + at[j] * length
            if candidate < total[j]:
                total[j] = candidate
                origin[j] = i
    cuts = [last]
    while cuts[-1]:
        cuts.append(origin[cuts[-1]])
    return places[cuts[::-1]]
