"""What is read of the sources of a mixture, and what is known of their columns."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from seqstream.windows.block_reader import Cursor, OpenShard, ReadBlock
from seqstream.windows.mixture_columns import MixtureColumns
from seqstream.windows.settings import MixtureStart, SourceStart
from seqstream.windows.source_stream import SourceStream

BLOCK_BYTES = 64_000


def blocks(cursor: Cursor) -> Iterator[ReadBlock]:
    """Three blocks of 64 records of 1,000 bytes."""
    for number in range(cursor.position, 3):
        table = pa.table({"text": ["x" * 996] * 64})
        yield ReadBlock(table, Cursor(number), Cursor(number + 1), BLOCK_BYTES)


def test_a_part_of_the_first_block_or_whole_blocks() -> None:
    """A stream gives a part of one block where that is enough, and else ends at the end of a block."""
    quarter = BLOCK_BYTES / 4 / 4  # tokens of 4 bytes
    stream = SourceStream(blocks, SourceStart())
    assert [len(block.table) for block in stream.read(quarter)] == [16]
    assert [len(block.table) for block in stream.read(quarter)] == [16]
    assert [len(block.table) for block in stream.read(3 * quarter)] == [32, 64]
    assert [len(block.table) for block in stream.read(quarter)] == [16]
    assert [len(block.table) for block in stream.read(1)] == [5]  # 4,096 bytes at least


def test_sources_of_one_schema_are_described_once() -> None:
    """Ranks exchange a schema once for all sources that have it, and only for sources that are not yet known."""
    columns = MixtureColumns(["a", "b", "c"], {"label": 7}, "source")
    one = pa.table({"input_ids": [[1, 2]], "label": [1]})
    described = columns.describe_new({0: one, 1: one, 2: one.drop_columns(["label"])})
    assert [*described.values()] == [[0, 1], [2]]
    columns.learn([described, {}])
    assert columns.describe_new({0: one, 1: one}) == {}
    assert columns.complete(one.drop_columns(["label"])).column("label").to_pylist() == [7]


def test_a_column_that_a_source_lacks() -> None:
    """The message names the column, and a source of each kind."""
    columns = MixtureColumns(["a", "b", "c"], {}, "source")
    one = pa.table({"input_ids": [[1, 2]], "label": [1]})
    with pytest.raises(ValueError, match="got 'label' in 'a' and not in 'c'"):
        columns.learn([columns.describe_new({0: one, 1: one, 2: one.drop_columns(["label"])})])
    new = MixtureColumns(["a", "b"], {}, "source")
    described = new.describe_new({1: one.append_column("source", pa.array([1]))})
    with pytest.raises(ValueError, match="source 'b' has a column 'source'"):
        new.learn([described])


def test_entries_of_a_state_are_copies() -> None:
    """What is done to one state changes no other."""
    start = MixtureStart({"a": SourceStart(Cursor(2, (OpenShard(1, 3, {"read": [3]}),)), 4), "b": SourceStart()}, 100)
    first, second = start.to_json(), start.to_json()
    assert first == second
    (own, _) = first["sources"].values()
    assert own[-1][0][-1] == {"read": [3]}
    own[-1][0][-1]["read"].append(4)
    own[-1].append(own[0])
    own[0] = first["tokens"] = -1
    assert start.to_json() == second
