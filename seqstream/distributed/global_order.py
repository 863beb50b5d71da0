"""Which rank has which rows of a window: known to all from how many rows of each length everybody has.

Legend: ``N`` rows of all ranks, ``n`` rows of this one, ``D`` different lengths, ``S`` sides, ``C`` counts of all parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths, ranges
from seqstream.distributed.collectives import Ranks
from seqstream.planning.length_counts import LengthCounts, distinct, sorted_order

_Counts: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""The different lengths of a part, descending, and how many of its rows have each."""

_ID_BYTES = 8
"""Bytes of a row id at the beginning of what a rank sends."""


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """The rows of a window by length, and which of them this rank has.

    A row's number is its place among all rows sorted by length, those of equal length in the order of the data.

    Attributes:
        runs: The lengths of all rows.
        numbers: ``int64 (n,)``, of this rank's own rows, ascending.
        rows: ``int32 (n,)``, which of its rows, in the order of the data, each of those is.
        first_row_id: Row id of the first of all rows in the order of the data; -1 if there is none.
    """

    runs: LengthCounts
    numbers: Index
    rows: npt.NDArray[np.int32]
    first_row_id: int = -1

    def row_of(self, numbers: Index) -> Index:
        """Return which of this rank's own rows each is."""
        if len(self.numbers) == self.runs.num_rows:  # all of them
            return self.rows[numbers].astype(np.int64)
        return self.rows[np.searchsorted(self.numbers, numbers)].astype(np.int64)


def gather_lengths(parts: Sequence[Lengths], owners: Sequence[int], ranks: Ranks, first_row_id: int = -1) -> GlobalOrder:
    """Gather how many rows of each length everybody has.

    Args:
        parts: The lengths of this rank's rows, ``int64 (n,)`` or ``(n, S)`` for each of its parts, in the order of the data.
        owners: Which rank has each part of the window.
        ranks: Who takes part.
        first_row_id: Row id of the first of this rank's rows; -1 if it has none.
    """
    received = ranks.all_gather(encode_counts([LengthCounts.of(part) for part in parts], first_row_id))
    told = [_decode(data[_ID_BYTES:]) for data in received]
    found = [next(told[owner]) for owner in owners]
    first_owner = next((owner for owner, (lengths, _) in zip(owners, found, strict=True) if len(lengths)), None)
    first_row_id = -1 if first_owner is None else int.from_bytes(received[first_owner][:_ID_BYTES], "little", signed=True)
    lengths, number = distinct(_joined([lengths for lengths, _ in found]))
    counts = np.concatenate([counts for _, counts in found])
    runs = LengthCounts(lengths, _sums(number, counts, len(lengths)))
    ends = np.cumsum([len(counts) for _, counts in found])
    numbers, rows = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    before = 0
    for part, at in zip(parts, (at for at, owner in enumerate(owners) if owner == ranks.rank), strict=True):
        first, stop = ends[at] - len(found[at][1]), ends[at]
        firsts = runs.starts + _sums(number[:first], counts[:first], len(lengths))  # what comes before it in the data
        numbers.append(ranges(firsts[number[first:stop]], counts[first:stop]))
        rows.append(before + sorted_order(part))
        before += len(part)
    own, order = np.concatenate(numbers), np.concatenate(rows)
    if len(parts) > 1:
        ascending = np.argsort(own)
        own, order = own[ascending], order[ascending]
    return GlobalOrder(runs, own, order.astype(np.int32), first_row_id)


def _sums(number: Index, counts: Index, num_lengths: int) -> Index:
    """Add up the counts of each length; they are exact as floats, being far below 2^53."""
    return np.bincount(number, weights=counts, minlength=num_lengths).astype(np.int64)


def _joined(lengths: Sequence[npt.NDArray[np.int32]]) -> Lengths:
    """Return all lengths; parts with no rows may not know how many sides rows have."""
    kept = [each for each in lengths if len(each)] or list(lengths[:1])
    return np.concatenate(kept).astype(np.int64)


def encode_counts(parts: Sequence[LengthCounts], first_row_id: int = -1) -> bytes:
    """Return what a rank sends of its rows: its first row id, and as ``int32`` what it has in each part.

    That is the number of parts, their sides and sizes, then all counts and all lengths. Sides are 0 where lengths are ``(D,)``;
    where there are sides, some part may have no rows and not know it.
    """
    sides = max((part.lengths.shape[1] for part in parts if part.lengths.ndim == 2), default=0)
    head = np.array([len(parts), sides, *(len(part.counts) for part in parts)], dtype=np.int64)
    counts, lengths = ([getattr(part, name).ravel() for part in parts] for name in ("counts", "lengths"))
    words = np.concatenate([head, *counts, *lengths]).astype(np.int32)
    return first_row_id.to_bytes(_ID_BYTES, "little", signed=True) + words.tobytes()


def _decode(data: bytes) -> Iterator[_Counts]:
    """Yield what a rank has told of each of its parts."""
    words = np.frombuffer(data, dtype=np.int32)
    num, sides, *sizes = words[: 2 + int(words[0])].tolist()
    first = 2 + num
    lengths = words[first + sum(sizes) :]
    if sides:
        lengths = lengths.reshape(-1, sides)
    begin = 0
    for size in sizes:
        yield lengths[begin : begin + size], words[first + begin : first + begin + size]
        begin += size
