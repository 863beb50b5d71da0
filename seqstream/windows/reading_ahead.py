"""Reads remote blocks while those before them are processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable

from seqstream.windows.block_reader import ReadBlock

MOST_BYTES = 32 << 20
"""Approximate bytes of blocks that are read ahead; one block may be larger."""

MOST_BLOCKS = 256


def with_reading_ahead(blocks: Iterable[ReadBlock]) -> Generator[ReadBlock, None, None]:
    """Yield blocks in their order, while the bytes of those that follow are fetched, if their source can do that.

    A block that is not fetched ends the look-ahead until the next one is taken, so that local blocks come one by one.
    """
    upcoming = iter(blocks)
    waiting: deque[ReadBlock] = deque()
    drops: list[Callable[[], None]] = []
    held = 0
    try:
        while True:
            while not waiting or (len(waiting) < MOST_BLOCKS and held < MOST_BYTES):
                block = next(upcoming, None)
                if block is None:
                    break
                waiting.append(block)
                held += block.num_bytes
                drop = block.prefetch()
                if drop is None:
                    break
                drops.append(drop)
            if not waiting:
                return
            held -= waiting[0].num_bytes
            yield waiting.popleft()
    finally:
        for drop in drops:
            drop()
