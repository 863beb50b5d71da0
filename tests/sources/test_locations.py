"""Looking at records: the first ones, all of them, and one by its row id, with its file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seqstream as ss
from seqstream.records import record_numbers
from seqstream.sources.source import Source
from tests.helpers.own_source import write_arrays

ROWS = [{"id": number, "text": f"text {number}\twith more"} for number in range(300)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n\n" for row in rows).encode()


def json_lines(folder: Path) -> ss.Source:
    (folder / "a.jsonl").write_bytes(lines(ROWS[:200]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[200:])))
    return ss.JsonLines([folder / "a.jsonl", folder / "b.jsonl.gz"], block_bytes=999)


def csv(folder: Path) -> ss.Source:
    text = "id,text\n" + "".join(f'{row["id"]},"{row["text"]}"\n' for row in ROWS)
    (folder / "a.csv").write_text(text)
    return ss.Csv(folder / "a.csv", block_bytes=999)


def parquet(folder: Path) -> ss.Source:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=70)
    return ss.Parquet(folder / "a.parquet", block_bytes=999)


def hugging_face(streams: bool) -> ss.Source:
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    return ss.HFDataset(dataset.to_iterable_dataset(num_shards=4) if streams else dataset, block_bytes=999)


SOURCES: dict[str, tuple[Callable[[Path], ss.Source], Callable[[int, Path], tuple[str, int]]]] = {
    "json": (
        json_lines,
        lambda number, folder: (f"{folder}/{'a.jsonl' if number < 200 else 'b.jsonl.gz'}", 1 + 2 * (number % 200)),
    ),
    "csv": (csv, lambda number, folder: (f"{folder}/a.csv", number + 2)),
    "parquet": (parquet, lambda number, folder: (f"{folder}/a.parquet", number)),
    "data set": (lambda _: hugging_face(False), lambda number, _: ("the data set", number)),
    "stream": (lambda _: hugging_face(True), lambda number, _: (f"shard {number // 75} of the stream", number % 75)),
    "list": (lambda _: ss.Generator(ROWS, block_bytes=999), lambda number, _: ("list", number)),
}


def row_ids_of(source: Source, shard: int) -> list[int]:
    """Return the row ids of a shard, in order."""
    found: list[int] = []
    first = 0
    for table, _ in source.read(shard):
        found += source.to_row_ids(shard, record_numbers(table, first)).tolist()
        first += len(table)
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_records_by_their_row_ids(tmp_path: Path, name: str) -> None:
    """Records are in order, the first from head(), and each is read by its row id, with its location; in splits, too."""
    make, location_of = SOURCES[name]
    source = make(tmp_path)
    assert list(source.records()) == ROWS
    assert source.head(3) == ROWS[:3]
    assert source.head(0) == []
    for part in (source, *source.split(valid=0.3)):
        records = list(part.records())
        assert part.head() == records[:5]
        found = [row_id for shard in range(part.num_shards) for row_id in row_ids_of(part, shard)]
        for row_id, record in list(zip(found, records, strict=True))[::17]:
            assert part.record(row_id) == record
            assert part.place(row_id) == location_of(record["id"], tmp_path)
    with pytest.raises((IndexError, ValueError)):
        source.record(300)


def test_texts(tmp_path: Path) -> None:
    """A paragraph has the line where it begins, a file its first, aligned files both names; a user's source counts records."""
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "b.txt").write_text("eins\nzwei\n\n\ndrei\n")
    name = str(tmp_path / "a.txt")
    source = ss.TextFiles(name, unit="paragraph")
    assert [source.place(row) for row in range(2)] == [(name, 1), (name, 5)]
    assert source.record(1) == {"text": "three"}
    assert ss.TextFiles(name, unit="file").place(0) == (name, 1)
    aligned = ss.TextFiles({"en": name, "de": tmp_path / "b.txt"})
    file, line = aligned.place(4)
    assert (file, line) == (f"{name} and {tmp_path / 'b.txt'}", 5)
    assert aligned.record(4) == {"en": "three", "de": "drei"}
    own = write_arrays(tmp_path / "arrays", num_files=2)
    assert own.place(1 << 32 | 9) == ("shard 1", 9)
    assert own.record(1 << 32 | 9)["input_ids"][0] == 109


def test_lines_in_any_order(tmp_path: Path) -> None:
    """Lines are found in any order, in two files of several chunks, plain or compressed."""
    text = "".join(f"{'x' * (number % 99)} {number}\n" for number in range(9_000))
    for name, opened in (("a.txt", open), ("b.txt", open), ("c.txt.gz", gzip.open)):
        with opened(tmp_path / name, "wt") as file:
            file.write(text)
    source = ss.TextFiles(str(tmp_path / "*.txt*"))
    row_ids = [row_id for shard in range(source.num_shards) for row_id in row_ids_of(source, shard)]
    for number in (8_999, 5_000, 17_000, 5_001, 0, 26_999, 9_000, 18_000, 17_999, 26_000):
        name = str(tmp_path / ("a.txt", "b.txt", "c.txt.gz")[number // 9_000])
        assert source.place(row_ids[number]) == (name, number % 9_000 + 1)


def test_records_that_can_be_read_only_once() -> None:
    """head() would use up the items of a generator and is an error; records() reads them all."""
    source = ss.Generator(iter(ROWS))
    with pytest.raises(ValueError, match=r"head\(\) would use up records that a generator gives only once"):
        source.head()
    assert list(source.records()) == ROWS


def test_a_row_id_of_no_record() -> None:
    """A number after the end is an error with the record and the shard."""
    with pytest.raises(IndexError, match=r"must be of a record of this source, got 300: record 300 of shard 0"):
        ss.Generator(ROWS).record(300)


def test_chats_are_as_the_file_has_them(tmp_path: Path) -> None:
    """Arguments of tool calls have the keys of their line, with nulls, and no additional fields."""
    calls = [{"city": "Rome", "day": None}, {"b": 1}, {}]
    rows = [
        {
            "id": number,
            "messages": [
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]},
            ],
        }
        for number, arguments in enumerate(calls)
    ]
    (tmp_path / "chats.jsonl").write_bytes(lines(rows))
    source = ss.JsonLines(tmp_path / "chats.jsonl")
    assert [*source.records()] == rows
    assert source.record(2) == rows[2]
