"""Choose a few padded lengths for all batches: pure functions of a histogram of lengths.

Legend: ``M`` the longest row that can occur, ``K`` shapes, ``U`` padded lengths that are considered.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths, ranges

Histogram: TypeAlias = npt.NDArray[np.int64]
"""``int64 (M + 1,)``, how many rows have each length."""


def choose_lengths(counts: Histogram, num_shapes: int, *, multiple_of: int = 1) -> Lengths:
    """Choose the padded lengths that minimise padded tokens over a histogram of lengths.

    No other choice of as many lengths pads less. There are fewer where more would not pad less: every length but the last has
    rows of its own.

    Args:
        counts: ``int64 (M + 1,)``, how many rows of each length were seen. Rows longer than ``M`` cannot occur.
        num_shapes: Most lengths to choose. More pad less, and are more shapes to compile.
        multiple_of: Every chosen length is a multiple of it.

    Returns:
        ``int64 (K,)``, ascending; the last is ``M`` rounded up, so every row has its place.

    Raises:
        ValueError: ``counts`` has no length but 0, or a number is not positive.
    """
    if len(counts) < 2:
        raise ValueError(f"counts must have an entry for every length from 0 to the longest, got {len(counts)} entries")
    for name, value in (("num_shapes", num_shapes), ("multiple_of", multiple_of)):
        if value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value}")
    rows = _rounded(counts, multiple_of)
    seen = np.append(np.flatnonzero(rows[:-1]), len(rows) - 1)
    padded: Lengths = (seen + 1) * multiple_of
    total = np.cumsum(rows[seen])
    return padded[_cheapest_ends(padded, total, num_shapes)]


def shape_of(lengths: Lengths, shape_lengths: Lengths) -> Index:
    """Find the shortest shape that holds each row.

    Args:
        lengths: ``int64 (N,)``, tokens of each row, in any order.
        shape_lengths: ``int64 (K,)``, ascending.

    Returns:
        ``int64 (N,)``, numbers of shapes, from 0.

    Raises:
        ValueError: A row is longer than every shape.
    """
    longest = int(shape_lengths[-1])
    if len(lengths) and lengths.max() > longest:
        raise ValueError(
            f"sequence of {lengths.max():,} tokens cannot fit the longest shape, {longest}; "
            f"add a longer shape or set Tokenize(max_length={longest})"
        )
    return np.searchsorted(shape_lengths, lengths)


def _rounded(counts: Histogram, multiple_of: int) -> Histogram:
    """Count rows by padded length: entry ``i`` is of those that pad to ``(i + 1) * multiple_of``, empty rows in the first."""
    num_lengths = -(-(len(counts) - 1) // multiple_of)
    padded = np.zeros(num_lengths * multiple_of, dtype=np.int64)
    padded[: len(counts) - 1] = counts[1:]
    padded[0] += counts[0]
    rounded: Histogram = padded.reshape(num_lengths, multiple_of).sum(axis=1)
    return rounded


def _cheapest_ends(padded: Lengths, total: Histogram, num_shapes: int) -> Index:
    """Return which of the lengths to take, ascending, the last among them, by dynamic programming over how many.

    With ``k`` lengths of which ``j`` is the last, ``f_k(j) = min_i f_{k-1}(i) + (total[j] - total[i]) * padded[j]``; taking
    ``i = j`` there means that fewer than ``k`` do as well.

    Args:
        padded: ``int64 (U,)``, ascending.
        total: ``int64 (U,)``, rows of at most that length.
        num_shapes: Most lengths to take.
    """
    slots = total * padded
    origins: list[Index] = []
    for _ in range(min(num_shapes, len(padded)) - 1):
        origin = _best_origins(slots, total, padded)
        slots = slots[origin] + (total - total[origin]) * padded
        origins.append(origin)
    ends = [len(padded) - 1]
    for origin in reversed(origins):
        ends.append(int(origin[ends[-1]]))
    return np.flatnonzero(np.bincount(ends))


def _best_origins(slots: Histogram, total: Histogram, padded: Lengths) -> Index:
    """Return for each ``j`` the first ``i`` that minimises ``slots[i] - total[i] * padded[j]``.

    The longer ``j``, the later ``i``: the middle of a stretch of ``j`` bounds both its halves. All middles of one level are
    searched at once, so a level costs ``U`` and there are ``log2(U)`` of them. An ``i`` past ``j`` is never better than ``j``.
    """
    last = len(padded) - 1
    origins = np.zeros(last + 2, dtype=np.int64)
    origins[-1] = last
    step = 1 << ((last + 1).bit_length() - 1)
    while step:
        middles = np.arange(step - 1, last + 1, 2 * step)
        first = np.where(middles >= step, origins[middles - step], 0)
        sizes = origins[np.minimum(middles + step, last + 1)] - first + 1
        starts = np.cumsum(sizes) - sizes
        places = ranges(first, sizes)
        values = slots[places] - total[places] * np.repeat(padded[middles], sizes)
        least = np.repeat(np.minimum.reduceat(values, starts), sizes)
        hits = np.flatnonzero(values == least)
        hits = hits[np.searchsorted(hits, starts)]
        origins[middles] = places[hits]
        step >>= 1
    return origins[:-1]
