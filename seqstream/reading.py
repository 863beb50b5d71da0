"""Blocks of an epoch in their order: which shard is next, which are open, and where in them we are.

Shards of many blocks are read in turn, several at a time, so that one file never fills a window; a shard of one block is
opened, read and forgotten. A `Place` says all of that in a few numbers and is enough to go on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.order import Permutation
from seqstream.sources.protocol import PIECE, RECORD_BITS, ROW_ID, Block, Json, Source, drop_record_numbers, record_numbers

OPEN_SHARDS = 8
"""How many shards of many blocks are read in turn when the loader shuffles."""


@dataclasses.dataclass(frozen=True)
class OpenShard:
    """A shard that has begun: the records read so far, and its own state after them."""

    shard: int
    records: int
    state: Json


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in the order of an epoch a block begins: the next shard to open, and the shards that are open, in turn."""

    position: int = 0
    open: tuple[OpenShard, ...] = ()

    @classmethod
    def from_json(cls, position: int, source: Sequence[Sequence[Any]]) -> Place:
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
    before: Place
    after: Place
    approx_bytes: int | None = None

    @functools.cached_property
    def table(self) -> pa.Table:
        return self.content() if callable(self.content) else self.content

    @property
    def num_bytes(self) -> int:
        size: int = self.table.nbytes if self.approx_bytes is None else self.approx_bytes
        return size


@dataclasses.dataclass
class _Cursor:
    """An open iterator of a shard, beside what a `Place` keeps of it."""

    shard: OpenShard
    blocks: Iterator[Block]


def read_blocks(source: Source, order: Permutation | range, start: Place, num_open: int = OPEN_SHARDS) -> Iterator[ReadBlock]:
    """Yield the blocks of an epoch from a place on.

    The same blocks follow the same place, whoever reads and however often it was resumed.

    Args:
        source: Where the records come from.
        order: Maps a position in the epoch to a shard.
        start: Where to begin.
        num_open: How many shards of many blocks are open at once. More mix better and hold more memory.
    """
    position = start.position
    turns = deque(_Cursor(shard, source.read(shard.shard, shard.state)) for shard in start.open)
    before = start
    while turns or position < len(order):
        if len(turns) < num_open and position < len(order):
            number = order[position]
            if (num_bytes := source.approx_bytes(number)) is not None:
                position += 1
                after = Place(position, before.open)
                yield ReadBlock(functools.partial(_read_shard, source, number), before, after, num_bytes)
                before = after
                continue
            cursor = _Cursor(OpenShard(number, 0, None), source.read(number))
            position += 1
        else:
            cursor = turns.popleft()
        block = next(cursor.blocks, None)
        if block is None:
            continue
        table, state = block
        table, records = _with_row_ids(table, cursor.shard)
        cursor.shard = OpenShard(cursor.shard.shard, records, state)
        if state is not None:
            turns.append(cursor)
        after = Place(position, tuple(turn.shard for turn in turns))
        yield ReadBlock(table, before, after)
        before = after


def _read_shard(source: Source, number: int) -> pa.Table:
    """Read a shard of one block."""
    (table, _), *more = source.read(number)
    if more:
        raise ValueError(f"shard {number} must be one block, as approx_bytes() says, got {1 + len(more)}; return None there")
    return _with_row_ids(table, OpenShard(number, 0, None))[0]


def _with_row_ids(table: pa.Table, shard: OpenShard) -> tuple[pa.Table, int]:
    """Return the table with row ids, and the number of the record after its last."""
    records = record_numbers(table, shard.records).astype(np.int64, copy=False)
    following = int(records[-1]) + 1 if len(records) else shard.records
    table = drop_record_numbers(table)
    if taken := [name for name in (ROW_ID, PIECE) if name in table.column_names]:
        raise ValueError(
            f"column {taken[0]!r} cannot come from a source; the loader numbers records itself, so rename the column"
        )
    return table.append_column(ROW_ID, to_arrow(records + (shard.shard << RECORD_BITS))), following
