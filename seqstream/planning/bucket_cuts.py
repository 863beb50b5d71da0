"""Cut rows, longest first, into the batches that pad least: pure functions of lengths.

Legend: ``N`` rows, ``C`` candidates for a cut, ``D`` runs of equal length, ``K`` batches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from seqstream.arrays import Cuts, Lengths, positions
from seqstream.planning.length_counts import run_starts

STEP_COST = 0.06
"""Cost of a batch besides its tokens, as a share of its budget; more where this gives too many batches."""

_MORE_BATCHES = 1.04
"""Most batches, as a multiple of those of greedy filling."""

_CUTS_PER_BATCH = 8
"""Least number of candidates for a cut within one full batch; more hardly pad less and take longer."""

_BATCHES_TO_COMPARE = 1 << 14
"""About the number of possible batches that are compared; where greedy filling gives few, each has more candidates."""


def plan_batches(
    lengths: Lengths, *, max_tokens: int | None = None, max_rows: int | None = None, step_cost: float = STEP_COST
) -> Cuts:
    """Cut rows, longest first, into the batches that pad least.

    Every row appears once. Rows times the longest row of a batch never exceed ``max_tokens``, nor its rows ``max_rows``. There
    are at most 4 % more batches than with `fill_greedily`, and with as many batches never more padding.

    Args:
        lengths: ``int64 (N,)``, padded tokens of each row, descending, all positive.
        max_tokens: Budget of a batch in padded tokens. Larger means fewer, bigger batches.
        max_rows: Most rows of a batch. At least one of the two limits must be given.
        step_cost: Cost of a batch besides its tokens, as a share of ``max_tokens``. Larger means fuller batches and more
            padding.

    Returns:
        ``int64 (K + 1,)``, ascending from 0 to ``N``: batch ``k`` holds rows ``cuts[k]`` to ``cuts[k + 1]``.

    Raises:
        ValueError: A row is longer than ``max_tokens``, or no limit is given.
    """
    rows = fitting_rows(lengths, max_tokens, max_rows)
    greedy = fill_greedily(rows)
    if max_tokens is None or len(greedy) <= 2:
        return greedy
    candidates = _candidates(lengths, rows, greedy)
    cheapest = functools.partial(_cheapest, lengths, rows, candidates)
    return candidates[few_batches(cheapest, len(greedy) - 1, step_cost * max_tokens)]


def few_batches(cheapest: Callable[[float], list[int]], num_greedy: int, cost: float) -> list[int]:
    """Return the cheapest cuts, with a higher cost of a batch where there are over 4 % more batches than with greedy filling.

    Args:
        cheapest: Returns the cheapest cuts for a cost of a batch.
        num_greedy: Number of batches of greedy filling.
        cost: Cost of a batch to begin with.
    """
    while len(cuts := cheapest(cost)) - 1 > max(num_greedy, int(_MORE_BATCHES * num_greedy)):
        cost = max(2 * cost, 1)
    return cuts


def cuts_per_batch(greedy: Cuts) -> int:
    """Return the number of candidates for a cut in one batch."""
    return max(_CUTS_PER_BATCH, math.isqrt(_BATCHES_TO_COMPARE // len(greedy)))


def path_back(origin: list[int]) -> list[int]:
    """Return the way from candidate 0 to the last one, where ``origin`` has the candidate before each."""
    path = [len(origin) - 1]
    while path[-1]:
        path.append(origin[path[-1]])
    return path[::-1]


def fitting_rows(lengths: Lengths, max_tokens: int | None, max_rows: int | None) -> Lengths:
    """Return the most rows of a batch that begins with each row, ``int64 (N,)``; see `plan_batches` for the arguments.

    Raises:
        ValueError: The first length exceeds ``max_tokens``, or no limit is given.
    """
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
    """Return the cuts that fill each batch as far as possible, which gives the fewest batches, ``int64 (K + 1,)``.

    Args:
        rows: ``int64 (N,)``, most rows of a batch that begins with each row.
    """
    cuts = [0]
    while cuts[-1] < len(rows):
        cuts.append(min(len(rows), cuts[-1] + int(rows[cuts[-1]])))
    return np.array(cuts, dtype=np.int64)


def _candidates(lengths: Lengths, rows: Lengths, greedy: Cuts) -> Cuts:
    """Return the candidates for a cut, ``int64 (C,)``: the greedy cuts, and the largest drop in length in each cell of a grid.

    A cell is a fixed part of a full batch, so ``C`` depends on the number of batches, not on the number of rows.
    """
    starts = run_starts(lengths)
    sizes = np.diff(starts, append=len(lengths))
    cell_rows = np.maximum(rows[starts] // cuts_per_batch(greedy), 1)
    points = -(-sizes // cell_rows)
    point = positions(points)
    rows_at = np.repeat(starts, points) + point * np.repeat(cell_rows, points)
    num_cells = sizes / cell_rows
    cells = np.floor(np.repeat(np.cumsum(num_cells) - num_cells, points) + point + 1e-9)
    drops = np.where(point == 0, np.repeat(-np.diff(lengths[starts], prepend=lengths[0]), points), 0)
    by_drop = np.lexsort((rows_at, -drops, cells))
    best = by_drop[np.flatnonzero(np.diff(cells[by_drop], prepend=-1))]
    merged = np.sort(np.concatenate([greedy, rows_at[best]]))  # np.union1d would import numpy.ma
    return merged[np.flatnonzero(np.diff(merged, prepend=-1))]


def _cheapest(lengths: Lengths, rows: Lengths, candidates: Cuts, cost: float) -> list[int]:
    """Return the indices of the ``candidates`` that minimise padded tokens plus ``cost`` a batch, by dynamic programming.

    ``f(j) = min_i f(i) + (j - i) * length_i + cost`` over the candidates ``i`` with a batch from ``i`` to ``j`` in the limits.
    """
    last = len(candidates) - 1
    reach = (np.searchsorted(candidates, candidates[:-1] + rows[candidates[:-1]], side="right") - 1).tolist()
    at = candidates.tolist()
    longest = lengths[candidates[:-1]].tolist()
    total = [float("inf")] * (last + 1)
    total[0] = 0.0
    origin = [0] * (last + 1)
    for i in range(last):
        length = longest[i]
        base = total[i] + cost - at[i] * length
        for j in range(i + 1, reach[i] + 1):
            sum_to_j = base + at[j] * length
            if sum_to_j < total[j]:
                total[j] = sum_to_j
                origin[j] = i
    return path_back(origin)
