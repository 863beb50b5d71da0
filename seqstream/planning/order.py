"""The order of a window's rows: longest first, equal lengths mixed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from seqstream.order import hash_index, mix
from seqstream.planning.batches import Lengths

_GOLDEN = (math.sqrt(5) - 1) / 2

_EVEN = 6
"""Near simple fractions such as 3/5 there are strides whose stretches are clumps of neighbours; those are passed over."""


_SHORT = 4
"""Runs of so few rows, which are most of them, are in one batch as a rule; they are turned round, not mixed."""


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
    strides, offsets = zip(
        *(_stride(*run) for run in zip(sizes.tolist(), _run_keys(len(sizes), key), strict=True)), strict=True
    )
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    place = (np.arange(len(order)) - begin) * np.repeat(strides, sizes) + np.repeat(offsets, sizes)
    mixed: npt.NDArray[np.int64] = order[begin + place % size]
    return mixed


def _run_keys(num_runs: int, key: tuple[object, ...]) -> list[int]:
    keys: list[int] = hash_index(np.arange(num_runs), *key, "ties").tolist()
    return keys


def _stride(size: int, key: int) -> tuple[int, int]:
    """Return a stride coprime to ``size``, near its golden ratio, and an offset, both depending on the key."""
    if size <= _SHORT:
        return 1, key % size
    for attempt in itertools.count():
        random = mix(key + attempt)
        stride = max(1, round(size * (_GOLDEN + ((random >> 32) / (1 << 32) - 0.5) / 4)))
        while math.gcd(stride, size) > 1:
            stride += 1
        if _unevenness(stride, size) <= _EVEN + attempt:
            break
    return stride, random % size


def _unevenness(stride: int, size: int) -> int:
    """Return the largest quotient in Euclid's algorithm; the gaps that a stretch leaves are about so many times the mean."""
    largest = 0
    while stride:
        quotient, rest = divmod(size, stride)
        largest = max(largest, quotient)
        size, stride = stride, rest
    return largest
