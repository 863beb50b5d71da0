"""Rows by length: how many rows have each length, and the order of rows by length.

Legend: ``N`` rows, ``D`` distinct lengths, ``S`` sides (the sequences of a row, such as source and target).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Index, Lengths, flat_starts
from seqstream.planning.sides import Sides

_DENSE = 1 << 20
"""Lengths below this are counted by ``np.bincount``, without sorting."""


@dataclasses.dataclass(frozen=True)
class LengthCounts:
    """How many rows of a window have each length: all data that a plan depends on.

    Attributes:
        lengths: ``int64 (D,)``, descending; ``(D, S)`` for rows of several sides, by the first side, then the second.
        counts: ``int64 (D,)``, the number of rows of each length.
        sides: What the numbers of each side are; ``None`` for lengths.
    """

    lengths: Lengths
    counts: Index
    sides: Sides | None = None

    @classmethod
    def of(cls, lengths: Lengths) -> LengthCounts:
        """Return the counts of lengths in any order, ``int64 (N,)`` or ``(N, S)``."""
        if _is_dense(lengths):
            counts = np.bincount(lengths)
            seen = np.flatnonzero(counts)[::-1]
            return cls(seen, counts[seen])
        ordered = lengths[sorted_order(lengths)]
        starts = run_starts(ordered)
        return cls(ordered[starts], np.diff(starts, append=len(ordered)))

    @property
    def num_rows(self) -> int:
        return int(self.counts.sum())

    @property
    def tokens(self) -> Lengths:
        """Number of tokens of a row of each length, on all sides, ``int64 (D,)``."""
        if self.sides is not None:
            return self.sides.tokens(self.lengths)
        return self.lengths if self.lengths.ndim == 1 else self.lengths.sum(axis=1)

    @property
    def num_tokens(self) -> int:
        return int((self.tokens * self.counts).sum())

    @property
    def starts(self) -> Index:
        """Row number of the first row of each length, ``int64 (D,)``."""
        return flat_starts(self.counts)

    def scaled(self, factor: float) -> LengthCounts:
        """Return the counts of ``factor`` times as many rows, or groups of them, with the same lengths."""
        sizes = np.ones_like(self.counts) if self.sides is None else np.maximum(self.sides.rows(self.lengths), 1)
        ends = np.rint(np.cumsum(self.counts // sizes) * factor).astype(np.int64)
        counts = np.diff(ends, prepend=0) * sizes
        return LengthCounts(self.lengths[counts > 0], counts[counts > 0], self.sides)

    def every(self, stride: int) -> Lengths:
        """Return the lengths of the rows with the row numbers ``0``, ``stride``, ``2 * stride`` and so on."""
        if stride == 1:
            return np.repeat(self.lengths, self.counts, axis=0)
        ends = -(-np.cumsum(self.counts) // stride)
        return np.repeat(self.lengths, np.diff(ends, prepend=0), axis=0)


def sorted_order(lengths: Lengths) -> Index:
    """Return the rows longest first, ``int64 (N,)``; rows of equal length, on all sides, keep their order."""
    if lengths.ndim == 2:
        return np.lexsort([-lengths[:, side] for side in reversed(range(lengths.shape[1]))])
    most = int(lengths.max(initial=0))
    if most - int(lengths.min(initial=most)) >= 1 << 16:
        return np.argsort(most - lengths, kind="stable")
    drop = np.uint16(most % (1 << 16)) - lengths.astype(np.uint16)  # modulo 2^16; NumPy sorts 16 bits by radix
    return np.argsort(drop, kind="stable")


def sorted_within(parts: Index, lengths: Lengths) -> Index:
    """Return the rows by part, and within a part longest first, ``int64 (N,)``; equal rows keep their order.

    Args:
        parts: ``int64 (N,)``, number of the part of each row.
        lengths: ``int64 (N,)``.
    """
    order = sorted_order(lengths)
    return order[sorted_order(-parts[order])]


def distinct(lengths: Lengths) -> tuple[Lengths, Index]:
    """Return the distinct lengths, descending, ``int64 (D,)`` or ``(D, S)``, and the index of each length, ``int64 (N,)``."""
    if _is_dense(lengths):
        seen = np.bincount(lengths) > 0
        num_longer = np.cumsum(seen[::-1])[::-1] - 1
        return np.flatnonzero(seen)[::-1], num_longer[lengths]
    order = sorted_order(lengths)
    ordered = lengths[order].astype(np.int64)
    starts = run_starts(ordered)
    index = np.empty(len(lengths), dtype=np.int64)
    index[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(lengths)))
    return ordered[starts], index


def _is_dense(lengths: Lengths) -> bool:
    return lengths.ndim == 1 and int(lengths.max(initial=0)) < _DENSE


def run_starts(ordered: Lengths) -> Index:
    """Return the first row of each run of equal lengths, ``int64 (D,)``."""
    if not len(ordered):
        return np.empty(0, dtype=np.int64)
    differs = np.diff(ordered, axis=0) != 0
    if differs.ndim == 2:
        differs = differs.any(axis=1)
    return np.append(0, 1 + np.flatnonzero(differs))
