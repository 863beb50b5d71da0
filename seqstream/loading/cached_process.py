"""Blocks through the stages, but those whose rows a cache has."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from typing import cast

import pyarrow as pa

from seqstream.loading.token_cache import TokenCache
from seqstream.records import Counts
from seqstream.windows.block_buffer import Guard
from seqstream.windows.block_reader import ReadBlock
from seqstream.windows.processing import Process


@dataclasses.dataclass(frozen=True)
class _Block:
    """A block, what it is found by, and what the cache has of it."""

    block: ReadBlock
    key: bytes
    found: tuple[pa.Table, Counts] | None


def with_cache(process: Process, cache: TokenCache) -> Process:
    """Return a function that takes the rows of blocks from a cache, and runs the others through the stages and keeps them."""

    def run(blocks: Iterator[ReadBlock], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
        looked_up = ((block, cache.key_of(block)) for block in blocks)
        each = (_Block(block, key, cache.find(key, block)) for block, key in looked_up)
        for is_known, group in itertools.groupby(each, key=lambda block: block.found is not None):
            if is_known:
                yield from _known(group, guard)
                continue
            yield from _processed(group, process, guard, cache)

    return run


def _known(blocks: Iterator[_Block], guard: Guard) -> Iterator[tuple[pa.Table, Counts]]:
    for block in blocks:
        guard()
        table, counts = cast(tuple[pa.Table, Counts], block.found)
        yield table, {**counts, "cached_rows": len(table)}


def _processed(
    blocks: Iterator[_Block], process: Process, guard: Guard, cache: TokenCache
) -> Iterator[tuple[pa.Table, Counts]]:
    waiting: deque[_Block] = deque()

    def missing() -> Iterator[ReadBlock]:
        for block in blocks:
            waiting.append(block)
            yield block.block

    for table, counts in process(missing(), guard):
        block = waiting.popleft()
        cache.add(block.key, block.block, table, counts)
        yield table, counts
