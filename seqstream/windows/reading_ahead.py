"""Reads remote blocks while those before them are processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable

from seqstream.windows.block_reader import ReadBlock

MOST_BYTES = 32 << 20
"""Approximate bytes of blocks that are read ahead; one block may be larger."""

MOST_BLOCKS = 256


def with_reading_ahead(blocks: Iterable[ReadBlock]) -> Generator[ReadBlock, None, None]:
    """Yield blocks in their order, while the bytes of those that follow are fetched, if their source can do that."""
    upcoming = iter(blocks)
    waiting: deque[tuple[ReadBlock, Callable[[], None] | None]] = deque()
    drop: Callable[[], None] | None = None
    held = 0
    try:
        while True:
            while len(waiting) < MOST_BLOCKS and (not waiting or held < MOST_BYTES):
                block = next(upcoming, None)
                if block is None:
                    break
                waiting.append((block, block.prefetch()))
                held += block.num_bytes
            if not waiting:
                return
            block, drop = waiting.popleft()
            held -= block.num_bytes
            yield block
            if drop is not None:
                drop()  # nothing is left of it, unless it was not read
    finally:
        for each in (drop, *(own for _, own in waiting)):
            if each is not None:
                each()
