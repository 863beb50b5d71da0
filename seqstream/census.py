"""Which rank has which rows of a window: known to all from how many rows of each length everybody has.

Legend: ``N`` rows of all ranks, ``n`` rows of this one, ``D`` different lengths, ``Q`` parts of the window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.planning.batches import Lengths
from seqstream.planning.plan import Index
from seqstream.planning.runs import Runs, run_starts, sorted_order
from seqstream.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class Census:
    """The rows of a window by length and by who has them.

    A row's number is its place among all rows sorted by length, those of equal length in the order of the data.

    Attributes:
        runs: The lengths of all rows.
        owners: ``int64 (Q,)``, which rank has each part, in the order of the data.
        boundaries: ``int64 (D * Q,)``, number of the first row of each length in each part.
        numbers: ``int64 (n,)``, of this rank's own rows, ascending.
        rows: ``int64 (n,)``, which of its rows, in the order of the data, each of those is.
    """

    runs: Runs
    owners: Index
    boundaries: Index
    numbers: Index
    rows: Index

    def owner_of(self, numbers: Index) -> Index:
        """Return the rank that has each row."""
        cells = np.searchsorted(self.boundaries, numbers, side="right") - 1
        owner: Index = self.owners[cells % len(self.owners)]
        return owner

    def row_of(self, numbers: Index) -> Index:
        """Return which of this rank's own rows each is."""
        if len(self.numbers) == self.runs.num_rows:  # all of them
            return self.rows[numbers]
        return self.rows[np.searchsorted(self.numbers, numbers)]


def take_census(parts: Sequence[Lengths], owners: Sequence[int], ranks: Ranks) -> Census:
    """Gather how many rows of each length everybody has.

    Args:
        parts: The lengths of this rank's rows, ``int64 (n,)`` or ``(n, S)`` for each of its parts, in the order of the data.
        owners: Which rank has each part of the window.
        ranks: Who takes part.
    """
    told = [
        [_decode(part) for part in _unpack(data)] for data in ranks.gather(_pack([_encode(Runs.of(part)) for part in parts]))
    ]
    queues = [iter(each) for each in told]
    found = [next(queues[owner]) for owner in owners]
    lengths = _joined([runs.lengths for runs in found])
    by_length = sorted_order(lengths)
    starts = run_starts(lengths[by_length])
    number = np.empty(len(lengths), dtype=np.int64)
    number[by_length] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(lengths)))
    part = np.repeat(np.arange(len(found)), [len(runs.counts) for runs in found])
    counts = np.zeros((len(starts), len(found)), dtype=np.int64)
    counts[number, part] = np.concatenate([runs.counts for runs in found])
    cells = counts.ravel()
    boundaries = np.cumsum(cells) - cells
    own = [at for at, owner in enumerate(owners) if owner == ranks.rank]
    numbered = [
        _numbers(number[part == at], boundaries[at :: len(found)], found[at].counts) for at in own
    ]  # of the rows of each part, as sorted
    firsts = np.cumsum([0, *map(len, parts)])
    numbers = np.concatenate([np.empty(0, dtype=np.int64), *numbered])
    rows = np.concatenate([np.empty(0, dtype=np.int64), *map(_shifted, map(sorted_order, parts), firsts)])
    if len(own) > 1:
        ascending = np.argsort(numbers)
        numbers, rows = numbers[ascending], rows[ascending]
    runs = Runs(lengths[by_length][starts], counts.sum(axis=1))
    return Census(runs, np.array(owners), boundaries, numbers, rows)


def _numbers(lengths: Index, boundaries: Index, counts: Index) -> Index:
    """Number the rows of a part, as sorted, which has so many of each of some lengths."""
    before = np.cumsum(counts) - counts
    numbers: Index = np.arange(counts.sum()) + np.repeat(boundaries[lengths] - before, counts)
    return numbers


def _shifted(order: Index, first: int) -> Index:
    return order + first


def _joined(lengths: Sequence[Lengths]) -> Lengths:
    """Return all lengths; parts with no rows may not know how many sides rows have."""
    kept = [each for each in lengths if len(each)] or list(lengths[:1])
    return np.concatenate(kept)


def _encode(runs: Runs) -> bytes:
    sides = 0 if runs.lengths.ndim == 1 else runs.lengths.shape[1]
    head = np.array([len(runs.counts), sides])
    return np.concatenate([head, runs.counts, runs.lengths.ravel()]).astype(np.int32).tobytes()


def _decode(data: bytes) -> Runs:
    num, sides, *_ = values = np.frombuffer(data, dtype=np.int32).astype(np.int64)
    lengths = values[2 + num :]
    return Runs(lengths.reshape(num, sides) if sides else lengths, values[2 : 2 + num])


def _pack(parts: Sequence[bytes]) -> bytes:
    """Join parts, each of them a whole number of ``int32``."""
    return np.array([len(parts), *map(len, parts)], dtype=np.int64).tobytes() + b"".join(parts)


def _unpack(data: bytes) -> list[bytes]:
    num = int(np.frombuffer(data[:8], dtype=np.int64)[0])
    sizes = np.frombuffer(data[8 : 8 + 8 * num], dtype=np.int64)
    ends = np.cumsum(sizes) + 8 + 8 * num
    return [data[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
