"""The order of a window's rows: longest first, equal lengths mixed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from seqstream.order import key_of
from seqstream.planning.batches import Lengths

_GOLDEN = (math.sqrt(5) - 1) / 2


def longest_first(lengths: Lengths, key: tuple[object, ...] | None) -> npt.NDArray[np.int64]:
    """Order rows by length, longest first, with rows of equal length spread out.

    Neighbours in a file are often alike, and there may be thousands of rows of one length. So within a run of equal lengths the
    row at place ``j`` is the ``(stride * j + offset) mod n``-th by position, with a stride near the golden ratio of ``n``: any
    stretch of the run, and so any batch, takes its rows evenly from the whole window. The place of a row in its run can be
    computed from its position alone.

    Args:
        lengths: ``int64 (N,)``, in the order in which rows were read.
        key: What strides and offsets depend on; ``None`` leaves equal lengths in the order in which they were read.

    Returns:
        ``int64 (N,)``, rows in their new order.
    """
    if not len(lengths):
        return np.empty(0, dtype=np.int64)
    drop = lengths.max() - lengths
    order = np.argsort(drop.astype(np.uint16) if drop.max() < 1 << 16 else drop, kind="stable")  # 16 bits: radix sort
    if key is None:
        return order
    starts = np.flatnonzero(np.diff(drop[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    strides, offsets = zip(*(_stride(size, number, key_of(*key)) for number, size in enumerate(sizes.tolist())), strict=True)
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    place = (np.arange(len(order)) - begin) * np.repeat(strides, sizes) + np.repeat(offsets, sizes)
    return order[begin + place % size]


def _stride(size: int, number: int, key: int) -> tuple[int, int]:
    """Return a stride coprime to ``size``, near its golden ratio, and an offset, both depending on the key."""
    random = (key ^ number * 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % (1 << 64)
    stride = max(1, round(size * (_GOLDEN + ((random >> 32) / (1 << 32) - 0.5) / 16)))
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride, random % size
