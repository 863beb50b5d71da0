"""The blocks of an epoch between its source and its windows: known as far ahead as needed, read when they are processed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from seqstream.windows.block_reader import ReadBlock, UpcomingBlocks
from seqstream.windows.block_states import CountedBlocks, count_blocks

Guard: TypeAlias = Callable[[], None]
"""Called between steps that take time; raises to stop."""


class BlockBuffer:
    """Blocks of an epoch in their order, from the first that no window has used up.

    Args:
        ahead: The blocks of the epoch from some cursor on.
        guard: Called before more of them are asked for.
        world_size: Number of ranks that share them.
    """

    def __init__(self, ahead: Iterator[UpcomingBlocks], guard: Guard, world_size: int) -> None:
        self._ahead = ahead
        self._world_size = world_size
        self._guard = guard
        self._blocks: deque[CountedBlocks | UpcomingBlocks] = deque()

    def __len__(self) -> int:
        return count_blocks(self._blocks)

    def fill(self, num: int, max_bytes: int | None = None) -> int:
        """Look ahead to ``num`` blocks or ``max_bytes`` on each rank; return how many blocks are within both, at least one.

        Fewer are returned where the epoch ends before.
        """
        count, held = 0, 0.0
        for at in itertools.count():
            if count == num or (at == len(self._blocks) and not self._look_ahead()):
                return count
            span = self._blocks[at].span
            sizes = span.num_bytes[: num - count] / (self._world_size if span.is_lazy else 1)
            ends = held + np.cumsum(sizes)
            within = len(ends) if max_bytes is None else int(np.searchsorted(ends, max_bytes, side="right"))
            if within < len(ends) and (count or len(ends) > 1):
                return max(1, count + within)
            count, held = count + len(ends), ends[-1]
        raise AssertionError("unreachable")

    def within(self, num_bytes: int) -> tuple[int, bool]:
        """Look ahead to ``num_bytes`` of all ranks; return how many blocks are within, at least one, and whether it is all."""
        count, held = 0, 0
        for at in itertools.count():
            if at == len(self._blocks) and not self._look_ahead():
                return count, True
            ends = held + np.cumsum(self._blocks[at].span.num_bytes)
            inside = int(np.searchsorted(ends, num_bytes, side="right"))
            count, held = count + inside, int(ends[-1])
            if inside < len(ends):
                return max(1, count), False
        raise AssertionError("unreachable")

    def take(self, num: int) -> tuple[list[CountedBlocks], list[UpcomingBlocks]]:
        """Take out the first ``num`` blocks, which `fill` or `within` have counted.

        Returns:
            Those that were given back, and those that follow them.
        """
        counted: list[CountedBlocks] = []
        upcoming: list[UpcomingBlocks] = []
        while num:
            blocks = self._blocks.popleft()
            if not isinstance(blocks, ReadBlock) and len(blocks.span) > num:
                self._blocks.appendleft(blocks.part(num, len(blocks.span)))
                blocks = blocks.part(0, num)
            if isinstance(blocks, CountedBlocks):
                counted.append(blocks)
            else:
                upcoming.append(blocks)
            num -= len(blocks.span)
        return counted, upcoming

    def give_back(self, blocks: Sequence[CountedBlocks]) -> None:
        """Put back the last blocks that were taken, of which rows are left."""
        self._blocks.extendleft(reversed(blocks))

    def _look_ahead(self) -> bool:
        """Add what follows in the epoch; return whether there was any."""
        self._guard()
        upcoming = next(self._ahead, None)
        if upcoming is None:
            return False
        self._blocks.append(upcoming)
        return True
