"""`JsonArrays` reads what ``json.loads`` reads, however the file is written and wherever it is resumed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream import testing

strings = st.text('ab"\\€𝄞\n\t{}[],: ', max_size=12)
values: st.SearchStrategy[Any] = st.one_of(strings, st.lists(strings, max_size=3), st.fixed_dictionaries({"x": strings}))
objects = st.fixed_dictionaries(
    {"text": strings},
    optional={"n": st.integers(-9, 9), "many": st.lists(strings, max_size=2), "inner": st.fixed_dictionaries({"x": strings})},
)
WRITERS: list[dict[str, Any]] = [
    {},
    {"indent": 2},
    {"indent": "\t", "ensure_ascii": False},
    {"separators": (",", ":")},
    {"separators": ("\n,\n", " :\r\n ")},
]


def filled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {name for record in records for name in record}
    return [{name: record.get(name) for name in names} for record in records]


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(objects, max_size=12),
    options=st.sampled_from(WRITERS),
    around=st.sampled_from(["", "\ufeff", " \n ", "key"]),
    block_bytes=st.integers(1, 120),
    compress=st.booleans(),
)
def test_arrays_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[dict[str, Any]],
    options: dict[str, Any],
    around: str,
    block_bytes: int,
    *,
    compress: bool,
) -> None:
    """Records are those of ``json.loads``, whatever the white space, the blocks and the compression; every state resumes."""
    content = {'"ta\n': [{"data": 1}], "\u00e9": "],[", "more": {"data": []}, "data": records, "end": ["x"]}
    text = json.dumps(content if around == "key" else records, **options)
    data = (text if around == "key" else around + text + around.strip("\ufeff")).encode()
    path = tmp_path_factory.getbasetemp() / (f"{os.getpid()}.json" + (".gz" if compress else ""))
    path.write_bytes(gzip.compress(data) if compress else data)
    source = ss.JsonArrays(path, key="data" if around == "key" else None, block_bytes=block_bytes)
    assert filled(list(source.records())) == filled(records)
    if records:
        testing.check_source(source)


def test_lines_of_a_file_in_pretty_print(tmp_path: Path) -> None:
    """Errors and locations have the lines of the file as it is written."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a\nb", "n": 1}, {"text": "c", "n": 2}, {"text": "d", "n": 3}], indent=1))
    source = ss.JsonArrays(path)
    assert [source.locate(row) for row in range(3)] == [f"{path}, line {line}" for line in (2, 6, 10)]
    assert source.record(1) == {"text": "c", "n": 2}
    path.write_text(path.read_text().replace(": 3", ": x"))
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 10: line must be a JSON object, got invalid JSON")):
        list(ss.JsonArrays(path).records())
    path.write_bytes(b'[\n{"text": "\xff"}]')
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: text must be UTF-8, got 0xff")):
        list(ss.JsonArrays(path).records())
    assert ss.JsonArrays(path, errors="replace").head() == [{"text": "\ufffd"}]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            '{"version": 1, "data": [{"a": 1}]}',
            {},
            "one JSON array, got an object with the keys 'version', 'data'; pass key='data' ",
        ),
        (
            '{"text": "a"}\n{"text": "b"}\n',
            {},
            "one JSON array, got an object with the keys 'text'; read lines of objects with JsonL",
        ),
        ('{"a": 1, "b": [2]}', {"key": "c"}, "an object with an array at key='c', got keys 'a', 'b'; correct key"),
        ('{"a": {"c": [2]}, "b": 3}', {"key": "b"}, "an object with an array at key='b', got keys 'a', 'b'; correct key"),
        ('[{"a": 1}]', {"key": "c"}, "an object with an array at key='c', got an array; leave key out"),
        ("", {}, "one JSON array, got an empty file"),
        ("text", {}, "one JSON array, got other text; read lines of objects with JsonLines"),
        ('[{"a": 1},\n {"a"', {}, "line 2: file must be one JSON array, got its end before that of the array"),
        ('[{"a": "\\', {}, "line 1: file must be one JSON array, got its end before that of the array"),
        ('[{"a": 1}]\n[]', {}, "line 2: file must be one JSON array, got '[]' after its end; leave that out"),
        ('[{"a": 1}\n}', {}, "line 2: array must end with ], got }; correct the file"),
        ('[{"a": 1}, 2]', {}, "line must be a JSON object, got a number"),
        ('[{"a": 1} {"a": 3}]', {}, "line must be a JSON object, got invalid JSON"),
        ('[{"a": 1},\n2\n{"a": 3}]', {}, "line must be a JSON object, got "),
        ('[[{"a": 1}]]', {}, "line must be a JSON object, got an array"),
        ('[{"a": "' + "x" * 500 + '"}]', {"max_record_bytes": 100}, "cannot fit max_record_bytes=100"),
    ],
)
def test_files_that_are_no_array(tmp_path: Path, text: str, options: Any, message: str) -> None:
    """A file of another kind, or one that is cut off, is an error with what it is and what to do."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        list(ss.JsonArrays(path, **options).records())
    assert str(path) in str(caught.value)
    path.write_bytes(b"[" + text.encode("utf-16"))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        list(ss.JsonArrays(path, **options).records())


def test_json_lines_name_the_other_source(tmp_path: Path) -> None:
    """An array, or an object over several lines, given to `JsonLines` is an error that names `JsonArrays`."""
    path = tmp_path / "a.json"
    for indent in (None, 2):
        path.write_text(json.dumps([{"a": 1}], indent=indent))
        with pytest.raises(ValueError, match=r"got an array; .*, or read a file of one array with JsonArrays$"):
            list(ss.JsonLines(path).records())
    path.write_text(json.dumps({"data": [{"a": 1}]}, indent=2))
    with pytest.raises(ValueError, match=r"got its beginning; .* read the array in it with JsonArrays\(\.\.\., key=\.\.\.\)$"):
        list(ss.JsonLines(path).records())


def test_a_long_array_is_read_in_blocks(tmp_path: Path) -> None:
    """A file of several chunks resumes from offsets in the file; its fingerprint has the key, and is not that of lines."""
    records = [{"text": f'{number} \\" ' + "x" * (number % 700)} for number in range(3_000)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": ["\\"], "data": records}, indent=4))
    source = pickle.loads(pickle.dumps(ss.JsonArrays(path, key="data", block_bytes=10_000, columns=["text"])))
    blocks = list(source.read(0))
    assert len(blocks) > 90
    for number in (0, 40, len(blocks) - 2):
        rest = list(source.read(0, blocks[number][1]))
        assert [after for _, after in rest] == [after for _, after in blocks[number + 1 :]]
        assert rest[0][0].equals(blocks[number + 1][0])
    assert [record for table, _ in blocks for record in table.to_pylist()] == records
    assert json.loads(json.dumps(source.fingerprint())) == source.fingerprint()
    assert source.fingerprint()["key"] == "data"
