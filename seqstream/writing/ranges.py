"""The shards of a source, cut into ranges that are written one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from seqstream.sources.source import Source

_CHUNK = 1 << 20


def shard_ranges(source: Source, range_bytes: int) -> list[tuple[int, int]]:
    """Return ranges of shards, first and one past the last, of at least ``range_bytes``, the last of what is left.

    A shard of unknown size, such as a compressed file, is a range by itself.
    """
    found: list[tuple[int, int]] = []
    first = total = 0
    for shard, size in enumerate(_sizes(source)):
        if size < 0 and shard > first:
            found.append((first, shard))
            first, total = shard, 0
        total += max(size, 0)
        if size < 0 or total >= range_bytes:
            found.append((first, shard + 1))
            first, total = shard + 1, 0
    num_shards = source.num_shards
    return found + ([(first, num_shards)] if first < num_shards else [])


def _sizes(source: Source) -> Iterator[int]:
    for first in range(0, source.num_shards, _CHUNK):
        yield from source.approx_bytes(np.arange(first, min(first + _CHUNK, source.num_shards))).tolist()
