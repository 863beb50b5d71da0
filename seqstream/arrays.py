"""Arithmetic of ragged rows: rows of their own lengths, one after the other in one flat array."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Index: TypeAlias = npt.NDArray[np.int64]
Lengths: TypeAlias = npt.NDArray[np.int64]
Cuts: TypeAlias = npt.NDArray[np.int64]
Ids: TypeAlias = npt.NDArray[np.int32]
Mask: TypeAlias = npt.NDArray[np.bool_]


def flat_starts(lengths: Index) -> Index:
    """Return the first element of each of ``N`` rows among all ``T``, ``int64 (N,)``: ``[2, 3, 1]`` gives ``[0, 2, 5]``."""
    starts: Index = lengths.cumsum() - lengths
    return starts


def positions(lengths: Index) -> Index:
    """Return the position of each element in its row, ``int64 (T,)``: ``[2, 3, 1]`` gives ``[0, 1, 0, 1, 2, 0]``."""
    return ranges(np.zeros(len(lengths), dtype=np.int64), lengths)


def ranges(starts: Index, lengths: Index) -> Index:
    """Return the elements of ranges, one range after the other.

    Args:
        starts: ``int64 (N,)``, first element of each range.
        lengths: ``int64 (N,)``, number of its elements.

    Returns:
        ``int64 (T,)``: starts ``[7, 0]`` and lengths ``[2, 3]`` give ``[7, 8, 0, 1, 2]``.
    """
    ends: Index = lengths.cumsum(dtype=np.int64)
    if not len(ends):
        return ends
    found: Index = np.repeat(starts - (ends - lengths), lengths)
    found += np.arange(len(found))
    return found
