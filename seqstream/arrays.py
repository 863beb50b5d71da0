"""Names of array types, and arithmetic of ragged rows: rows of different lengths, concatenated in one flat array."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Index: TypeAlias = npt.NDArray[np.int64]
"""Indices, offsets or counts; the aliases `Lengths` and `Cuts` of the same type say what the integers are."""

Lengths: TypeAlias = npt.NDArray[np.int64]
"""Lengths of rows, in tokens or steps."""

Cuts: TypeAlias = npt.NDArray[np.int64]
"""Boundaries that cut rows into batches: batch ``n`` has rows ``cuts[n]`` to ``cuts[n + 1] - 1``."""

Ids: TypeAlias = npt.NDArray[np.int32]
"""Token ids."""

Mask: TypeAlias = npt.NDArray[np.bool_]


def flat_starts(lengths: Index) -> Index:
    """Return the offset of each row in the flat array, ``int64 (N,)``: lengths ``[2, 3, 1]`` give ``[0, 2, 5]``."""
    starts: Index = np.cumsum(lengths) - lengths
    return starts


def positions(lengths: Index) -> Index:
    """Return the position of each element in its row, ``int64 (T,)``: lengths ``[2, 3, 1]`` give ``[0, 1, 0, 1, 2, 0]``."""
    return ranges(np.zeros(len(lengths), dtype=np.int64), lengths)


def ranges(starts: Index, lengths: Index) -> Index:
    """Return the integers of ranges, one range after the other.

    Args:
        starts: ``int64 (N,)``, first integer of each range.
        lengths: ``int64 (N,)``, number of integers of each range.

    Returns:
        ``int64 (T,)``: starts ``[7, 0]`` and lengths ``[2, 3]`` give ``[7, 8, 0, 1, 2]``.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends):
        return ends
    found: Index = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return found


def evenly_spaced(size: int, count: int) -> list[int]:
    """Return at most ``count`` indices spaced evenly over ``range(size)``, the first and the last included."""
    count = min(size, count)
    return [index * (size - 1) // max(count - 1, 1) for index in range(count)]
