"""The order of the rows of a window: longest first, with rows of equal length spread out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths, flat_starts
from seqstream.planning.length_counts import run_starts, sorted_order
from seqstream.shuffling import hash_index, mix_all

_GOLDEN = (math.sqrt(5) - 1) / 2

_MAX_UNEVENNESS = 6
"""Strides near simple fractions such as 3/5 of a run take clumps of neighbours; strides above this unevenness are skipped."""

_LARGE = 1 << 26
"""Products of two positions in runs of fewer rows are below 2^52."""

_SHORT = 4
"""Runs up to this many rows, which are most runs, usually fit in one batch; they are rotated, not spread out."""


@dataclasses.dataclass(frozen=True)
class SpreadTies:
    """A `RowOrder` that is longest first, with rows of equal length spread out.

    Neighbours in a file are often similar, and thousands of rows may have the same length. So place ``j`` of a run of ``n``
    equal lengths holds the row ``(stride * j + offset) mod n`` of the run, with a stride near the golden ratio times ``n``.
    Then any range of places, and so any batch, takes its rows evenly from the whole window. Both directions are computed, not
    looked up.

    Attributes:
        starts: ``int64 (D,)``, first row number of each run.
        sizes: ``int64 (D,)``, number of rows of each run, all positive.
        strides: ``int64 (D,)``, each coprime to the size of its run.
        offsets: ``int64 (D,)``.
    """

    starts: Index
    sizes: Index
    strides: Index
    offsets: Index

    @classmethod
    def of(cls, sizes: Index, key: tuple[object, ...] | None) -> SpreadTies:
        """Return the order of runs of these sizes; with ``key=None`` rows of equal length stay in the order of the data."""
        starts = flat_starts(sizes)
        if key is None or not len(sizes):
            return cls(starts, sizes, np.ones_like(sizes), np.zeros_like(sizes))
        return cls(starts, sizes, *_strides(sizes, hash_index(np.arange(len(sizes)), *key, "ties")))

    def rows_at(self, places: Index) -> Index:
        run = self._runs_of(places)
        start = self.starts[run]
        return start + self._within((places - start) * self.strides[run] + self.offsets[run], run)

    def places_of(self, rows: Index) -> Index:
        inverses = _inverses(self.strides, self.sizes)
        run = self._runs_of(rows)
        start = self.starts[run]
        return start + self._within((rows - start - self.offsets[run]) * inverses[run], run)

    def _runs_of(self, places: Index) -> Index:
        """Return the run of each place or row number; those that ascend, as most do, are counted instead of looked up."""
        if places.ndim == 1 and (places[1:] >= places[:-1]).all():
            firsts = np.searchsorted(places, self.starts)
            return np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(places)))
        return np.searchsorted(self.starts, places, side="right") - 1

    def _within(self, positions: Index, run: Index) -> Index:
        """Return positions modulo the sizes of their runs; quotients of floats are exact below 2^53, and faster."""
        sizes = self.sizes[run]
        found: Index = positions % sizes if self._is_large else positions - np.floor(positions / sizes).astype(np.int64) * sizes
        return found

    @functools.cached_property
    def _is_large(self) -> bool:
        """Whether a product of positions in a run may exceed 2^53."""
        return int(self.sizes.max(initial=0)) >= _LARGE


def longest_first(lengths: Lengths, key: tuple[object, ...] | None) -> Index:
    """Return rows longest first, with rows of equal length spread out as in `SpreadTies`.

    Args:
        lengths: ``int64 (N,)``, in the order of the data.
        key: Seeds strides and offsets; ``None`` leaves rows of equal length in the order of the data.

    Returns:
        ``int64 (N,)``, rows in their new order.
    """
    by_length = sorted_order(lengths)
    if key is None:
        return by_length
    starts = run_starts(lengths[by_length])
    return by_length[SpreadTies.of(np.diff(starts, append=len(lengths)), key).rows_at(np.arange(len(lengths)))]


def _strides(sizes: Index, keys: npt.NDArray[np.uint64]) -> tuple[Index, Index]:
    """Return for each run a stride, coprime to its size and near the golden ratio of it, and an offset, both by its key."""
    strides, offsets = np.ones_like(sizes), (keys % sizes.astype(np.uint64)).astype(np.int64)
    left = np.flatnonzero(sizes > _SHORT)
    for attempt in itertools.count():
        if not len(left):
            return strides, offsets
        size, random = sizes[left], mix_all(keys[left] + np.uint64(attempt))
        ratio = _GOLDEN + ((random >> np.uint64(32)).astype(np.float64) / (1 << 32) - 0.5) / 4
        stride = _coprime(np.maximum(1, np.rint(size * ratio).astype(np.int64)), size)
        strides[left], offsets[left] = stride, (random % size.astype(np.uint64)).astype(np.int64)
        left = left[_unevenness(stride, size) > _MAX_UNEVENNESS + attempt]
    raise AssertionError("unreachable")


def _coprime(strides: Index, sizes: Index) -> Index:
    """Return the least numbers that are at least ``strides`` and coprime to ``sizes``."""
    left = np.flatnonzero(np.gcd(strides, sizes) > 1)
    while len(left):
        strides[left] += 1
        left = left[np.gcd(strides[left], sizes[left]) > 1]
    return strides


def _unevenness(strides: Index, sizes: Index) -> npt.NDArray[np.float64]:
    """Return the largest quotient in Euclid's algorithm: about the largest gap between the rows of a batch, in mean gaps.

    Numbers are floats, which are exact below 2^53 and faster to divide. The remainders of coprime numbers end at 1.
    """
    before, remainders = sizes.astype(np.float64), strides.astype(np.float64)
    largest = np.zeros_like(before)
    while (remainders > 1).any():
        quotients = np.floor(before / remainders)
        largest = np.maximum(largest, quotients)
        before, remainders = remainders, np.maximum(before - quotients * remainders, 1)
    return np.maximum(largest, before)


def _inverses(strides: Index, sizes: Index) -> Index:
    """Return the modular inverses of strides, by the extended Euclidean algorithm; ``sizes`` are the moduli."""
    before, remainders = sizes.astype(np.float64), strides.astype(np.float64)
    factors, found = np.zeros_like(before), np.ones_like(before)
    while (is_open := remainders > 1).any():
        quotients = np.floor(before / remainders)
        factors, found = np.where(is_open, found, factors), np.where(is_open, factors - quotients * found, found)
        before, remainders = remainders, np.maximum(before - quotients * remainders, 1)
    return found.astype(np.int64) % sizes
