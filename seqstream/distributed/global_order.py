"""The row numbers of the rows of each rank: they follow from how many rows of each length all ranks have.

Legend: ``N`` rows of all ranks, ``n`` rows of this rank, ``D`` distinct lengths, ``S`` sides, ``C`` counts of all parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths, ranges
from seqstream.arrow import join
from seqstream.distributed.collectives import Ranks
from seqstream.planning.length_counts import LengthCounts, distinct, sorted_order

_PartCounts: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""The distinct lengths of a part, descending, and the number of its rows of each length."""

_INT64 = np.dtype(np.int64)

_ID_BYTES = 8
"""Bytes of the row id at the beginning of the message of a rank."""


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """The order of all rows of a window by length, and the rows of this rank in it.

    The row number of a row is its position among the rows of all ranks, longest first, with rows of equal length in the order
    of the data.

    Attributes:
        length_counts: The rows of all ranks by length.
        numbers: ``int64 (n,)``, row numbers of this rank's rows, ascending.
        rows: ``int32 (n,)``, the row of this rank's table, in the order of the data, with each of these row numbers.
        first_row_id: Row id of the first row of all ranks, in the order of the data; -1 if there is none.
    """

    length_counts: LengthCounts
    numbers: Index
    rows: npt.NDArray[np.int32]
    first_row_id: int = -1

    def row_of(self, numbers: Index) -> Index:
        """Return the rows of this rank's table with these row numbers, all of which it must have."""
        if len(self.numbers) == self.length_counts.num_rows:  # it has all rows
            return self.rows[numbers].astype(np.int64)
        return self.rows[np.searchsorted(self.numbers, numbers)].astype(np.int64)


def gather_lengths(parts: Sequence[Lengths], owners: Sequence[int], ranks: Ranks, first_row_id: int = -1) -> GlobalOrder:
    """Exchange how many rows of each length all ranks have, and return the row numbers of this rank's rows.

    Args:
        parts: Lengths of the rows of each part of this rank, ``int64 (n,)`` or ``(n, S)``, in the order of the data.
        owners: The rank that has each part of the window, in the order of the data.
        ranks: All ranks, which call this together.
        first_row_id: Row id of the first row of this rank; -1 if it has none.
    """
    messages = ranks.all_gather(encode_counts([LengthCounts.of(part) for part in parts], first_row_id))
    by_rank = [_decode(message[_ID_BYTES:]) for message in messages]
    all_parts = [next(by_rank[owner]) for owner in owners]
    first_owner = next((owner for owner, (lengths, _) in zip(owners, all_parts, strict=True) if len(lengths)), None)
    first_row_id = -1 if first_owner is None else int.from_bytes(messages[first_owner][:_ID_BYTES], "little", signed=True)
    lengths, index = distinct(_joined([lengths for lengths, _ in all_parts]))
    counts = np.concatenate([counts for _, counts in all_parts])
    length_counts = LengthCounts(lengths, _sums(index, counts, len(lengths)))
    ends = np.cumsum([len(counts) for _, counts in all_parts])
    numbers, rows = [], []
    num_before = 0
    for part, at in zip(parts, (at for at, owner in enumerate(owners) if owner == ranks.rank), strict=True):
        first, stop = ends[at] - len(all_parts[at][1]), ends[at]
        firsts = length_counts.starts + _sums(index[:first], counts[:first], len(lengths))  # after the rows of earlier parts
        numbers.append(ranges(firsts[index[first:stop]], counts[first:stop]))
        rows.append(sorted_order(part))
        rows[-1] += num_before
        num_before += len(part)
    own, order = join(numbers, _INT64), join(rows, _INT64)
    if len(parts) > 1:
        ascending = np.argsort(own)
        own, order = own[ascending], order[ascending]
    return GlobalOrder(length_counts, own, order.astype(np.int32), first_row_id)


def _sums(index: Index, counts: Index, num_lengths: int) -> Index:
    """Return the sum of the counts of each length, ``int64 (num_lengths,)``; sums of floats below 2^53 are exact."""
    return np.bincount(index, weights=counts, minlength=num_lengths).astype(np.int64)


def _joined(lengths: Sequence[npt.NDArray[np.int32]]) -> Lengths:
    """Return the lengths of all parts; parts without rows may have another number of sides."""
    kept = [each for each in lengths if len(each)] or list(lengths[:1])
    return np.concatenate(kept).astype(np.int64)


def encode_counts(parts: Sequence[LengthCounts], first_row_id: int = -1) -> bytes:
    """Return the message of a rank: its first row id, and ``int32`` with its parts.

    These are the number, sides and sizes of parts, then all counts and all lengths. The number of sides is 0 where lengths are
    ``(D,)``. A part without rows may have none though other parts have sides.
    """
    sides = max((part.lengths.shape[1] for part in parts if part.lengths.ndim == 2), default=0)
    head = np.array([len(parts), sides, *(len(part.counts) for part in parts)], dtype=np.int64)
    counts, lengths = ([getattr(part, name).ravel() for part in parts] for name in ("counts", "lengths"))
    words = np.concatenate([head, *counts, *lengths]).astype(np.int32)
    return first_row_id.to_bytes(_ID_BYTES, "little", signed=True) + words.tobytes()


def _decode(data: bytes) -> Iterator[_PartCounts]:
    """Yield the counts of each part of a rank from its message."""
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
