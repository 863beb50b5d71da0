"""Hashes of records: equal for equal records of any Arrow type, and uniform."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.sources.record_hashes import hash_column, hash_rows, is_null

TEXTS = ["", "a", "ab", "abcdefg", "abcdefgh", "abcdefghi", "x" * 99, "é\0", "a\0", "ab", None]


def column(values: list[Any], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_text_counts_and_not_its_type(kind: pa.DataType) -> None:
    """The same bytes have the same hash in every type of text; different ones differ, by their ends and lengths too."""
    texts = column(TEXTS)
    expected = hash_column(texts).tolist()
    assert hash_column(texts.cast(kind)).tolist() == expected
    assert len(set(expected)) == len(set(TEXTS))
    assert expected[2] == expected[9]
    assert is_null(texts).tolist() == [text is None for text in TEXTS]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=40), st.data())
def test_chunks_and_slices_do_not_count(texts: list[str], data: st.DataObject) -> None:
    """Each text has one hash, wherever its chunk or slice begins."""
    cut = data.draw(st.integers(0, len(texts)))
    lists = [list(text) for text in texts]
    table = pa.table({"text": texts, "list": pa.array(lists, pa.list_(pa.string())), "size": [len(text) for text in texts]})
    whole = hash_rows(table)
    parts = pa.concat_tables([table.slice(0, cut), pa.table(table.slice(cut).to_pydict(), schema=table.schema)])
    assert hash_rows(parts).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == len(set(texts))
    one = hash_rows(pa.table({name: values[:1] for name, values in table.to_pydict().items()}, schema=table.schema))
    assert one.tolist() == whole[:1].tolist()


def test_types_of_numbers_and_order_of_fields_do_not_count() -> None:
    """A whole number equals its float, null a missing field; order and names of fields, and nulls in lists, count."""
    struct = [{"x": 1, "y": None}, {"x": None, "y": "q"}, None]
    table = pa.table({"a": [1, None, -4], "b": [[1, 2], [], [None, 3]], "c": struct, "d": [True, False, None]})
    other = pa.table(
        {
            "d": table["d"],
            "none": pa.nulls(3),
            "c": pa.array([None if each is None else {"y": each["y"], "z": None, "x": each["x"]} for each in struct]),
            "b": table["b"].cast(pa.large_list(pa.float32())),
            "a": table["a"].cast(pa.float64()),
        }
    )
    assert hash_rows(other).tolist() == hash_rows(table).tolist()
    assert hash_rows(table.rename_columns(["A", "b", "c", "d"])).tolist() != hash_rows(table).tolist()
    lists = [[1, 2], [2, 1], [1, 2, None], [None, 1, 2], [], None, [0], [None], [0, 0]]
    assert len(set(hash_column(column(lists)).tolist())) == len(lists)
    assert len(set(hash_column(column([[[1], [2]], [[1, 2]], [[], [1, 2]]])).tolist())) == 3
    assert len(set(hash_column(column([0.1, 0.5, 2.0**70, -0.5, float("nan"), float("inf"), 1.0, True])).tolist())) == 7
    assert hash_column(column([0.0])).tolist() == hash_column(column([-0.0])).tolist() == hash_column(column([0])).tolist()
    assert hash_column(column([7], pa.uint64())).tolist() == hash_column(column([7], pa.int8())).tolist()
    assert hash_column(column([True])).tolist() != hash_column(column([1])).tolist()


def test_other_types() -> None:
    """Times are hashed by value in any unit, lists of fixed size like others; decimals, maps and fixed bytes too."""
    times = column([datetime.datetime(2020, 1, 1), None], pa.timestamp("ms"))
    assert hash_column(times.cast(pa.timestamp("ns"))).tolist() == hash_column(times).tolist()
    days = column([datetime.date(2020, 1, 1)])
    assert hash_column(days.cast(pa.date64())).tolist() == hash_column(days).tolist()
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(range(12)), 3)
    lists = fixed.cast(pa.list_(pa.int64()))
    assert hash_column(pa.chunked_array([fixed.slice(1)])).tolist() == hash_column(pa.chunked_array([lists]))[1:].tolist()
    assert hash_column(column([b"abc"], pa.binary(3))).tolist() == hash_column(column(["abc"])).tolist()
    decimals = column([decimal.Decimal("1.5"), decimal.Decimal("2.5")])
    maps = column([[("a", 1)], [("a", 2)]], pa.map_(pa.string(), pa.int32()))
    for values in (decimals, maps):
        assert len(set(hash_column(values).tolist())) == 2
    assert hash_rows(pa.table({})).tolist() == hash_column(pa.chunked_array([], pa.string())).tolist() == []


@pytest.mark.parametrize("values", [range(100_000), [f"line {number}" for number in range(100_000)]])
def test_bits_are_even(values: Any) -> None:
    """No two of 100,000 consecutive numbers collide, and any 6 bits are uniform, by a chi-square test."""
    hashes = hash_column(pa.chunked_array([pa.array(values)]))
    assert len(np.unique(hashes)) == len(values)
    for shift in range(0, 64, 6):
        counts = np.bincount((hashes >> np.uint64(shift) & np.uint64(15)).astype(np.int64))
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 44.3  # one in 10,000, of 15 degrees of freedom
