"""Choose a few padded lengths for all batches: pure functions of a histogram of lengths.

Legend: ``M`` greatest possible length, ``K`` shapes, ``U`` candidates for a padded length, ``N`` rows.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths, flat_starts, ranges

Histogram: TypeAlias = npt.NDArray[np.int64]
"""``int64 (M + 1,)``, number of rows of each length."""


def choose_lengths(counts: Histogram, num_shapes: int, *, multiple_of: int = 1) -> Lengths:
    """Choose the padded lengths that minimise padded tokens over a histogram of lengths.

    No other choice of as many lengths pads less. There are fewer lengths where more would not pad less: every length except the
    last is the padded length of some rows.

    Args:
        counts: ``int64 (M + 1,)``, number of rows of each length in a sample.
        num_shapes: Most lengths to choose. More pad less, but are more shapes to compile.
        multiple_of: Every chosen length is a multiple of it.

    Returns:
        ``int64 (K,)``, ascending; the last is ``M`` rounded up, so every row fits.

    Raises:
        ValueError: ``counts`` has no entry besides length 0, or a number is not positive.
    """
    if len(counts) < 2:
        raise ValueError(f"counts must have an entry for every length from 0 to the longest, got {len(counts)} entries")
    for name, value in (("num_shapes", num_shapes), ("multiple_of", multiple_of)):
        if value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value}")
    rows = _rounded(counts, multiple_of)
    used = np.append(np.flatnonzero(rows[:-1]), len(rows) - 1)
    padded: Lengths = (used + 1) * multiple_of
    total = np.cumsum(rows[used])
    return padded[_cheapest_ends(padded, total, num_shapes)]


def shape_of(lengths: Lengths, shape_lengths: Lengths) -> Index:
    """Return the index of the shortest shape that each row fits, ``int64 (N,)``.

    Args:
        lengths: ``int64 (N,)``, tokens of each row, in any order.
        shape_lengths: ``int64 (K,)``, ascending.

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
    """Count rows by padded length: entry ``i`` is for ``(i + 1) * multiple_of``, and the first entry for empty rows too."""
    num_lengths = -(-(len(counts) - 1) // multiple_of)
    padded = np.zeros(num_lengths * multiple_of, dtype=np.int64)
    padded[: len(counts) - 1] = counts[1:]
    padded[0] += counts[0]
    rounded: Histogram = padded.reshape(num_lengths, multiple_of).sum(axis=1)
    return rounded


def _cheapest_ends(padded: Lengths, total: Histogram, num_shapes: int) -> Index:
    """Return the indices of the lengths to choose, ascending and with the last one, by dynamic programming.

    With ``k`` lengths, ``j`` the last of them, ``f_k(j) = min_i f_{k-1}(i) + (total[j] - total[i]) * padded[j]``; if ``i = j``
    is best, fewer than ``k`` lengths pad no more.

    Args:
        padded: ``int64 (U,)``, ascending.
        total: ``int64 (U,)``, number of rows of at most each length.
        num_shapes: Most lengths to choose.
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

    The best ``i`` never decreases with ``j``, so that of the middle of a range of ``j`` bounds those of both halves. All
    middles of a level are searched at once: a level costs ``U``, and there are ``log2(U)`` levels. No ``i`` beyond ``j`` is
    better than ``j``.
    """
    last = len(padded) - 1
    origins = np.zeros(last + 2, dtype=np.int64)
    origins[-1] = last
    stride = 1 << ((last + 1).bit_length() - 1)
    while stride:
        middles = np.arange(stride - 1, last + 1, 2 * stride)
        first = np.where(middles >= stride, origins[middles - stride], 0)
        sizes = origins[np.minimum(middles + stride, last + 1)] - first + 1
        starts = flat_starts(sizes)
        candidates = ranges(first, sizes)
        values = slots[candidates] - total[candidates] * np.repeat(padded[middles], sizes)
        least = np.repeat(np.minimum.reduceat(values, starts), sizes)
        hits = np.flatnonzero(values == least)
        hits = hits[np.searchsorted(hits, starts)]
        origins[middles] = candidates[hits]
        stride >>= 1
    return origins[:-1]
