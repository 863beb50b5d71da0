"""The order of a window's rows: longest first, equal lengths mixed."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths
from seqstream.planning.length_counts import run_starts, sorted_order
from seqstream.shuffling import hash_index, mix_all

_GOLDEN = (math.sqrt(5) - 1) / 2

_EVEN = 6
"""Near simple fractions such as 3/5 there are strides whose stretches are clumps of neighbours; those are passed over."""


_SHORT = 4
"""Runs of so few rows, which are most of them, are in one batch as a rule; they are turned round, not mixed."""


@dataclasses.dataclass(frozen=True)
class SpreadTies:
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
    def of(cls, sizes: Index, key: tuple[object, ...] | None) -> SpreadTies:
        """Mix runs of so many rows; ``key=None`` leaves them in the order in which they were read."""
        starts = np.cumsum(sizes) - sizes
        if key is None or not len(sizes):
            return cls(starts, sizes, np.ones_like(sizes), np.zeros_like(sizes))
        return cls(starts, sizes, *_strides(sizes, hash_index(np.arange(len(sizes)), *key, "ties")))

    def rows_at(self, places: Index) -> Index:
        run = np.searchsorted(self.starts, places, side="right") - 1
        start = self.starts[run]
        rows: Index = start + ((places - start) * self.strides[run] + self.offsets[run]) % self.sizes[run]
        return rows

    def places_of(self, rows: Index) -> Index:
        inverses = _inverses(self.strides, self.sizes)
        run = np.searchsorted(self.starts, rows, side="right") - 1
        start = self.starts[run]
        places: Index = start + (rows - start - self.offsets[run]) * inverses[run] % self.sizes[run]
        return places


def longest_first(lengths: Lengths, key: tuple[object, ...] | None) -> Index:
    """Order rows by length, longest first, with rows of equal length spread out, as `SpreadTies` says.

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
    return by_length[SpreadTies.of(np.diff(starts, append=len(lengths)), key).rows_at(np.arange(len(lengths)))]


def _strides(sizes: Index, keys: npt.NDArray[np.uint64]) -> tuple[Index, Index]:
    """Return for each run a stride coprime to its size, near its golden ratio, and an offset, both depending on its key."""
    strides, offsets = np.ones_like(sizes), (keys % sizes.astype(np.uint64)).astype(np.int64)
    left = np.flatnonzero(sizes > _SHORT)
    for attempt in itertools.count():
        if not len(left):
            return strides, offsets
        size, random = sizes[left], mix_all(keys[left] + np.uint64(attempt))
        ratio = _GOLDEN + ((random >> np.uint64(32)).astype(np.float64) / (1 << 32) - 0.5) / 4
        stride = _coprime(np.maximum(1, np.rint(size * ratio).astype(np.int64)), size)
        strides[left], offsets[left] = stride, (random % size.astype(np.uint64)).astype(np.int64)
        left = left[_unevenness(stride, size) > _EVEN + attempt]
    raise AssertionError("unreachable")


def _coprime(strides: Index, sizes: Index) -> Index:
    """Return the next numbers from ``strides`` on that are coprime to ``sizes``."""
    left = np.flatnonzero(np.gcd(strides, sizes) > 1)
    while len(left):
        strides[left] += 1
        left = left[np.gcd(strides[left], sizes[left]) > 1]
    return strides


def _unevenness(strides: Index, sizes: Index) -> npt.NDArray[np.float64]:
    """Return the largest quotient in Euclid's algorithm; the gaps that a stretch leaves are about so many times the mean.

    Numbers are floats, which are exact below 2^53 and quicker to divide. Rests of coprime numbers end at 1 and stay there.
    """
    before, rests = sizes.astype(np.float64), strides.astype(np.float64)
    largest = np.zeros_like(before)
    while (rests > 1).any():
        quotients = np.floor(before / rests)
        largest = np.maximum(largest, quotients)
        before, rests = rests, np.maximum(before - quotients * rests, 1)
    return np.maximum(largest, before)


def _inverses(strides: Index, sizes: Index) -> Index:
    """Return what strides are multiplied with to give 1, modulo sizes coprime to them: Euclid's algorithm, extended."""
    before, rests = sizes.astype(np.float64), strides.astype(np.float64)
    factors, found = np.zeros_like(before), np.ones_like(before)
    while (going := rests > 1).any():
        quotients = np.floor(before / rests)
        factors, found = np.where(going, found, factors), np.where(going, factors - quotients * found, found)
        before, rests = rests, np.maximum(before - quotients * rests, 1)
    return found.astype(np.int64) % sizes
