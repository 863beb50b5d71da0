"""`JsonLines` reads what ``json.loads`` reads, with the same types in all blocks; errors name the line."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.sources.json_lines import JsonLines

BOM = b"\xef\xbb\xbf"
COMMON = {"a": 1, "text": "x" * 50}

strings = st.one_of(
    st.text('ab"\\€𝄞\n\t{}[],: ', max_size=12), st.sampled_from(["2020-01-01", "2020-01-01T00:00:00Z", "null", ""])
)
whole = st.integers(-(2**63), 2**63 - 1)
fractions = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.5)
# Arrow loses values where it concatenates structs that hold lists of nothing but nulls.
deep = st.lists(st.one_of(st.none(), st.fixed_dictionaries({"x": strings})), max_size=2).filter(
    lambda each: not each or any(each)
)
records = st.fixed_dictionaries(
    {"text": strings},
    optional={
        "whole": st.one_of(st.none(), whole),
        "fraction": fractions,
        "yes": st.booleans(),
        "é": st.none(),
        "list": st.lists(st.one_of(st.none(), whole), max_size=3),
        "open": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.lists(st.none(), max_size=2)), max_size=2)),
        "inner": st.fixed_dictionaries(
            {},
            optional={
                "when": strings,
                "deep": deep,
            },
        ),
    },
)
gaps = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\r\n", b"  \n\t"])


def write(path: Path, *lines: object) -> Path:
    """Write lines as they are, or as JSON."""
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def read_table(source: JsonLines) -> pa.Table:
    """Return all records as one table, concatenated as a loader does it."""
    tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
    return pa.concat_tables(tables, promote_options="permissive")


def agrees(read: Any, loaded: Any) -> bool:
    """Return whether a value equals that of ``json.loads``, where missing fields are null."""
    if isinstance(read, dict):
        inner: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
        return loaded is None or (
            inner.keys() <= read.keys() and all(agrees(value, inner.get(name)) for name, value in read.items())
        )
    if isinstance(read, list):
        return isinstance(loaded, list) and len(read) == len(loaded) and all(map(agrees, read, loaded))
    return type(read) is type(loaded) and bool(read == loaded)


def check_resume(source: JsonLines) -> None:
    """Check that the blocks after each state are the same, when the state is saved as JSON."""
    for shard in range(source.num_shards):
        blocks = list(source.read(shard))
        assert [state is None for _, state in blocks] == [False] * (len(blocks) - 1) + [True]
        for index, (_, state) in enumerate(blocks[:-1]):
            assert list(source.read(shard, json.loads(json.dumps(state)))) == blocks[index + 1 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all examples of a property."""
    return tmp_path_factory.mktemp("json")


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.lists(st.tuples(records, gaps), max_size=6)), min_size=1, max_size=3
    ),
    block_bytes=st.integers(1, 300),
    ascii_only=st.booleans(),
)
def test_records_are_those_of_json(folder: Path, files: list[Any], block_bytes: int, ascii_only: bool) -> None:
    """Each nonblank line is one record with the values of ``json.loads``; times stay strings; blocks have one schema."""
    paths = []
    for number, (is_compressed, is_marked, lines) in enumerate(files):
        data = b"".join(json.dumps(record, ensure_ascii=ascii_only).encode() + gap for record, gap in lines)
        data = (BOM if is_marked else b"") + data
        paths.append(folder / (f"{number}.jsonl.gz" if is_compressed else f"{number}.jsonl"))
        paths[-1].write_bytes(gzip.compress(data, 1) if is_compressed else data)
    source = JsonLines(paths, block_bytes=block_bytes)
    expected = [record for *_, lines in files for record, _ in lines]
    if source.num_shards:
        table = read_table(source)
        assert len(table) == len(expected)
        for read, loaded in zip(table.to_pylist(), expected, strict=True):
            assert loaded.keys() <= read.keys()
            assert agrees(read, {**dict.fromkeys(read), **loaded}), (read, loaded)
    check_resume(source)


def test_types_hold_in_every_block(tmp_path: Path) -> None:
    """A field of the first records has one type in all blocks, also if it is missing, null or a whole number among floats."""
    lines = [{"score": number + (number % 7 == 0) / 2, "when": "2020-01-01", "list": [1]} for number in range(200)]
    path = write(
        tmp_path / "a.jsonl", *lines, *[{"when": "soon"}] * 50, *[{"score": None, "list": []}] * 50, *[{"list": None}] * 9
    )
    source = JsonLines(path, block_bytes=100)
    schemas = {table.schema for shard in range(source.num_shards) for table, _ in source.read(shard)}
    assert schemas == {pa.schema([("score", pa.float64()), ("when", pa.string()), ("list", pa.list_(pa.int64()))])}


def test_fields_that_come_later(tmp_path: Path) -> None:
    """A field that no sampled block has is kept; null and empty values leave a type open; all blocks can be joined."""
    lines = [*[{**COMMON, "late": None, "list": [], "inner": {"x": None}}] * 40, {**COMMON, "late": 1, "list": [[2.5]]}]
    lines += [
        *[COMMON] * 40,
        {"new": {"p": 1}},
        *[COMMON] * 40,
        {"new": {"q": ["2020-01-01"]}, "inner": {"x": True}},
        *[COMMON] * 40,
    ]
    table = read_table(JsonLines(write(tmp_path / "a.jsonl", *lines), block_bytes=100))
    types = {"late": pa.int64(), "list": pa.list_(pa.list_(pa.float64())), "inner": pa.struct([("x", pa.bool_())])}
    types["new"] = pa.struct([("p", pa.int64()), ("q", pa.list_(pa.string()))])
    assert {name: table.schema.field(name).type for name in types} == types
    assert [row["late"] for row in table.to_pylist() if row["late"]] == [1]
    assert [row["new"] for row in table.to_pylist() if row["new"]] == [{"p": 1, "q": None}, {"p": None, "q": ["2020-01-01"]}]


def test_columns(tmp_path: Path) -> None:
    """Only the fields in ``columns`` are read, in order, with all later values; a name that is not a field is an error."""
    lines = [*[{**COMMON, "late": None, "inner": {"x": 1}}] * 40, *[{**COMMON, "late": 7, "inner": {"y": 2}, "other": []}] * 40]
    path = write(tmp_path / "a.jsonl", *lines)
    table = read_table(JsonLines(path, columns=["late", "a"], block_bytes=100))
    assert table.schema == pa.schema([("late", pa.int64()), ("a", pa.int64())])
    assert table["late"].to_pylist() == [None] * 40 + [7] * 40
    inner = read_table(JsonLines(path, columns=["inner"], block_bytes=100))["inner"].to_pylist()
    assert inner == [{"x": 1, "y": None}] * 40 + [{"x": None, "y": 2}] * 40
    with pytest.raises(ValueError, match="columns must name fields of the records, got 'txt'; there are a, text, late, inner"):
        read_table(JsonLines(path, columns=["a", "txt"]))
    with pytest.raises(TypeError, match="columns must be a list of names, got 'text'"):
        JsonLines(path, columns="text")


def test_schema(tmp_path: Path) -> None:
    """Types in ``schema`` are used, also for times; a field in no record is null; a value that is not a type is an error."""
    path = write(tmp_path / "a.jsonl", *[{"score": 1, "when": "2020-01-01"}] * 40, {"score": 2.5})
    schema = {"score": pa.float32(), "when": pa.timestamp("s"), "never": pa.string()}
    table = read_table(JsonLines(path, schema=schema, block_bytes=100))
    assert table.schema == pa.schema(list(schema.items()))
    assert table["score"].to_pylist()[-2:] == [1.0, 2.5]
    assert read_table(JsonLines(path, columns=["never", "score"], schema=schema)).schema.names == ["never", "score"]
    with pytest.raises(TypeError, match="schema must give an Arrow type for each field, got 'float' for 'score'"):
        JsonLines(path, schema={"score": "float"})
    message = f"{path}, line 1: field 'score' must be string as schema says, got 1; make its values alike, or leave"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(JsonLines(path, schema={"score": pa.string()}))


def test_nulls_before_values_in_lists(tmp_path: Path) -> None:
    """Nulls at the start of lists are kept, at any depth and however the type of the list becomes known."""
    rows = [
        {
            "a": [None, 1],
            "b": [[None], [None, "x"]],
            "c": {"d": [None, {"e": None}, {"e": 2.5}]},
            "f": [None, None],
            "g": [[None, []]],
        }
    ]
    for records in (rows, [*[{"a": [], "c": None}] * 40, *rows * 2], [*[COMMON | {"a": []}] * 40, *rows]):
        path = write(tmp_path / "a.jsonl", *records)
        for block_bytes in (100, 10_000):
            source = JsonLines(path, block_bytes=block_bytes)
            tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
            for table in tables:
                table.validate(full=True)
            read = pa.concat_tables(tables, promote_options="permissive").to_pylist()
            assert [{name: row[name] for name in rows[0]} for row in read[-1:]] == rows


def test_files_without_records(tmp_path: Path) -> None:
    """Empty files and blank lines have no records, and objects without fields are records."""
    assert JsonLines(write(tmp_path / "a.jsonl")).num_shards == 0
    assert len(read_table(JsonLines(write(tmp_path / "b.jsonl", "\n \n\t\r\n")))) == 0
    [(table, _)] = JsonLines(write(tmp_path / "c.jsonl", {}, {})).read(0)
    assert len(table) == 2
    source = JsonLines([*[tmp_path / "b.jsonl"] * 20, write(tmp_path / "d.jsonl", {"a": "2020-01-01"})], block_bytes=2)
    assert read_table(source).to_pylist() == [{"a": "2020-01-01"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_locate_and_split(tmp_path: Path, name: str) -> None:
    """Row ids lead to the lines of nonblank records, and a split holds each record once."""
    data = ("\n  \n" + json.dumps(COMMON) + "\n") * 50
    (tmp_path / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    source = JsonLines(tmp_path / name, block_bytes=200)
    parts = source.split(valid=0.5)
    places = []
    for shard in range(source.num_shards):
        numbers = [row["record"] for part in parts for table, _ in part.read(shard) for row in table.to_pylist()]
        assert sorted(numbers) == list(range(len(numbers)))
        places += [source.locate(shard << 32 | number) for number in sorted(numbers)]
    assert places == [f"{tmp_path / name}, line {3 * number + 3}" for number in range(50)]


def test_pickle_and_fingerprint(tmp_path: Path) -> None:
    """A source in another process reads the same; the same data has the same fingerprint, whatever its types."""
    path = write(tmp_path / "a.jsonl", *[COMMON] * 40)
    source = JsonLines(path, columns=("a",), block_bytes=100)
    one = read_table(source)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert read_table(copy) == one
    assert source.approx_blocks() == source.num_shards
    fingerprint = source.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert (
        JsonLines(path, columns=["a"], schema={"a": pa.float64()}, block_bytes=100, errors="replace").fingerprint()
        == fingerprint
    )
    assert JsonLines(path, block_bytes=100).fingerprint() != fingerprint
    assert repr(JsonLines(path)).startswith(f"JsonLines(paths='{path}', columns=None, schema=None, block_bytes=None")
