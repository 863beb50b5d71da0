"""`Map` and `Filter`: users' functions on tables."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from seqstream.records import RecordError
from seqstream.stages.map_filter import Filter, Map


def table(*texts: str, first: int = 0) -> pa.Table:
    rows = range(first, first + len(texts))
    return pa.table({"text": pa.array(texts, pa.string()), "row_id": pa.array(rows, pa.int64())})


def shout(records: pa.Table) -> pa.Table:
    return records.set_column(0, "text", pc.utf8_upper(records["text"]))


def is_long(records: pa.Table) -> Any:
    return pc.greater(pc.utf8_length(records["text"]), 2)


def test_map_applies_the_function_to_each_table() -> None:
    """Every table is mapped by itself and keeps its row ids."""
    tables, counts = Map(shout).open()([table("a", "b"), table("c", first=2)])
    assert [made.to_pydict() for made in tables] == [
        {"text": ["A", "B"], "row_id": [0, 1]},
        {"text": ["C"], "row_id": [2]},
    ]
    assert counts == [{}, {}]


def test_the_loaders_columns_are_hidden_and_put_back() -> None:
    """The function receives only the user's columns; row ids and pieces are added to what it returns."""
    seen: list[list[str]] = []

    def spy(records: pa.Table) -> dict[str, Any]:
        seen.append(records.column_names)
        return {"length": pc.utf8_length(records["text"])}

    given = table("a", "bcd").append_column("piece", pa.array([0, 1], pa.int32()))
    ((made,), _) = Map(spy).open()([given])
    assert seen == [["text"]]
    assert made.to_pydict() == {"length": [1, 3], "row_id": [0, 1], "piece": [0, 1]}


@pytest.mark.parametrize("make", [dict, pa.RecordBatch.from_pydict, pa.Table.from_pydict])
def test_map_takes_tables_batches_and_dicts(make: Any) -> None:
    """A function may return a table, a record batch or a dict of columns."""
    ((made,), _) = Map(lambda _: make({"n": pa.array([1, 2])})).open()([table("a", "b")])
    assert made.column("n").to_pylist() == [1, 2]


def test_map_takes_a_dict_of_numpy_arrays_and_lists() -> None:
    """Columns of a dict may be numpy arrays and lists."""
    ((made,), _) = Map(lambda _: {"n": np.arange(2), "s": ["x", "y"]}).open()([table("a", "b")])
    assert made.select(["n", "s"]).to_pydict() == {"n": [0, 1], "s": ["x", "y"]}


def test_map_must_keep_the_number_of_rows() -> None:
    """A function that drops or adds rows is refused, as row ids would no longer fit."""
    stage = Map(functools.partial(pa.Table.slice, length=1)).open()
    with pytest.raises(ValueError, match=r"^Map\(.*slice\) must return 2 rows as it was given, got 1; drop rows with Filter$"):
        stage([table("a", "b")])


def test_map_cannot_return_reserved_columns() -> None:
    """A function cannot return a column that the loader owns."""
    with pytest.raises(ValueError, match=r"cannot return a column named row_id, which is the loader's own; use another name$"):
        Map(lambda records: {"row_id": records["text"]}).open()([table("a")])


def test_map_must_return_columns() -> None:
    """Anything but columns is refused with its type."""
    with pytest.raises(
        TypeError, match=r"must return a pyarrow.Table, a pyarrow.RecordBatch or a dict of columns, got NoneType; "
    ):
        Map(lambda _: None).open()([table("a")])


def test_tables_of_no_rows_are_not_shown_to_functions() -> None:
    """A block without rows passes, so that a function need not be written for it."""

    def fail(_: pa.Table) -> pa.Table:
        raise AssertionError

    for stage in (Map(fail), Filter(fail)):
        (made,), (counts,) = stage.open()([table()])
        assert len(made) == 0
        assert counts == {}


def test_a_function_that_raises_is_named() -> None:
    """The function's own exception is raised, with a note that names the function."""

    def broken(records: pa.Table) -> pa.Table:
        return records["nothing"]

    for stage in (Map(broken), Filter(broken)):
        with pytest.raises(KeyError, match="nothing") as caught:
            stage.open()([table("a")])
        assert caught.value.__notes__ == [f"in {stage}"]


MASKS = {
    "Arrow": is_long,
    "chunked": lambda records: pa.chunked_array([is_long(records).combine_chunks()]),
    "numpy": lambda records: np.array([len(text) > 2 for text in records["text"].to_pylist()]),
    "list": lambda records: [len(text) > 2 for text in records["text"].to_pylist()],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_filter_keeps_rows_and_counts_the_others(mask: Any) -> None:
    """Rows with a true mask stay, whatever kind of mask it is; the others are counted."""
    tables, counts = Filter(mask).open()([table("a", "bcd"), table("ef", first=2), table("ghi", first=3)])
    assert [made["row_id"].to_pylist() for made in tables] == [[1], [], [3]]
    assert counts == [{"dropped": 1}, {"dropped": 1}, {}]


def test_filter_counts_nothing_when_it_drops_nothing() -> None:
    """The counts have no key for an outcome that did not occur."""
    given = table("abc")
    assert Filter(is_long).open()([given]) == ([given], [{}])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True], r"must return a mask of 2 values, one per row, got 1$"),
        ([True, None], r"must return true or false for each row, got 1 nulls; use fill_null$"),
        ([1, 0], r"must return a mask of booleans, got values of type int64$"),
        ("yes", r"must return a mask of booleans, one per row, got str; "),
    ],
)
def test_filter_refuses_what_is_no_mask(mask: Any, message: str) -> None:
    """A mask that is too short, has nulls or holds no booleans is refused."""
    with pytest.raises((ValueError, TypeError), match=message):
        Filter(lambda _: mask).open()([table("a", "b")])


def test_stages_name_their_function() -> None:
    """Representation and fingerprint show the function's name, which is the same in every process."""
    assert repr(Map(shout)) == f"Map({__name__}.shout)"
    assert Map(shout).fingerprint() == {"kind": "Map", "fn": f"{__name__}.shout"}
    assert Filter(functools.partial(is_long)).fingerprint() == {"kind": "Filter", "fn": f"{__name__}.is_long"}


def test_stages_need_a_function() -> None:
    """Anything that cannot be called is refused by the constructor."""
    with pytest.raises(TypeError, match=r"^Map must be given a function of a pyarrow.Table, got str$"):
        Map("shout")  # type: ignore[arg-type]


def test_record_errors_can_be_pickled() -> None:
    """An error from another process still has the row id of the record."""
    error = pickle.loads(pickle.dumps(RecordError("text must not be null", 7)))
    assert (str(error), error.row_id) == ("text must not be null", 7)
