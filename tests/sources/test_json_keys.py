"""Keys that are data: objects with other names in each record become text of JSON, in linear time and memory."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from seqstream.sources.generator import Generator
from seqstream.sources.huggingface import HFDataset
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.source import Source
from seqstream.sources.tables.json_keys import MANY_NAMES, count_names, find_sparse, may_be_sparse
from seqstream.sources.tables.json_rewriting import rewrite

COUNT = 2_000


def votes(number: int, count: int = 5) -> dict[str, Any]:
    """Return an object with names that no other record has."""
    return {f'us"er{number}é{each}': each for each in range(count)}


def save(path: Path, make: Callable[[int], object], count: int = COUNT) -> Path:
    """Write ``make(number)`` as JSON lines."""
    data = "".join(json.dumps(make(number), ensure_ascii=False) + "\n" for number in range(count)).encode()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def read_table(source: Source) -> pa.Table:
    """Return all records as one table, concatenated as a loader does it."""
    tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
    return pa.concat_tables(tables, promote_options="permissive")


DATA_KEYS: dict[str, tuple[Callable[[int], Any], pa.DataType, Callable[[Any], Any]]] = {
    "object": (votes, pa.string(), json.loads),
    "list": (
        lambda number: [votes(number, 2), {}, votes(number + COUNT, 3)],
        pa.list_(pa.string()),
        lambda value: [json.loads(each) for each in value],
    ),
    "deep": (
        lambda number: {"n": number, "by": [{"votes": votes(number), "kind": "a"}]},
        pa.struct([("n", pa.int64()), ("by", pa.list_(pa.struct([("votes", pa.string()), ("kind", pa.string())])))]),
        lambda value: value | {"by": [each | {"votes": json.loads(each["votes"])} for each in value["by"]]},
    ),
    "values that are objects": (
        lambda number: {name: {"score": each, "of": [{"a": None}]} for name, each in votes(number).items()},
        pa.string(),
        json.loads,
    ),
    "two levels of few names": (
        lambda number: {f"a{number % 97}": {f"b{number % 89}": number}},
        pa.string(),
        json.loads,
    ),
    "few names, seldom filled": (
        lambda number: {f"user{7 * number % 300}": 1.10, f"user{11 * number % 299}": "x"},
        pa.string(),
        json.loads,
    ),
}


@pytest.mark.parametrize("name", DATA_KEYS)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_objects_with_other_keys_in_each_line(tmp_path: Path, name: str, suffix: str) -> None:
    """They are text of JSON with the values of the file; other fields keep their types; more lines do not widen the schema."""
    make, kind, decode = DATA_KEYS[name]
    for count in (COUNT, 2 * COUNT):
        path = save(tmp_path / f"{count}{suffix}", lambda n: {"text": f"post {n}", "votes": make(n), "n": n}, count)
        table = read_table(JsonLines(path))
        assert table.schema == pa.schema([("text", pa.string()), ("votes", kind), ("n", pa.int64())])
        assert [decode(value) for value in table["votes"].to_pylist()] == [make(number) for number in range(count)]
        assert table["n"].to_pylist() == list(range(count))


def test_memory_grows_with_the_lines(tmp_path: Path) -> None:
    """Twice as many lines take about twice as much memory of Arrow, not four times."""
    peaks = []
    for count in (COUNT, 2 * COUNT):
        path = save(tmp_path / f"{count}.jsonl", lambda n: {"text": f"post {n}", "votes": votes(n)}, count)
        before = pa.default_memory_pool().bytes_allocated()
        table = read_table(JsonLines(path))
        peaks.append(pa.default_memory_pool().bytes_allocated() - before)
        assert table.nbytes < 3 * path.stat().st_size
        del table
    assert peaks[1] < 3 * peaks[0]


def test_text_is_as_it_is_in_the_file(tmp_path: Path) -> None:
    """Numbers, escapes and white space of the objects stay as written; so do nulls and strings in their place."""
    lines = [f'{{"votes" :\t{{"u{n}" : 1.10, "\\u00e9": 12345678901234567890}} , "n": {n}}}\n' for n in range(300)]
    others = ['{"votes": null, "n": 1}\n', '{"votes": "none", "n": 2}\n', '{"n": 3}\n', '{"votes": [1, 2.50], "n": 4}\n']
    (tmp_path / "a.jsonl").write_text("".join([*lines, *others]))
    values = read_table(JsonLines(tmp_path / "a.jsonl"))["votes"].to_pylist()
    assert values[:300] == [f'{{"u{n}" : 1.10, "\\u00e9": 12345678901234567890}}' for n in range(300)]
    assert values[300:] == [None, "none", None, "[1, 2.50]"]


def test_fields_of_records_are_an_error(tmp_path: Path) -> None:
    """Records whose keys are data are an error; with ``columns`` their other fields are read, whatever the types."""
    records = [{"text": f"post {n}", "inner": {"a": n}, "open": None, **votes(n)} for n in range(COUNT)]
    path = save(tmp_path / "a.jsonl", records.__getitem__)
    message = (
        "records must have the same fields, got 10,003 different names, such as 'text', 'inner', 'open', few of them filled;"
    )
    with pytest.raises(ValueError, match=re.escape(f"{path}, from byte 0 on: {message} name those to read with columns=[...]")):
        read_table(JsonLines(path))
    for columns in (["text"], ["inner", "text"], ["open", "inner"]):
        table = read_table(JsonLines(path, columns=columns))
        assert table.to_pylist() == [{name: record[name] for name in columns} for record in records]
    with pytest.raises(ValueError, match="columns must name fields of the records, got 'txt'; there are text, inner, open, us"):
        read_table(JsonLines(path, columns=["txt"]))


def test_fields_that_are_not_read_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow never sees fields with many names, or with values of several types, even if the type of a read one is open."""
    records = [{"id": n if n % 2 else "x", "inner": {"a": n}, "votes": votes(n)} for n in range(COUNT)]
    path = save(tmp_path / "a.jsonl", records.__getitem__)
    widths = []
    from pyarrow import json as arrow_json

    def read_json(*args: Any, **options: Any) -> pa.Table:
        table = arrow_read(*args, **options)
        widths.append(count_names(table.schema))
        return table

    arrow_read = arrow_json.read_json
    monkeypatch.setattr(arrow_json, "read_json", read_json)
    assert read_table(JsonLines(path, columns=["inner"])).to_pylist() == [{"inner": record["inner"]} for record in records]
    assert max(widths) == 2
    mixed = save(tmp_path / "b.jsonl", lambda n: {"id": [n, "x", [n], {"a": n}][n % 4], "inner": {"a": n}})
    assert len(read_table(JsonLines(mixed, columns=["inner"]))) == COUNT


@pytest.mark.parametrize("block_bytes", [2_000, 100_000])
def test_keys_that_come_late(tmp_path: Path, block_bytes: int) -> None:
    """Many new names after the first records are an error with the field and the remedies, each of which works."""
    late = COUNT // 2
    path = save(
        tmp_path / "a.jsonl.gz", lambda n: {"text": "x" * 200, "votes": {"a": 1} if n < late else votes(n), "m": {"b": n}}
    )
    message = "objects in the field 'votes' must have the same names, got .* different names, such as 'a', 'us"
    remedy = r"pass schema=\{'votes': pa.json_\(\)\} to have it as text of JSON, or leave it out with columns=\[...\]"
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}, from byte [\d,]+ on: {message}.*; {remedy}"):
        read_table(JsonLines(path, block_bytes=block_bytes))
    table = read_table(JsonLines(path, block_bytes=block_bytes, schema={"votes": pa.json_()}))
    assert [json.loads(value) for value in table["votes"].to_pylist()] == [{"a": 1}] * late + [
        votes(n) for n in range(late, COUNT)
    ]
    table = read_table(JsonLines(path, block_bytes=block_bytes, columns=["m"]))
    assert table["m"].to_pylist() == [{"b": number} for number in range(COUNT)]


def test_columns_that_come_late(tmp_path: Path) -> None:
    """Many new fields of records after the first ones are an error, also if each block adds few."""
    for every in (1, 20):
        path = save(
            tmp_path / "a.jsonl.gz",
            lambda n, every=every: {"text": "x" * 90, **(votes(n) if n > 500 and n % every == 0 else {})},
            6_000,
        )
        with pytest.raises(
            ValueError, match=r"on: records must have the same fields, got .* name those to read with columns=\["
        ):
            read_table(JsonLines(path, block_bytes=20_000))
        assert len(read_table(JsonLines(path, block_bytes=20_000, columns=["text"]))) == 6_000


def test_schema_of_json(tmp_path: Path) -> None:
    """Any field can be read as text of JSON, also a nested one; the error of an object in a field of strings says so."""
    path = save(tmp_path / "a.jsonl", lambda n: {"a": {"b": n, "c": [{"d": n}]}, "e": n}, 50)
    kinds = {"a": pa.struct([("b", pa.int64()), ("c", pa.list_(pa.json_()))])}
    table = read_table(JsonLines(path, schema=kinds, columns=["a"]))
    assert table["a"].to_pylist() == [{"b": n, "c": [f'{{"d": {n}}}']} for n in range(50)]
    assert read_table(JsonLines(path, schema={"a": pa.json_()}))["a"][7].as_py() == '{"b": 7, "c": [{"d": 7}]}'
    with pytest.raises(ValueError, match=r"field 'a' must be string as schema says, got .*; pass schema=\{'a': pa.json_\(\)\}"):
        read_table(JsonLines(path, schema={"a": pa.string()}))


def test_wide_objects_stay_structs(tmp_path: Path) -> None:
    """Many names that most records fill are columns and fields of structs."""
    row = {f"f{each}": each for each in range(3 * MANY_NAMES)}
    path = save(tmp_path / "a.jsonl", lambda n: {**row, "inner": row, "n": n}, 200)
    table = read_table(JsonLines(path))
    assert table.num_columns == len(row) + 2
    assert table.slice(199).to_pylist() == [{**row, "inner": row, "n": 199}]


def test_lines_are_rewritten_as_json_reads_them() -> None:
    """Only the given paths change, also beside brackets and quotes in strings; a line that is no object stays as it is."""
    line = '  {"a": "}{\\"", "b": [ {"c": {"x": [1, {}]}, "d": "]"}, null, 7 ], "c": {"x": 1}, "e": {} }\t'
    changed = rewrite(f"{line}\n\n{line}".encode(), None, [("b", None, "c"), ("e",)]).decode().split("\n")
    expected = json.loads(line)
    expected["b"][0]["c"], expected["e"] = '{"x": [1, {}]}', "{}"
    assert [json.loads(each) for each in (changed[0], changed[2])] == [expected] * 2
    assert changed[1] == ""
    assert json.loads(rewrite(line.encode(), ["c", "a"], [])) == {"a": '}{"', "c": {"x": 1}}
    for bad in ("[1]", '{"a": 1', '{"a" 1}', "{", '{"e": {]}', '{"a": 1,}', '{1: "a"}', "null"):
        assert rewrite(bad.encode(), ["b"], [("e",)]).decode() == bad
    assert rewrite(b'{"e": {}} {"e": 1}', None, [("e",)]) == b'{"e": "{}"} {"e": 1}'


def test_quick_look(tmp_path: Path) -> None:
    """JSON in strings has no names; short and long names, in a short and a long text, are counted."""
    inner = json.dumps({f"name{each}": each for each in range(400)})
    assert not may_be_sparse(json.dumps({"text": inner, "b": f'"{inner}"'}).encode() * 50)
    assert not may_be_sparse(b"")
    assert not may_be_sparse(b'{"a":1}')
    few = "".join(json.dumps({"text": "a: b " * (n % 50), "id": n, "a": {"b": [n]}}) + "\n" for n in range(3_000)).encode()
    assert not may_be_sparse(few)
    for prefix in ("", "a_long_name_before_"):
        lines = few + "".join(json.dumps({f"{prefix}{n}": n}) + "\n" for n in range(3_000)).encode()
        assert may_be_sparse(lines)
        assert may_be_sparse(lines[-4_000:])
        assert not may_be_sparse(lines, known=5_000)


def test_what_is_sparse() -> None:
    """Only the innermost object with many names is found; a field with ``None`` is not filled."""
    deep = [{"text": "a", "x": {"y": [votes(n)], "z": 1}} for n in range(100)]
    [found], count = find_sparse(deep)
    assert (found.path, len(found.names), count) == (("x", "y", None), 500, 4)
    nulls = [{"x": {f"f{each}": each if each % 50 == n % 50 else None for each in range(200)}} for n in range(100)]
    assert [sparse.path for sparse in find_sparse(nulls)[0]] == [("x",)]
    assert find_sparse([{"x": votes(0, 1_000)}] * 3)[0] == []
    assert [sparse.path for sparse in find_sparse([votes(n) for n in range(200)])[0]] == [()]


def test_dicts_of_streams_and_transforms() -> None:
    """Dicts with other keys in each item are text of JSON, of a stream, a transform and a generator alike."""

    def items() -> Iterator[dict[str, Any]]:
        for number in range(300):
            yield {"text": f"post {number}", "votes": votes(number, 2), "in": [{"x": {"y": votes(number, 1)}}]}

    def add(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"votes": [votes(number, 2) for number in batch["n"]], "n": batch["n"]}

    expected = [votes(number, 2) for number in range(300)]
    stream = HFDataset(datasets.IterableDataset.from_generator(items))
    table = read_table(stream)
    assert table.schema.field("votes").type == pa.string()
    assert table.schema.field("in").type == pa.list_(pa.struct([("x", pa.struct([("y", pa.string())]))]))
    assert [json.loads(value[0]["x"]["y"]) for value in table["in"].to_pylist()] == [votes(n, 1) for n in range(300)]
    transformed = HFDataset(datasets.Dataset.from_dict({"n": np.arange(300)}).with_transform(add))
    for source in (stream, transformed, Generator(lambda: ({"votes": each} for each in expected))):
        assert [json.loads(value) for value in read_table(source)["votes"].to_pylist()] == expected


def test_keys_that_come_late_in_a_stream() -> None:
    """A key that the first dicts lack is an error with the remedy: a cast to their type would drop it."""

    def items() -> Iterator[dict[str, Any]]:
        for number in range(300):
            yield {"text": "a", "votes": {"a": [{"b": 1}] if number < 200 else [{"b": 1, "c": number}]}}

    message = (
        "column 'votes' cannot have the field 'c', which none of the first records has; say what the columns hold with dataset"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(HFDataset(datasets.IterableDataset.from_generator(items)))
