"""The blocks of an epoch between source and plan: known as far ahead as windows need, read when they are processed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import pyarrow as pa

from seqstream.planning.batches import Lengths
from seqstream.reading import Place, ReadBlock
from seqstream.running import placed, run_stages
from seqstream.sources.protocol import ROW_ID
from seqstream.stages import Counts, OpenStage

GROUP_BYTES = 2 << 20
"""Blocks are tokenised together up to this size: engines are quicker on larger calls while their caches are cold."""

Guard: TypeAlias = Callable[[], None]
"""Called between steps that take time; raises to stop."""


@dataclasses.dataclass
class Entry:
    """A block in the buffer.

    Attributes:
        before: Where it begins.
        after: Where the next begins.
        num_bytes: About how many bytes it has as read.
        held_bytes: How many of them each rank holds: all, if every rank must read it, else its part on average.
        block: The block; ``None`` once the stages have run, or where they run on another rank.
        owner: The rank that processes it; ``None`` as long as no window has taken it.
        num_rows: Rows that the stages made, as soon as its owner has told.
        table: Those rows, on the rank that is its owner.
        keys: What those rows are sorted by, there.
        counts: What the stages counted there.
    """

    before: Place
    after: Place
    num_bytes: int
    held_bytes: float
    block: ReadBlock | None
    owner: int | None = None
    num_rows: int = 0
    table: pa.Table | None = None
    keys: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)

    def give_to(self, owner: int, rank: int) -> None:
        """Say which rank processes the block; the others need not hold it."""
        self.owner = owner
        if owner != rank:
            self.block = None

    def processed(self, table: pa.Table, counts: Counts) -> None:
        """Take what the stages made of it."""
        self.block, self.table, self.num_rows, self.counts = None, table, len(table), counts


Process: TypeAlias = Callable[[Sequence[Entry], Guard], None]
"""Runs the stages over blocks, in their order: here, or in other processes."""


class Buffer:
    """Blocks of an epoch in their order, from the first that no window has taken.

    Args:
        blocks: The blocks of the epoch from some place on.
        guard: Called before each is asked for.
        world_size: How many ranks share them.
    """

    def __init__(self, blocks: Iterator[ReadBlock], guard: Guard, world_size: int) -> None:
        self._blocks = blocks
        self._world_size = world_size
        self._guard = guard
        self._entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def fill(self, num: int, max_bytes: int | None = None) -> int:
        """Look ahead to ``num`` blocks or ``max_bytes`` on each rank; return how many there are within both, at least one."""
        total = 0.0
        for count in itertools.count():
            if count == num:
                return count
            if count == len(self._entries) and not self._look():
                return count
            total += self._entries[count].held_bytes
            if max_bytes is not None and count and total > max_bytes:
                return count
        raise AssertionError("unreachable")

    def take(self, num: int) -> list[Entry]:
        """Take the first blocks out; they were looked at before."""
        return [self._entries.popleft() for _ in range(num)]

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Put blocks back that were taken last, as they are now."""
        self._entries.extendleft(reversed(entries))

    def _look(self) -> bool:
        self._guard()
        block = next(self._blocks, None)
        if block is None:
            return False
        held = block.num_bytes / (1 if block.approx_bytes is None else self._world_size)
        self._entries.append(Entry(block.before, block.after, block.num_bytes, held, block))
        return True


def run_here(stages: tuple[OpenStage, ...], locate: Callable[[int], str] = str, fill: int | None = None) -> Process:
    """Run stages in the calling thread, over several blocks at a time.

    Args:
        stages: Opened stages, in order.
        locate: Names the place of a row id in the data, for errors.
        fill: The token that a row without any gets, instead of being dropped; ``None`` drops it.
    """

    def process(entries: Sequence[Entry], guard: Guard) -> None:
        todo = list(entries)
        while todo:
            guard()
            sizes = itertools.accumulate(entry.num_bytes for entry in todo)
            group = todo[: max(1, sum(1 for size in sizes if size <= GROUP_BYTES))]
            del todo[: len(group)]
            read = tables_of(group)
            with placed(row_ids_of(read), locate):
                tables, counts = run_stages(read, stages, fill)
            for entry, table in zip(group, tables, strict=True):
                entry.processed(table, {} if entry is not group[0] else counts)

    return process


def tables_of(entries: Iterable[Entry]) -> list[pa.Table]:
    """Return the rows of blocks, as they are by now; blocks that others work on have none here."""
    tables = (entry.table if entry.block is None else entry.block.table for entry in entries)
    return [table for table in tables if table is not None]


def row_ids_of(tables: Iterable[pa.Table]) -> pa.ChunkedArray:
    """Return the row ids of tables, one after the other."""
    return pa.concat_tables([table.select([ROW_ID]) for table in tables]).column(ROW_ID)
