"""`MapRecords` and `FilterRecords`, and the errors of `Map` and `Filter` for a function that expects a record."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import seqstream as ss
from seqstream.records import RecordError


def codes(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def lower(record: dict[str, Any]) -> dict[str, Any]:
    record["text"] = record["text"].lower()
    return {**record, "size": len(record["text"])}


def is_even(record: dict[str, Any]) -> bool:
    return bool(record["number"] % 2 == 0)


def refuse_77(record: dict[str, Any]) -> dict[str, Any]:
    if record["number"] == 77:
        raise LookupError("77 is not for me")
    return record


COLUMNS = (operator.attrgetter("number"), operator.attrgetter("row_ids"))


@pytest.fixture
def source(tmp_path: Path) -> ss.JsonLines:
    rows = ({"text": "AbC" * (1 + number % 5), "number": number} for number in range(150))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ss.JsonLines(tmp_path / "a.jsonl", block_bytes=1 << 10)


def stream(source: ss.Source, *stages: Any, **options: Any) -> list[ss.Batch]:
    return list(ss.Loader(source, *stages, ss.Tokenize(codes, max_length=50), ss.Unbucketed(40), shuffle=False, **options))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_function_is_called_for_each_record(source: ss.JsonLines, workers: int) -> None:
    """Each record is what the function returns, rows keep their ids, and others are dropped and counted; also with workers."""
    batches = stream(source, ss.MapRecords(lower), ss.FilterRecords(is_even), workers=workers)
    numbers = [number for batch in batches for number in batch.number.tolist()]
    assert numbers == list(range(0, 150, 2))
    every = stream(source)
    row_ids = dict(zip(*([x for batch in every for x in of(batch).tolist()] for of in COLUMNS), strict=True))
    assert [row for batch in batches for row in batch.row_ids.tolist()] == [row_ids[number] for number in numbers]
    rows = (row for batch in batches for row in zip(batch.input_ids.tolist(), batch.size.tolist(), strict=True))
    assert ["".join(map(chr, ids[:size])) for ids, size in rows] == ["abc" * (1 + number % 5) for number in numbers]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_the_record(source: ss.JsonLines, workers: int) -> None:
    """What the function raises keeps its type, and a note names the line of the record."""
    with pytest.raises(LookupError, match="77 is not for me") as caught:
        stream(source, ss.MapRecords(refuse_77), workers=workers)
    notes = caught.value.__notes__
    assert f"in MapRecords({__name__}.refuse_77)" in notes
    assert any(note.endswith("a.jsonl, line 78") for note in notes)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (ss.MapRecords(lambda record: None), "must return a dict for each record, got NoneType; drop records with Filt"),  # type: ignore[arg-type,return-value]
        (ss.MapRecords(lambda record: [1]), "must return a dict for each record, got list; keys are columns"),  # type: ignore[arg-type,return-value]
        (ss.FilterRecords(lambda record: 1), "must return true or false for each record, got 1"),  # type: ignore[arg-type,return-value]
    ],
)
def test_results_of_another_kind(source: ss.JsonLines, stage: Any, message: str) -> None:
    """The record whose result is of the wrong kind is named."""
    with pytest.raises(RecordError, match=message) as caught:
        stream(source, stage)
    assert caught.value.__notes__[0].endswith("a.jsonl, line 1")


def test_types_stay_where_they_can() -> None:
    """A column keeps its type if that holds the new values, a key that a record lacks is null, and a new key is a column."""
    small = pa.array([1, 2], pa.int8())
    kept = {"a": small, "e": pa.array([0.5, 1], pa.float32()), "f": pa.array([[1], None], pa.list_(pa.int32()))}
    table = pa.table({**kept, "b": small, "d": small, "row_id": [5, 6]})

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "b": row["b"] / 2, "d": 1000, "e": 1} | ({"c": "x"} if row["a"] == 1 else {})

    ((made,), counts) = ss.MapRecords(change).open()([table])
    assert made.to_pylist() == [
        {"a": 1, "e": 1.0, "f": [1], "b": 0.5, "d": 1000, "c": "x", "row_id": 5},
        {"a": 2, "e": 1.0, "f": None, "b": 1.0, "d": 1000, "c": None, "row_id": 6},
    ]
    types = {field.name: field.type for field in made.schema}
    assert types == {name: array.type for name, array in kept.items()} | {
        "b": pa.float64(),
        "d": pa.int64(),
        "c": pa.string(),
        "row_id": pa.int64(),
    }
    assert counts == [{}]


def test_values_of_two_types_name_the_column(source: ss.JsonLines) -> None:
    """Values that no type of Arrow can hold together are an error that names the column."""
    stage = ss.MapRecords(lambda record: {**record, "x": ["a", 1][record["number"] % 2]})
    with pytest.raises((pa.ArrowException, TypeError)) as caught:
        stream(source, stage)
    assert "whose values of 'x' must be of one type" in caught.value.__notes__[0]


def test_they_are_specs() -> None:
    """They have a name, a fingerprint of their own, can be pickled, and refuse what is no function."""
    stage = ss.MapRecords(lower)
    assert repr(stage) == f"MapRecords({__name__}.lower)"
    assert stage.fingerprint() == {"kind": "MapRecords", "fn": f"{__name__}.lower"}
    assert pickle.loads(pickle.dumps(stage)) == stage != ss.Map(lower)
    with pytest.raises(TypeError, match=r"^FilterRecords must be given a function of a record, a dict, got int$"):
        ss.FilterRecords(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fn",
    [
        lambda row: {"text": row["text"].lower()},
        lambda row: {"text": f"Q: {row['text']}"},
        lambda row: {"text": row["text"] + "x"},
        lambda row: row.get("text"),
        lambda row: {"size": len(row["text"])},
        lambda row: json.loads(row["text"]),
        lambda row: "text",
    ],
)
def test_map_names_map_records_for_a_function_of_a_record(source: ss.JsonLines, fn: Callable[[Any], Any]) -> None:
    """A function that treats the table as a record fails with a note about `MapRecords`, and never returns rows of letters."""
    with pytest.raises((TypeError, AttributeError)) as caught:
        stream(source, ss.Map(fn))
    assert "MapRecords calls one with each record" in "\n".join([str(caught.value), *caught.value.__notes__])


@pytest.mark.parametrize(
    "fn", [lambda row: len(row["text"]) > 3, lambda row: row["number"] > 3, lambda row: "a" in row["text"]]
)
def test_filter_names_filter_records_for_a_function_of_a_record(source: ss.JsonLines, fn: Callable[[Any], Any]) -> None:
    """A function that treats the table as a record fails with a note about `FilterRecords`."""
    with pytest.raises(TypeError) as caught:
        stream(source, ss.Filter(fn))
    assert "FilterRecords calls one with each record" in "\n".join([str(caught.value), *caught.value.__notes__])


def test_other_errors_of_a_map_have_no_such_note(source: ss.JsonLines) -> None:
    """Another error of the function has no note about `MapRecords`."""
    with pytest.raises(TypeError) as caught:
        stream(source, ss.Map(lambda table: table.append_column("x", pa.array(np.zeros(len(table)) + None))))  # type: ignore[operator]
    assert "MapRecords" not in "\n".join([str(caught.value), *caught.value.__notes__])
