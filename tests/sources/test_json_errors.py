"""A bad line of JSON is an error with file, line and remedy; no value is changed silently."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from seqstream.sources.json_lines import JsonLines

COMMON = {"a": 1, "text": "x" * 50}


def write(path: Path, *lines: object) -> Path:
    """Write lines as they are, or as JSON."""
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def read_table(source: JsonLines) -> pa.Table:
    """Return all records as one table, concatenated as a loader does it."""
    tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
    return pa.concat_tables(tables, promote_options="permissive")


BAD_LINES = {
    '{"a": 1,}': "line must be a JSON object, got invalid JSON at column 9",
    '{"a": 1': "line must be a JSON object, got invalid JSON at column 8: Expecting ',' delimiter",
    '{"a": 1} {"a": 2}': "line must be a JSON object, got invalid JSON at column 10: Extra data",
    '{"a": 1}\r{"a": 2}': "line must be a JSON object, got invalid JSON at column 10: Extra data",
    '{"a":\n1}': "line must be a JSON object, got invalid JSON at column 6: Expecting value",
    '{"a": 1} {"a":\n2}': "line must be a JSON object, got invalid JSON at column 10: Extra data",
    "\0": "line must be a JSON object, got invalid JSON at column 1: Expecting value",
    "[1, 2]": "line must be a JSON object, got an array; write one object a line, with nothing around them",
    '[{"a": 1},': "line must be a JSON object, got an array; write one object a line, with nothing around them",
    "7": "line must be a JSON object, got a number",
    '"a"': "line must be a JSON object, got a string",
    "null": "line must be a JSON object, got null",
    "true": "line must be a JSON object, got a boolean",
    '{"a": 1, "a": 2}': "line must name each field once, got 'a' twice",
    '{"a": 1, "b": {"c": 1, "c": 2}}': "line must name each field once, got 'c' twice",
    '{"a": "x"}': "field 'a' must be int64 as in the first records, got \"x\"; make its values alike, or leave",
    '{"a": true}': "field 'a' must be int64 as in the first records, got true; make its values alike",
    '{"a": {"b": 1}}': "field 'a' must be int64 as in the first records, got {\"b\": 1}; make",
    '{"b": 12345678901234567890}': "cannot hold 12345678901234567890 exactly as double; pass schema={'b': pa.uint64()}, or",
    '{"b": [{"c": -12345678901234567890}]}': "as list<item: struct<c: double>>; pass schema={'b': pa.decimal128(38, 0)}",
    '{"b": [1.5, 9007199254740993]}': "field 'b' cannot hold 9007199254740993 exactly as list<item: double>",
    '{"b": 1' + "0" * 400 + "}": "0000 exactly as double; pass schema={'b': pa.decimal128(38, 0)}, or pa.float64()",
    '{"b": [1, "x"]}': "field 'b' must be JSON that Arrow takes, got [1, \"x\"]: JSON parse error: Column(/b/[]) changed",
    '{"b": "\\ud800"}': "text must be UTF-8, got half of a surrogate pair, \\ud800; pass errors='replace'",
    '{"b": 1e999}': "line must be JSON that Arrow takes, got JSON parse error: Number too big to be stored in double.",
    '{"b": ' + "[" * 300 + "]" * 300 + "}": "line must nest at most 250 deep, got 301",
    '{"b": ' + '{"b":' * 99_999 + "1" + "}" * 100_000: "line must nest at most 250 deep, got 100,000",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:20].encode("unicode_escape").decode())
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_bad_line(tmp_path: Path, line: str, name: str, block_bytes: int) -> None:
    """A line that is no object, or has values that do not fit or would change, is an error with its line, field and remedy."""
    before = "".join(json.dumps(COMMON) + "\n" for _ in range(40)) + "\n"
    after = "".join(json.dumps(COMMON) + "\n" for _ in range(100))
    data = (before + line + "\n" + after).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}, line 42: ")) as caught:
        read_table(JsonLines(tmp_path / name, block_bytes=block_bytes))
    message = str(caught.value)
    assert message.encode()  # can be printed
    # In one block, the records before stand for the first records.
    assert BAD_LINES[line] in message.replace("as in the records before", "as in the first records")


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("2.5", "pass schema={'a': pa.float64()}"),
        ("1e2", "pass schema={'a': pa.float64()}"),
        ("12345678901234567890", "pass schema={'a': pa.uint64()}, or pa.float64() to take the nearest float"),
        ("-12345678901234567890", "pass schema={'a': pa.decimal128(38, 0)}, or pa.float64()"),
        ('"x"', "make its values alike, or leave the field out with columns=[...]"),
    ],
)
def test_whole_numbers_and_then_others(tmp_path: Path, value: str, remedy: str) -> None:
    """A value that does not fit the type of the first records is an error that names a type which fits, and works."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(('{"a": 1}\n' * 100 + f'{{"a": {value}}}\n').encode()))
    with pytest.raises(
        ValueError, match=re.escape(f"{path}, line 101: field 'a' must be int64 as in the first records, got ")
    ) as caught:
        read_table(JsonLines(path, block_bytes=100))
    assert remedy in str(caught.value)
    given = re.search(r"\{'a': pa\.(\w+)\(([\d, ]*)\)", str(caught.value))
    if given:
        kind = getattr(pa, given[1])(*map(int, filter(None, given[2].split(", "))))
        assert read_table(JsonLines(path, schema={"a": kind}, block_bytes=100))["a"].to_pylist()[-1] == json.loads(value)


def test_kinds_that_conflict_between_blocks(tmp_path: Path) -> None:
    """A new field that is a string in one block and a number in the next is an error: they cannot be concatenated."""
    late = [*[COMMON] * 40, {"late": "x"}, *[COMMON] * 40, {"late": 1}, *[COMMON] * 40]
    path = write(tmp_path / "a.jsonl", *late)
    message = f"{path}, line 82: field 'late' must be string as in the records before, got 1; make its values alike, or leave"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(JsonLines(path, block_bytes=100))
    assert len(read_table(JsonLines(path, block_bytes=100, columns=["a", "text"]))) == len(late)


def test_large_floats_are_no_error(tmp_path: Path) -> None:
    """Floats beyond 2**53 are read, as are whole numbers that a float holds exactly, and those that the schema makes floats."""
    path = write(tmp_path / "a.jsonl", {"a": 1e300, "b": 0.5}, {"a": 2**80, "b": 9007199254740993})
    assert read_table(JsonLines(path, schema={"b": pa.float64()})).to_pylist() == [
        {"a": 1e300, "b": 0.5},
        {"a": 2.0**80, "b": 2.0**53},
    ]


def test_brackets_in_text_are_no_nesting(tmp_path: Path) -> None:
    """Any number of brackets in strings and of short lists is read."""
    record = {"text": '[{\\"' * 1000, "lists": [[1]] * 1000}
    assert read_table(JsonLines(write(tmp_path / "a.jsonl", record))).to_pylist() == [record]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are an error with file, line and byte, or replaced; errors on later lines are found too."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":"x"}\n\n{"a":"\xff"}\n')
    message = f"{path}, line 3: text must be UTF-8, got 0xff at byte 17, invalid start byte; pass errors='replace'"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(JsonLines(path))
    assert read_table(JsonLines(path, errors="replace"))["a"].to_pylist() == ["x", "\ufffd"]
    path.write_bytes(b'{"a":"x"}\n\n{"a":"\xff"}\n{"a":')
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 4: line must be a JSON object, got invalid JSON")):
        read_table(JsonLines(path, errors="replace"))


def test_line_that_is_too_long(tmp_path: Path) -> None:
    """A line longer than ``max_record_bytes`` is an error with file and byte, for every block size."""
    path = write(tmp_path / "a.jsonl", {"a": 1}, "\n", {"a": 1, "b": "y" * 100})
    size = len(path.read_bytes().splitlines()[-1])
    for block_bytes in (1, 10, 1000):
        assert len(read_table(JsonLines(path, block_bytes=block_bytes, max_record_bytes=size))) == 2
        with pytest.raises(
            ValueError, match=f"record of {size} bytes or more at byte 10 of {re.escape(str(path))} cannot fit max_record"
        ):
            read_table(JsonLines(path, block_bytes=block_bytes, max_record_bytes=size - 1))


@pytest.mark.parametrize("name", ["row_id", "piece", "record"])
def test_reserved_fields(tmp_path: Path, name: str) -> None:
    """A field with a reserved name is an error; without it the records are read."""
    path = write(tmp_path / "a.jsonl", {"a": 1, name: 7})
    with pytest.raises(
        ValueError, match=rf"fields must be none of the reserved .*, got '{name}'; leave it out with columns=\[...\]"
    ):
        read_table(JsonLines(path))
    assert read_table(JsonLines(path, columns=["a"])).to_pylist() == [{"a": 1}]
