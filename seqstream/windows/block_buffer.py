"""The blocks of an epoch between source and plan: known as far ahead as windows need, read when they are processed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, Lengths
from seqstream.distributed.digests import digest_table
from seqstream.records import ROW_ID, Counts
from seqstream.windows.block_reader import Cursor, ReadBlock, UnreadBlocks, UpcomingBlocks

Guard: TypeAlias = Callable[[], None]
"""Called between steps that take time; raises to stop."""


@dataclasses.dataclass
class BufferedBlocks:
    """Blocks that follow each other in the buffer: a stretch that nobody has taken, one of this rank, or some of another.

    Attributes:
        before: Where the first begins.
        after: Where the next after them begins.
        num_bytes: ``int64 (n,)``, about how many bytes each has as read.
        is_shared: Whether only the rank that processes a block reads it.
        stretch: The blocks, as long as no window has taken them and they were not read.
        block: The block, if it is one; ``None`` once the stages have run, or where they run on another rank.
        owner: The rank that processes them; ``None`` as long as no window has taken them.
        num_rows: ``int64 (n,)``, rows that the stages made, as soon as their owner has told.
        table: Those rows, on the rank that is the owner.
        keys: What those rows are sorted by, there.
        counts: What the stages counted there.
        digest: Of the records as read, where there are other ranks, which have read them as well; else ``None``.
        first_row_id: The row id of the first of them, -1 if there is none.
    """

    before: Cursor
    after: Cursor
    num_bytes: Index
    is_shared: bool
    stretch: UnreadBlocks | None = None
    block: ReadBlock | None = None
    owner: int | None = None
    num_rows: Index = dataclasses.field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    table: pa.Table | None = None
    keys: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)
    digest: int | None = None
    first_row_id: int = -1

    @classmethod
    def of(cls, ahead: UpcomingBlocks) -> BufferedBlocks:
        """Enter what lies ahead."""
        if isinstance(ahead, UnreadBlocks):
            none = np.zeros(len(ahead), dtype=np.int64)
            return cls(ahead.before, ahead.place_at(len(ahead)), ahead.num_bytes, True, stretch=ahead, num_rows=none)
        return cls(ahead.before, ahead.after, np.array([ahead.num_bytes]), ahead.approx_bytes is not None, block=ahead)

    def __len__(self) -> int:
        return len(self.num_bytes)

    def part(self, first: int, stop: int) -> BufferedBlocks:
        """Return some of the blocks."""
        if stop - first == len(self):
            return self
        return dataclasses.replace(
            self,
            before=self._place_at(first),
            after=self._place_at(stop),
            num_bytes=self.num_bytes[first:stop],
            stretch=None if self.stretch is None else self.stretch.part(first, stop),
            num_rows=self.num_rows[first:stop],
        )

    def _place_at(self, number: int) -> Cursor:
        return self.after if number == len(self) else Cursor(self.before.position + number, self.before.open)

    def with_digest(self, world_size: int) -> BufferedBlocks:
        """Return the block with the digest of its records, if every rank reads it and there are others to compare it with."""
        if world_size == 1 or self.is_shared or self.block is None or self.digest is not None:
            return self
        table = self.block.table
        first = table.column(ROW_ID)[0].as_py() if len(table) else -1
        return dataclasses.replace(self, digest=digest_table(table), first_row_id=first)

    def given_to(self, owner: int, rank: int) -> list[BufferedBlocks]:
        """Say which rank processes the blocks: that one has each by itself, the others need not hold them."""
        if owner != rank:
            return [dataclasses.replace(self, owner=owner, stretch=None, block=None)]
        if self.stretch is None:
            return [dataclasses.replace(self, owner=owner)]
        return [dataclasses.replace(BufferedBlocks.of(block), owner=owner) for block in self.stretch.blocks()]

    def processed(self, table: pa.Table, counts: Counts) -> None:
        """Take what the stages made of the block."""
        self.block, self.table, self.num_rows, self.counts = None, table, np.array([len(table)]), counts


def share_out(entries: Iterable[BufferedBlocks], rank: int, world_size: int) -> list[BufferedBlocks]:
    """Give each rank its part of some blocks, as many as each other, give or take one."""
    entries = list(entries)
    num, before = count_blocks(entries), 0
    found = []
    for entry in entries:
        owners = np.arange(before, before + len(entry)) * world_size // num
        for first, stop in itertools.pairwise([0, *(1 + np.flatnonzero(np.diff(owners))).tolist(), len(entry)]):
            found += entry.part(first, stop).given_to(int(owners[first]), rank)
        before += len(entry)
    return found


def count_blocks(entries: Iterable[BufferedBlocks]) -> int:
    """Return how many blocks there are."""
    return sum(map(len, entries))


def last_blocks(entries: Sequence[BufferedBlocks], num: int) -> list[BufferedBlocks]:
    """Return the last so many blocks."""
    found: list[BufferedBlocks] = []
    for entry in reversed(entries):
        if not num:
            break
        found.insert(0, entry.part(max(0, len(entry) - num), len(entry)))
        num -= len(found[0])
    return found


class BlockBuffer:
    """Blocks of an epoch in their order, from the first that no window has taken.

    Args:
        ahead: The blocks of the epoch from some place on.
        guard: Called before more of them are asked for.
        world_size: How many ranks share them.
    """

    def __init__(self, ahead: Iterator[UpcomingBlocks], guard: Guard, world_size: int) -> None:
        self._ahead = ahead
        self._world_size = world_size
        self._guard = guard
        self._entries: deque[BufferedBlocks] = deque()

    def __len__(self) -> int:
        return count_blocks(self._entries)

    def fill(self, num: int, max_bytes: int | None = None) -> int:
        """Look ahead to ``num`` blocks or ``max_bytes`` on each rank; return how many there are within both, at least one."""
        count, held = 0, 0.0
        for at in itertools.count():
            if count == num or (at == len(self._entries) and not self._look()):
                return count
            entry = self._entries[at]
            sizes = entry.num_bytes[: num - count] / (self._world_size if entry.is_shared else 1)
            ends = held + np.cumsum(sizes)
            within = len(ends) if max_bytes is None else int(np.searchsorted(ends, max_bytes, side="right"))
            if within < len(ends) and (count or len(ends) > 1):
                return max(1, count + within)
            count, held = count + len(ends), ends[-1]
        raise AssertionError("unreachable")

    def within(self, num_bytes: int) -> tuple[int, bool]:
        """Look ahead to so many bytes of all ranks; return how many blocks are within, at least one, and if that is all."""
        count, held = 0, 0
        for at in itertools.count():
            if at == len(self._entries) and not self._look():
                return count, True
            ends = held + np.cumsum(self._entries[at].num_bytes)
            inside = int(np.searchsorted(ends, num_bytes, side="right"))
            count, held = count + inside, int(ends[-1])
            if inside < len(ends):
                return max(1, count), False
        raise AssertionError("unreachable")

    def take(self, num: int) -> list[BufferedBlocks]:
        """Take the first blocks out; they were looked at before."""
        taken: list[BufferedBlocks] = []
        while num:
            entry = self._entries.popleft()
            if len(entry) > num:
                self._entries.appendleft(entry.part(num, len(entry)))
                entry = entry.part(0, num)
            taken.append(entry)
            num -= len(entry)
        return taken

    def give_back(self, entries: Sequence[BufferedBlocks]) -> None:
        """Put blocks back that were taken last, as they are now."""
        self._entries.extendleft(reversed(entries))

    def _look(self) -> bool:
        self._guard()
        ahead = next(self._ahead, None)
        if ahead is None:
            return False
        self._entries.append(BufferedBlocks.of(ahead))
        return True
