"""The blocks of an epoch between being read and being planned: read as far ahead as windows need to know, then processed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pyarrow as pa

from seqstream.reading import Place, ReadBlock
from seqstream.running import placed, run_stages
from seqstream.sources.protocol import ROW_ID
from seqstream.stages import Counts, OpenStage

GROUP_BYTES = 2 << 20
"""Blocks are tokenised together up to this size: engines are quicker on larger calls while their caches are cold."""


@dataclasses.dataclass
class Entry:
    """A block in the buffer.

    Attributes:
        before: Where it begins.
        after: Where the next begins.
        table: As it was read, and once it was needed as the stages made it.
        num_bytes: Bytes as it was read.
        counts: What the stages counted; ``None`` as long as they have not run.
    """

    before: Place
    after: Place
    table: pa.Table
    num_bytes: int
    counts: Counts | None = None


RunStages: TypeAlias = "Callable[[Buffer], Callable[[list[Entry]], None]]"
"""Given the buffer of an epoch, returns the function that processes its entries, which are asked for in their order."""


class Buffer:
    """Blocks of an epoch in their order, from the first that no window has taken.

    Args:
        blocks: The blocks of the epoch from some place on.
        run: How entries are processed: here, or by others.
        locate: Names the place of a row id in the data, for errors.
        guard: Called between steps that take time; raises to stop.
    """

    def __init__(
        self, blocks: Iterator[ReadBlock], run: RunStages, locate: Callable[[int], str], guard: Callable[[], None]
    ) -> None:
        self.locate = locate
        self.guard = guard
        self._blocks = blocks
        self._entries: deque[Entry] = deque()
        self._unsent: deque[Entry] | None = None
        self._process = run(self)

    def __len__(self) -> int:
        return len(self._entries)

    def fill(self, num: int, max_bytes: int | None = None) -> int:
        """Read on until ``num`` blocks or ``max_bytes`` are at hand; return how many there are within both, at least one."""
        total = 0
        for count in itertools.count():
            if count == num:
                return count
            if count == len(self._entries) and not self._read():
                return count
            total += self._entries[count].num_bytes
            if max_bytes is not None and count and total > max_bytes:
                return count
        raise AssertionError("unreachable")

    def take(self, num: int) -> list[Entry]:
        """Take the first blocks out, processed; they were read before."""
        taken = [self._entries.popleft() for _ in range(num)]
        todo = [entry for entry in taken if entry.counts is None]
        if todo:
            self._process(todo)
        return taken

    def give_back(self, entries: list[Entry]) -> None:
        """Put blocks back that were taken last, processed as they are."""
        self._entries.extendleft(reversed(entries))

    def each(self) -> Iterator[Entry]:
        """Iterate over every entry once, in their order, for those who process them ahead; reads on where all have been."""
        unsent = self._unsent = deque(self._entries)

        def entries() -> Iterator[Entry]:
            while unsent or self._read():
                yield unsent.popleft()

        return entries()

    def _read(self) -> bool:
        self.guard()
        block = next(self._blocks, None)
        if block is None:
            return False
        entry = Entry(block.before, block.after, block.table, block.table.nbytes)
        self._entries.append(entry)
        if self._unsent is not None:
            self._unsent.append(entry)
        return True


def run_here(stages: tuple[OpenStage, ...], fill: int | None = None) -> RunStages:
    """Process entries in the calling thread, several at a time.

    Args:
        stages: Opened stages, in order.
        fill: The token that a row without any gets, instead of being dropped; ``None`` drops it.
    """

    def run(buffer: Buffer) -> Callable[[list[Entry]], None]:
        def process(todo: list[Entry]) -> None:
            while todo:
                buffer.guard()
                sizes = itertools.accumulate(entry.num_bytes for entry in todo)
                group = todo[: max(1, sum(1 for size in sizes if size <= GROUP_BYTES))]
                del todo[: len(group)]
                with placed(row_ids_of(group), buffer.locate):
                    tables, counts = run_stages([entry.table for entry in group], stages, fill)
                for entry, table in zip(group, tables, strict=True):
                    entry.table, entry.counts = table, {}
                group[0].counts = counts

        return process

    return run


def row_ids_of(entries: Iterable[Entry]) -> pa.ChunkedArray:
    """Return the row ids of blocks, one after the other."""
    return pa.concat_tables([entry.table.select([ROW_ID]) for entry in entries]).column(ROW_ID)
