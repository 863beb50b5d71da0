"""Blocks of an epoch in their order: which shard is next, which are open, and where in them we are.

Shards of many blocks are read in turn, several at a time, so that one file never fills a window; a shard of one block is
opened, read and forgotten. A `Cursor` says all of that in a few numbers and is enough to go on.

Shards that say that they are one block come as stretches, thousands at a time: of the blocks of many ranks each reads its own,
and looks at the others only to count them.
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
from seqstream.arrow import to_arrow
from seqstream.records import PIECE, ROW_ID, Json, drop_record_numbers, record_numbers
from seqstream.shuffling import EvenOrder, numbers_at
from seqstream.sources.blocks import Block
from seqstream.sources.source import Source

OPEN_SHARDS = 16
"""How many shards of many blocks are read in turn when the loader shuffles."""

_STRETCHES = (16, 512, 4096)
"""How many positions of the order are computed at once: few at first, with which a window begins sooner."""


@dataclasses.dataclass(frozen=True)
class OpenShard:
    """A shard that has begun: the records read so far, and its own state after them."""

    shard: int
    records: int
    state: Json


@dataclasses.dataclass(frozen=True)
class Cursor:
    """Where in the order of an epoch a block begins: the next shard to open, and the shards that are open, in turn."""

    position: int = 0
    open: tuple[OpenShard, ...] = ()

    @classmethod
    def from_json(cls, position: int, source: Sequence[Sequence[Any]]) -> Cursor:
        return cls(position, tuple(OpenShard(*entry) for entry in source))

    def source_json(self) -> list[list[Any]]:
        return [[shard.shard, shard.records, shard.state] for shard in self.open]


@dataclasses.dataclass(frozen=True)
class ReadBlock:
    """Records as the source gives them, with a column ``row_id``, and the places before and after them.

    Attributes:
        content: The records, or what reads them: a block that others work on need not be read here.
        before: Where it begins.
        after: Where the next begins.
        approx_bytes: About how many bytes it has, where that is known without reading it.
    """

    content: pa.Table | Callable[[], pa.Table]
    before: Cursor
    after: Cursor
    approx_bytes: int | None = None

    @functools.cached_property
    def table(self) -> pa.Table:
        return self.content() if callable(self.content) else self.content

    @property
    def num_bytes(self) -> int:
        size: int = self.table.nbytes if self.approx_bytes is None else self.approx_bytes
        return size


@dataclasses.dataclass(frozen=True)
class UnreadBlocks:
    """Shards of one block each, one after the other in the order, that nobody has read.

    Attributes:
        source: Where they come from.
        shards: ``int64 (n,)``.
        num_bytes: ``int64 (n,)``, about how many each has.
        before: Where the first begins.
    """

    source: Source
    shards: Index
    num_bytes: Index
    before: Cursor

    def __len__(self) -> int:
        return len(self.shards)

    def place_at(self, number: int) -> Cursor:
        """Return where one of them begins, or the next after all."""
        return Cursor(self.before.position + number, self.before.open) if number else self.before

    def part(self, first: int, stop: int) -> UnreadBlocks:
        """Return some of them."""
        return UnreadBlocks(self.source, self.shards[first:stop], self.num_bytes[first:stop], self.place_at(first))

    def blocks(self) -> Iterator[ReadBlock]:
        """Yield the blocks, which are read when they are looked into."""
        before = self.before
        for number, (shard, num_bytes) in enumerate(zip(self.shards.tolist(), self.num_bytes.tolist(), strict=True), 1):
            after = self.place_at(number)
            yield ReadBlock(functools.partial(_read_shard, self.source, shard), before, after, num_bytes)
            before = after


UpcomingBlocks: TypeAlias = "ReadBlock | UnreadBlocks"
"""What lies ahead in an epoch."""


def blocks_of(ahead: Iterable[UpcomingBlocks]) -> Iterator[ReadBlock]:
    """Yield blocks one by one."""
    for each in ahead:
        yield from each.blocks() if isinstance(each, UnreadBlocks) else (each,)


@dataclasses.dataclass
class _ShardReader:
    """An open iterator of a shard, beside what a `Cursor` keeps of it."""

    shard: OpenShard
    blocks: Iterator[Block]


def read_blocks(source: Source, order: EvenOrder | range, start: Cursor, num_open: int = OPEN_SHARDS) -> Iterator[ReadBlock]:
    """Yield the blocks of an epoch from a place on, as `look_ahead` does, but one by one."""
    return blocks_of(look_ahead(source, order, start, num_open))


def look_ahead(
    source: Source, order: EvenOrder | range, start: Cursor, num_open: int = OPEN_SHARDS
) -> Iterator[UpcomingBlocks]:
    """Yield the blocks of an epoch from a place on.

    The same blocks follow the same place, whoever reads and however often it was resumed.

    Args:
        source: Where the records come from.
        order: Maps a position in the epoch to a shard.
        start: Where to begin.
        num_open: How many shards of many blocks are open at once. More mix better and hold more memory.
    """
    position, openings = start.position, _openings(source, order, start.position)
    turns = deque(_ShardReader(shard, source.read(shard.shard, shard.state)) for shard in start.open)
    before = start
    while True:
        if len(turns) < num_open and (opening := next(openings, None)) is not None:
            shards, num_bytes = opening
            position += len(shards)
            if num_bytes[0] >= 0:
                yield UnreadBlocks(source, shards, num_bytes, before)
                before = Cursor(position, before.open)
                continue
            number = int(shards[0])
            cursor = _ShardReader(OpenShard(number, 0, None), source.read(number))
        elif turns:
            cursor = turns.popleft()
        else:
            return
        block = next(cursor.blocks, None)
        if block is None:
            continue
        table, state = block
        table, records = _with_row_ids(source, table, cursor.shard)
        cursor.shard = OpenShard(cursor.shard.shard, records, state)
        if state is not None:
            turns.append(cursor)
        after = Cursor(position, tuple(turn.shard for turn in turns))
        yield ReadBlock(table, before, after)
        before = after


def _openings(source: Source, order: EvenOrder | range, start: int) -> Iterator[tuple[Index, Index]]:
    """Yield shards in their order with their sizes: of one block each as many as follow each other, else one, of size -1."""
    sizes = itertools.chain(_STRETCHES, itertools.repeat(_STRETCHES[-1]))
    while start < len(order):
        stop = min(start + next(sizes), len(order))
        shards = numbers_at(order, start, stop)
        start = stop
        num_bytes = source.approx_bytes(shards)
        is_end = (num_bytes[1:] < 0) | (num_bytes[:-1] < 0)
        for begin, stop in itertools.pairwise([0, *(1 + np.flatnonzero(is_end)).tolist(), len(shards)]):
            yield shards[begin:stop], num_bytes[begin:stop]


def _read_shard(source: Source, number: int) -> pa.Table:
    """Read a shard of one block."""
    (table, _), *more = source.read(number)
    if more:
        raise ValueError(f"shard {number} must be one block, as approx_bytes() says, got {1 + len(more)}; return -1 there")
    return _with_row_ids(source, table, OpenShard(number, 0, None))[0]


def _with_row_ids(source: Source, table: pa.Table, shard: OpenShard) -> tuple[pa.Table, int]:
    """Return the table with row ids, and the number of the record after its last."""
    records = record_numbers(table, shard.records).astype(np.int64, copy=False)
    following = int(records[-1]) + 1 if len(records) else shard.records
    table = drop_record_numbers(table)
    if taken := [name for name in (ROW_ID, PIECE) if name in table.column_names]:
        raise ValueError(
            f"column {taken[0]!r} cannot come from a source; the loader numbers records itself, so rename the column"
        )
    return table.append_column(ROW_ID, to_arrow(source.to_row_ids(shard.shard, records))), following
