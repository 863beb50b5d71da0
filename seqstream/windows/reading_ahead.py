"""Reads remote blocks while those before them are processed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from seqstream.windows.block_reader import ReadBlock

MOST_BYTES = 32 << 20
"""Approximate bytes of blocks that are read ahead; one block may be larger."""

MOST_BLOCKS = 256


@contextlib.contextmanager
def reading_ahead(blocks: Iterable[ReadBlock]) -> Iterator[Iterator[ReadBlock]]:
    """Give an iterator over blocks in their order, which fetches the bytes of those that follow, if their source can do that.

    What was fetched and not read is dropped at the end of the ``with`` block, and not before: blocks may be read after the last
    of them was taken.
    """
    drops: list[Callable[[], None]] = []
    try:
        yield _fetching(blocks, drops)
    finally:
        for drop in drops:
            drop()


def _fetching(blocks: Iterable[ReadBlock], drops: list[Callable[[], None]]) -> Iterator[ReadBlock]:
    """Yield blocks; one that is not fetched ends the look-ahead until it is taken, so that local blocks come one by one."""
    upcoming = iter(blocks)
    waiting: deque[ReadBlock] = deque()
    held = 0
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
