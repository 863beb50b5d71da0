"""The order of an epoch's blocks: every record once, shards interleaved, and the same from every cursor on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.records import RECORD, RECORD_BITS, ROW_ID
from seqstream.shuffling import EvenOrder
from seqstream.sources.source import Source
from seqstream.windows.block_reader import Cursor, OpenShard, ReadBlock, read_blocks
from tests.helpers.sources import Shards, sequences

blocks_of_a_shard = st.lists(st.lists(st.just(1), max_size=3).map(tuple), max_size=5).map(tuple)
sources = st.builds(Shards, st.lists(blocks_of_a_shard, max_size=14).map(tuple), st.booleans())
orders = st.sampled_from(["shuffled", "in order"])


def order_of(source: Source, name: str) -> EvenOrder | range:
    return EvenOrder(source.num_shards, 3, "shards") if name == "shuffled" else range(source.num_shards)


def row_ids(blocks: list[ReadBlock]) -> list[int]:
    return [row for block in blocks for row in block.table.column(ROW_ID).to_pylist()]


def shards_of(blocks: list[ReadBlock]) -> list[int]:
    """Return the shard of each block that has rows."""
    return [block.table.column(ROW_ID)[0].as_py() >> RECORD_BITS for block in blocks if len(block.table)]


def through_json(cursor: Cursor) -> Cursor:
    return Cursor.from_json(cursor.position, json.loads(json.dumps(cursor.source_json())))


@settings(max_examples=80, deadline=None)
@given(sources, orders, st.integers(1, 4))
def test_every_record_is_read_once(source: Shards, name: str, num_open: int) -> None:
    """Whatever shards hold - many blocks, one, none, blocks of no rows - each record is read once, with its id."""
    blocks = list(read_blocks(source, order_of(source, name), Cursor(), num_open))
    assert sorted(row_ids(blocks)) == source.row_ids
    assert all(block.table.schema.field(ROW_ID).type == pa.int64() for block in blocks)


@settings(max_examples=60, deadline=None)
@given(sources, orders, st.integers(1, 4))
def test_the_same_blocks_follow_the_same_cursor(source: Shards, name: str, num_open: int) -> None:
    """From before and after every block, through JSON, reading goes on with exactly the blocks that follow."""
    order = order_of(source, name)
    blocks = list(read_blocks(source, order, Cursor(), num_open))
    for number, block in enumerate(blocks):
        for cursor, rest in ((block.before, blocks[number:]), (block.after, blocks[number + 1 :])):
            assert through_json(cursor) == cursor
            again = list(read_blocks(source, order, through_json(cursor), num_open))
            assert [other.table for other in again] == [other.table for other in rest]
            assert [(other.before, other.after) for other in again][1:] == [(other.before, other.after) for other in rest][1:]
    assert all(one.after == other.before for one, other in itertools.pairwise(blocks))


def test_shards_of_many_blocks_are_read_in_turn() -> None:
    """Two open shards alternate; as one ends, the next begins."""
    source = Shards((((1,), (1,), (1,)), ((1,), (1,)), ((1,), (1,))))
    assert shards_of(list(read_blocks(source, range(3), Cursor(), 2))) == [0, 1, 0, 1, 2, 0, 2]
    assert shards_of(list(read_blocks(source, range(3), Cursor(), 1))) == [0, 0, 0, 1, 1, 2, 2]
    assert shards_of(list(read_blocks(source, range(3), Cursor(), 9))) == [0, 1, 2, 0, 1, 2, 0]


def test_shards_of_one_block_are_read_and_forgotten() -> None:
    """They take no turn and are not part of a cursor."""
    source = Shards(tuple(((1, 1),) for _ in range(30)))
    blocks = list(read_blocks(source, range(30), Cursor()))
    assert shards_of(blocks) == list(range(30))
    assert all(block.after == Cursor(number + 1) for number, block in enumerate(blocks))


def test_a_cursor_by_hand() -> None:
    """It holds the next position and, for each open shard in turn, the records read and its own state."""
    source = Shards((((1, 1), (1,)), ((1,),), ((), (1,))))
    blocks = list(read_blocks(source, range(3), Cursor(), 2))
    assert [block.before for block in blocks] == [
        Cursor(),
        Cursor(1, (OpenShard(0, 2, {"next": 1}),)),
        Cursor(2, (OpenShard(0, 2, {"next": 1}),)),
        Cursor(3, (OpenShard(0, 2, {"next": 1}), OpenShard(2, 0, {"next": 1}))),
        Cursor(3, (OpenShard(2, 0, {"next": 1}),)),
    ]
    assert blocks[-1].after == Cursor(3)
    assert blocks[3].before.source_json() == [[0, 2, {"next": 1}], [2, 0, {"next": 1}]]


def test_shards_that_give_nothing_are_passed_over() -> None:
    """A shard may have no block at all, or end after a block that was not marked as its last."""
    source = Shards(((), ((1,),), (), (), ((1,), (1,)), ()), says_end=False)
    blocks = list(read_blocks(source, range(6), Cursor()))
    assert shards_of(blocks) == [1, 4, 4]
    assert list(read_blocks(source, range(6), blocks[-1].after)) == []
    assert list(read_blocks(Shards(((), ())), range(2), Cursor())) == []
    assert list(read_blocks(Shards(()), range(0), Cursor())) == []


def test_records_of_a_split_keep_their_numbers() -> None:
    """The numbers that a source gives come back in row ids, also after going on."""
    source = Shards((((1,) * 7, (1,) * 5, (1,) * 9), ((1,) * 20, (1,) * 4)))
    parts = source.split(valid=0.3)
    for part in parts:
        blocks = list(read_blocks(part, range(2), Cursor(), 2))
        for block in blocks:
            rest = list(read_blocks(part, range(2), through_json(block.after), 2))
            assert row_ids(blocks) == row_ids(blocks[: len(blocks) - len(rest)]) + row_ids(rest)
    assert sorted(row for part in parts for row in row_ids(list(read_blocks(part, range(2), Cursor())))) == source.row_ids


@dataclasses.dataclass(frozen=True)
class OneTable(Source):
    """One shard of one block."""

    table: pa.Table
    num_shards: int = 2

    def read(self, shard: int, state: Any = None) -> Iterator[tuple[pa.Table, Any]]:
        yield self.table, None


def test_numbers_of_records_may_be_of_any_integer_type() -> None:
    """A source that numbers its records with 32 bits gets row ids of 64."""
    table = sequences([1, 1]).append_column(RECORD, pa.array([3, 8], pa.int32()))
    blocks = list(read_blocks(OneTable(table), range(2), Cursor()))
    assert row_ids(blocks) == [3, 8, (1 << 32) + 3, (1 << 32) + 8]
    assert RECORD not in blocks[0].table.column_names


@pytest.mark.parametrize("name", ["row_id", "piece"])
def test_columns_of_the_loader_are_refused(name: str) -> None:
    """A source that gives one is an error that says what to do."""
    source = OneTable(pa.table({name: [1]}))
    message = f"^column '{name}' cannot come from a source; the loader numbers records itself, so rename the column$"
    with pytest.raises(ValueError, match=message):
        list(read_blocks(source, range(2), Cursor()))
