"""The order of a window's rows: longest first, equal lengths mixed."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from seqstream.order import hash_index, mix
from seqstream.planning.batches import Lengths
from seqstream.planning.plan import Index
from seqstream.planning.runs import run_starts, sorted_order

_GOLDEN = (math.sqrt(5) - 1) / 2

_EVEN = 6
"""Near simple fractions such as 3/5 there are strides whose stretches are clumps of neighbours; those are passed over."""


_SHORT = 4
"""Runs of so few rows, which are most of them, are in one batch as a rule; they are turned round, not mixed."""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Rows longest first, with those of equal length spread out; a row is its number as sorted.

    Neighbours in a file are often alike, and there may be thousands of rows of one length. So within a run of equal lengths the
    row at place ``j`` is the ``(stride * j + offset) mod n``-th by position, with a stride near the golden ratio of ``n``: any
    stretch of the run, and so any batch, takes its rows evenly from the whole window. Both ways it is computed, not looked up.

    Attributes:
        starts: ``int64 (D,)``, first row of each run.
        sizes: ``int64 (D,)``, all positive.
        strides: ``int64 (D,)``, each coprime to its size.
        offsets: ``int64 (D,)``.
    """

    starts: Index
    sizes: Index
    strides: Index
    offsets: Index

    @classmethod
    def of(cls, sizes: Index, key: tuple[object, ...] | None) -> Mixed:
        """Mix runs of so many rows; ``key=None`` leaves them in the order in which they were read."""
        starts = np.cumsum(sizes) - sizes
        if key is None or not len(sizes):
            return cls(starts, sizes, np.ones_like(sizes), np.zeros_like(sizes))
        mixed = [_stride(*run) for run in zip(sizes.tolist(), _run_keys(len(sizes), key), strict=True)]
        strides, offsets = np.array(mixed, dtype=np.int64).T
        return cls(starts, sizes, strides, offsets)

    def rows_at(self, places: Index) -> Index:
        run = np.searchsorted(self.starts, places, side="right") - 1
        start = self.starts[run]
        rows: Index = start + ((places - start) * self.strides[run] + self.offsets[run]) % self.sizes[run]
        return rows

    def places_of(self, rows: Index) -> Index:
        inverses = [pow(*pair) for pair in zip(self.strides.tolist(), [-1] * len(self.sizes), self.sizes.tolist(), strict=True)]
        run = np.searchsorted(self.starts, rows, side="right") - 1
        start = self.starts[run]
        inverse = np.array(inverses, dtype=np.int64)[run]
        places: Index = start + (rows - start - self.offsets[run]) * inverse % self.sizes[run]
        return places


def longest_first(lengths: Lengths, key: tuple[object, ...] | None) -> Index:
    """Order rows by length, longest first, with rows of equal length spread out, as `Mixed` says.

    Args:
        lengths: ``int64 (N,)``, in the order in which rows were read.
        key: What strides and offsets depend on; ``None`` leaves equal lengths in the order in which they were read.

    Returns:
        ``int64 (N,)``, rows in their new order.
    """
    by_length = sorted_order(lengths)
    if key is None:
        return by_length
    starts = run_starts(lengths[by_length])
    return by_length[Mixed.of(np.diff(starts, append=len(lengths)), key).rows_at(np.arange(len(lengths)))]


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
