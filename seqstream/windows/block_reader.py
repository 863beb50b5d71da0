"""The blocks of an epoch in their order, from any `Cursor` on.

Several shards of many blocks are open at a time and read in turn, so that one file never fills a window. Shards that are known
to be one block each are not read here: they come as `UnreadBlocks`, thousands at a time, of which each rank reads its own and
only counts the others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.shuffling import EvenOrder, numbers_at
from seqstream.sources.blocks import Block
from seqstream.sources.source import Source
from seqstream.windows.row_ids import with_row_ids

OPEN_SHARDS = 16
"""How many shards of many blocks are read in turn when the loader shuffles."""

_CHUNKS = (16, 512, 4096)
"""Number of positions of the order that are computed at once: few at first, so that the first window begins sooner."""


@dataclasses.dataclass(frozen=True)
class OpenShard:
    """A shard that is partly read.

    Attributes:
        shard: Number of the shard.
        records: Number of its records that were read.
        state: The state of its reader after them, as `Source.read` returned it.
    """

    shard: int
    records: int
    state: Json


@dataclasses.dataclass(frozen=True)
class Cursor:
    """Where in the order of an epoch a block begins.

    Attributes:
        position: Position of the next shard to open in the order of the epoch.
        open: The shards that are open, the one whose turn is next first.
        epoch: Number of the pass over a source of a mixture, which may be read several times in an epoch of the loader.
        fraction: Part of the next block that was read before, where a mixture needs less than the whole of it.
    """

    position: int = 0
    open: tuple[OpenShard, ...] = ()
    epoch: int = 0
    fraction: float = 0.0

    @classmethod
    def from_json(cls, position: int, source: Sequence[Sequence[Any]]) -> Cursor:
        """Return the cursor whose open shards are what `source_json` has returned."""
        return cls(position, tuple(OpenShard(*shard) for shard in source))

    def moved(self, num: int) -> Cursor:
        """Return the cursor after some shards of one block each."""
        return Cursor(self.position + num, self.open, self.epoch)

    def source_json(self) -> list[list[Any]]:
        """Return the open shards for a state: number, records and state of each."""
        return [[shard.shard, shard.records, shard.state] for shard in self.open]


@dataclasses.dataclass(frozen=True)
class BlockSpan:
    """Blocks that follow each other in an epoch: where they lie and how large they are.

    Attributes:
        before: Where the first begins.
        after: Where the next block after them begins.
        num_bytes: ``int64 (n,)``, approximate size of each, as read.
        is_lazy: Whether a block is read only by the rank that processes it.
    """

    before: Cursor
    after: Cursor
    num_bytes: Index
    is_lazy: bool

    def __len__(self) -> int:
        return len(self.num_bytes)

    def part(self, first: int, stop: int) -> BlockSpan:
        """Return blocks ``first`` to ``stop`` of these; several blocks are one position of the order each."""
        if stop - first == len(self):
            return self
        return BlockSpan(self._cursor_at(first), self._cursor_at(stop), self.num_bytes[first:stop], self.is_lazy)

    def _cursor_at(self, number: int) -> Cursor:
        if number in (0, len(self)):
            return self.after if number else self.before
        return self.before.moved(number)


@dataclasses.dataclass(frozen=True)
class UnreadShard:
    """A shard of one block that was not read; a call reads it.

    Attributes:
        source: Where it comes from.
        shard: Its number.
        first_shard: Number of the first shard of the source in a mixture, for row ids.
    """

    source: Source
    shard: int
    first_shard: int = 0

    def __call__(self) -> pa.Table:
        """Return the records.

        Raises:
            ValueError: The shard has more than one block, or a reserved column.
        """
        (table, _), *more = self.source.read(self.shard)
        if more:
            problem = f"shard {self.shard} must be one block, as approx_bytes() says, got {1 + len(more)}"
            raise ValueError(f"{problem}; return -1 there")
        return with_row_ids(self.source, table, self.shard, 0, first_shard=self.first_shard)[0]


@dataclasses.dataclass(frozen=True)
class ReadBlock:
    """The records of one block with a column ``row_id``, and the cursors before and after it.

    Attributes:
        content: The records, or a function that reads them: not every rank needs to.
        before: Where it begins.
        after: Where the next begins.
        approx_bytes: Approximate size where it is known without reading; ``None`` where the records were read.
        stages: Number of the list of stages that its records pass through; 0 unless sources have stages of their own.
        prefetch: Begins to read its bytes in the background; returns what drops them, or ``None`` where nothing was begun.
    """

    content: pa.Table | Callable[[], pa.Table]
    before: Cursor
    after: Cursor
    approx_bytes: int | None = None
    stages: int = 0
    prefetch: Callable[[], Callable[[], None] | None] = lambda: None

    @functools.cached_property
    def table(self) -> pa.Table:
        """The records; read once."""
        return self.content() if callable(self.content) else self.content

    @property
    def was_read(self) -> bool:
        """Whether the records are here."""
        return not callable(self.content) or "table" in self.__dict__

    @property
    def num_bytes(self) -> int:
        """Size of the records in bytes, approximate where they were not read."""
        size: int = self.table.nbytes if self.approx_bytes is None else self.approx_bytes
        return size

    @functools.cached_property
    def span(self) -> BlockSpan:
        """Where the block lies."""
        return BlockSpan(self.before, self.after, np.array([self.num_bytes]), self.approx_bytes is not None)


@dataclasses.dataclass(frozen=True)
class UnreadBlocks:
    """Shards of one block each that follow each other in an epoch and were not read.

    Attributes:
        source: Where they come from.
        shards: ``int64 (n,)``, their numbers.
        num_bytes: ``int64 (n,)``, approximate size of each.
        before: Where the first begins.
        first_shard: As that of `UnreadShard`.
        stages: As that of `ReadBlock`.
    """

    source: Source
    shards: Index
    num_bytes: Index
    before: Cursor
    first_shard: int = 0
    stages: int = 0

    def __len__(self) -> int:
        return len(self.shards)

    @functools.cached_property
    def span(self) -> BlockSpan:
        """Where the blocks lie."""
        return BlockSpan(self.before, self.before.moved(len(self)), self.num_bytes, is_lazy=True)

    def part(self, first: int, stop: int) -> UnreadBlocks:
        """Return blocks ``first`` to ``stop`` of these."""
        before = self.before.moved(first) if first else self.before
        return dataclasses.replace(self, shards=self.shards[first:stop], num_bytes=self.num_bytes[first:stop], before=before)

    def blocks(self) -> Iterator[ReadBlock]:
        """Yield the blocks one by one; each is read when its ``table`` is first used."""
        before = self.before
        for number, (shard, num_bytes) in enumerate(zip(self.shards.tolist(), self.num_bytes.tolist(), strict=True), 1):
            after = self.before.moved(number)
            content = UnreadShard(self.source, shard, self.first_shard)
            prefetch = functools.partial(self.source.prefetch_shard, shard)
            yield ReadBlock(content, before, after, num_bytes, self.stages, prefetch)
            before = after


UpcomingBlocks: TypeAlias = "ReadBlock | UnreadBlocks"
"""What lies ahead in an epoch."""


def blocks_of(ahead: Iterable[UpcomingBlocks]) -> Iterator[ReadBlock]:
    """Yield blocks one by one."""
    for each in ahead:
        yield from each.blocks() if isinstance(each, UnreadBlocks) else (each,)


@dataclasses.dataclass
class _ShardReader:
    """An open shard: the iterator over its blocks, and what a `Cursor` keeps of it."""

    shard: OpenShard
    blocks: Iterator[Block]


def read_blocks(source: Source, order: EvenOrder | range, start: Cursor, num_open: int = OPEN_SHARDS) -> Iterator[ReadBlock]:
    """Yield the blocks of an epoch from a cursor on one by one; arguments are those of `look_ahead`."""
    return blocks_of(look_ahead(source, order, start, num_open))


def look_ahead(
    source: Source,
    order: EvenOrder | range,
    start: Cursor,
    num_open: int = OPEN_SHARDS,
    stop: int | None = None,
    *,
    first_shard: int = 0,
    stages: int = 0,
) -> Iterator[UpcomingBlocks]:
    """Yield the blocks of an epoch from a cursor on.

    The same blocks follow the same cursor, on every rank and after any number of resumes.

    Args:
        source: Where the records come from.
        order: Maps a position in the epoch to a shard.
        start: Where to begin.
        num_open: Number of shards of many blocks that are open at once. More mix better and hold more memory.
        stop: Number of shards to read of the order; ``None`` for all.
        first_shard: As that of `UnreadShard`.
        stages: As that of `ReadBlock`.
    """
    position, openings = start.position, _openings(source, order, start.position, len(order) if stop is None else stop)
    readers = deque(_ShardReader(shard, source.read(shard.shard, shard.state)) for shard in start.open)
    before = start
    while True:
        if len(readers) < num_open and (opening := next(openings, None)) is not None:
            shards, num_bytes = opening
            first, position = position, position + len(shards)
            if num_bytes[0] >= 0:
                # Between `before` and `first` may be shards without blocks.
                yield UnreadBlocks(source, shards, num_bytes, Cursor(first, before.open, start.epoch), first_shard, stages)
                before = Cursor(position, before.open, start.epoch)
                continue
            number = int(shards[0])
            reader = _ShardReader(OpenShard(number, 0, None), source.read(number))
        elif readers:
            reader = readers.popleft()
        else:
            return
        block = next(reader.blocks, None)
        if block is None:
            continue
        table, state = block
        number = reader.shard.shard
        table, records = with_row_ids(source, table, number, reader.shard.records, first_shard=first_shard)
        reader.shard = OpenShard(number, records, state)
        if state is not None:
            readers.append(reader)
        after = Cursor(position, tuple(each.shard for each in readers), start.epoch)
        yield ReadBlock(table, before, after, stages=stages)
        before = after


def _openings(source: Source, order: EvenOrder | range, start: int, end: int) -> Iterator[tuple[Index, Index]]:
    """Yield shards of an order between two positions, with their sizes in bytes.

    Shards of one block each that follow each other are yielded together; any other by itself, with a size of -1.
    """
    chunks = itertools.chain(_CHUNKS, itertools.repeat(_CHUNKS[-1]))
    while start < end:
        stop = min(start + next(chunks), end)
        shards = numbers_at(order, start, stop)
        start = stop
        num_bytes = source.approx_bytes(shards)
        is_end = (num_bytes[1:] < 0) | (num_bytes[:-1] < 0)
        for begin, stop in itertools.pairwise([0, *(1 + np.flatnonzero(is_end)).tolist(), len(shards)]):
            yield shards[begin:stop], num_bytes[begin:stop]
