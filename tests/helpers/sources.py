"""Sources and blocks made by hand, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.sources.source import Source


def sequences(lengths: Sequence[int], first: int = 0) -> pa.Table:
    """Make a table of ids: row ``i`` has ``lengths[i]`` of them, and ids count on from ``first`` over all rows."""
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64))]).astype(np.int32)
    ids = np.arange(first, first + offsets[-1], dtype=np.int32)
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, ids)})


@dataclasses.dataclass(frozen=True)
class Shards(Source):
    """Sequences of given lengths: ``lengths[shard][block]`` are those of the rows of a block.

    Args:
        lengths: Of every row.
        says_end: Whether the last block of a shard comes with ``None``, or a shard just ends.
    """

    lengths: tuple[tuple[tuple[int, ...], ...], ...]
    says_end: bool = True

    @property
    def num_shards(self) -> int:
        return len(self.lengths)

    def read(self, shard: int, state: Any = None) -> Iterator[tuple[pa.Table, Any]]:
        blocks = self.lengths[shard]
        for number in range(0 if state is None else state["next"], len(blocks)):
            is_last = self.says_end and number + 1 == len(blocks)
            yield sequences(blocks[number], 1000 * (shard * 100 + number)), None if is_last else {"next": number + 1}

    @property
    def row_ids(self) -> list[int]:
        """Ids of all rows, in source order."""
        sizes = [sum(map(len, blocks)) for blocks in self.lengths]
        return [shard << 32 | record for shard, size in enumerate(sizes) for record in range(size)]


def num_planned(spec: BatchSpec, lengths: Lengths, *, last: bool, world_size: int = 1) -> int:
    """Return how many rows of these lengths a spec plans now."""
    keys = spec.sort_keys(lengths)
    search = spec.search_planned(LengthCounts.of(keys), last=last, multiple=world_size)
    while search.num_needed is not None:
        search = search.with_lengths(LengthCounts.of(keys[: search.num_needed]))
    return search.num_planned
