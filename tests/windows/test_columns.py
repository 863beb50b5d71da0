"""Columns read from Arrow: the kind of column of each type, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from seqstream.arrow import holds_steps
from seqstream.windows.columns import Column, ColumnError, Dense, Objects, Ragged, read_column


def read(values: Any, kind: pa.DataType | None = None) -> Column:
    """Read a column of one chunk."""
    return read_column("x", pa.chunked_array([pa.array(values, kind)]))


def rows_of(column: Column) -> list[Any]:
    """Return the rows of a ragged column, each as nested lists."""
    assert isinstance(column, Ragged)
    ends = column.starts + column.lengths
    rows = [column.values[start:end] for start, end in zip(column.starts, ends, strict=True)]
    return [row.reshape(-1, *column.shape).tolist() for row in rows]


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_sequences_of_numbers_are_ragged(make: Any) -> None:
    """Rows lie one after the other, with room for the longest on both sides."""
    column = read([[1, 2], [], [3, 4, 5]], make(pa.int32()))
    assert isinstance(column, Ragged)
    assert rows_of(column) == [[1, 2], [], [3, 4, 5]]
    assert column.values[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert column.starts.tolist() == [3, 5, 5]
    assert column.lengths.tolist() == [2, 0, 3]
    assert column.lengths.dtype == column.starts.dtype == np.int64
    assert column.shape == ()


def test_steps_may_have_a_shape() -> None:
    """Fixed-size lists inside a sequence are the shape of its steps, nested ones included."""
    features = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]
    column = read(features, pa.list_(pa.list_(pa.float32(), 2)))
    assert isinstance(column, Ragged)
    assert column.shape == (2,)
    assert rows_of(column) == features
    images = [[[[1, 2, 3], [4, 5, 6]]], [], [[[7, 8, 9], [0, 1, 2]]]]
    column = read(images, pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 2)))
    assert isinstance(column, Ragged)
    assert column.shape == (2, 3)
    assert column.values.dtype == np.uint8
    assert rows_of(column) == images


def test_slices_and_chunks_are_read_as_they_look() -> None:
    """Offsets that do not begin at 0, chunks cut anywhere, and chunks with no rows change nothing."""
    whole = pa.array([[[number, -number]] * (number % 4) for number in range(20)], pa.list_(pa.list_(pa.int16(), 2)))
    chunks = [whole.slice(3, 4), whole.slice(0, 0), whole.slice(11, 9), pa.array([], whole.type)]
    assert rows_of(read_column("x", pa.chunked_array(chunks))) == pa.chunked_array(chunks).to_pylist()
    dense = pa.array([[number, -number] for number in range(20)], pa.list_(pa.int16(), 2))
    chunks = [dense.slice(3, 4), dense.slice(0, 0), dense.slice(11, 9)]
    column = read_column("x", pa.chunked_array(chunks))
    assert isinstance(column, Dense)
    assert column.values.tolist() == pa.chunked_array(chunks).to_pylist()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], pa.int8(), np.array([1, 2], np.int8)),
        ([True, False], pa.bool_(), np.array([True, False])),
        ([0.5, 2], pa.float16(), np.array([0.5, 2], np.float16)),
        ([[1, 2], [3, 4]], pa.list_(pa.float64(), 2), np.array([[1.0, 2], [3, 4]])),
        ([[[1], [2]], [[3], [4]]], pa.list_(pa.list_(pa.int32(), 1), 2), np.array([[[1], [2]], [[3], [4]]], np.int32)),
    ],
)
def test_rows_of_one_shape_are_dense(values: Any, kind: pa.DataType, expected: Any) -> None:
    """Numbers and fixed-size lists are stacked, in their own type."""
    column = read(values, kind)
    assert isinstance(column, Dense)
    assert column.values.dtype == expected.dtype
    np.testing.assert_array_equal(column.values, expected)


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b"],
        [["a"], ["b", "c"]],
        [[[1], [2, 3]], []],
        [{"a": 1}, {"a": 2}],
        [b"a", None],
        [None, None],
        [None, "a"],
        [[], []],
    ],
)
def test_what_no_tensor_holds_is_kept(values: Any) -> None:
    """Strings, nested lists, structs and missing ones stay as they are."""
    column = read(values)
    assert isinstance(column, Objects)
    assert column.values.to_pylist() == values


def test_dictionaries_are_read_through() -> None:
    """A column encoded as a dictionary is read as its values."""
    strings = read_column("x", pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()]))
    assert isinstance(strings, Objects)
    assert strings.values.to_pylist() == ["a", "b", "a"]
    numbers = read_column("x", pa.chunked_array([pa.array([5, 7, 5]).dictionary_encode()]))
    assert isinstance(numbers, Dense)
    assert numbers.values.tolist() == [5, 7, 5]


def test_extension_types_are_read_as_what_they_store() -> None:
    """An Arrow tensor column is stacked."""
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    column = read_column("x", pa.chunked_array([tensors]))
    assert isinstance(column, Dense)
    assert column.values.tolist() == np.arange(12).reshape(3, 4).tolist()


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.int64(), pa.list_(pa.float32(), 2), pa.string()])
def test_a_column_of_no_rows_keeps_its_form(kind: pa.DataType) -> None:
    """An empty window has empty columns, of chunks or of none."""
    for chunks in ([], [pa.array([], kind)]):
        column = read_column("x", pa.chunked_array(chunks, kind))
        if isinstance(column, Ragged):
            assert len(column.lengths) == len(column.starts) == 0
        else:
            assert len(column.values) == 0
        assert isinstance(column, type(read([None] if kind == pa.string() else [[1, 2]] if kind != pa.int64() else [1], kind)))


@pytest.mark.parametrize(
    "chunks",
    [
        [pa.array([[1], [2]]), pa.array([[3], None, None], pa.list_(pa.int64()))],
        [pa.array([1, 2]), pa.array([3, None], pa.int64())],
        [pa.array([[1], [2]], pa.list_(pa.int8(), 1)), pa.array([[3], None], pa.list_(pa.int8(), 1))],
    ],
)
def test_a_missing_value_names_its_row(chunks: list[pa.Array]) -> None:
    """The error has the number of the first row without a value, counted over chunks, and says what to do."""
    message = r"^column 'x' must have a value in every record, got none; fill it in a Map or leave the column out$"
    with pytest.raises(ColumnError, match=message) as caught:
        read_column("x", pa.chunked_array(chunks))
    assert caught.value.row == 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1, None, 2]], pa.list_(pa.int32())),
        ([[[1, 2], None, [3, 4]]], pa.list_(pa.list_(pa.int32(), 2))),
        ([[[1, None], [3, 4]]], pa.list_(pa.list_(pa.int32(), 2))),
        ([[1, None]], pa.list_(pa.int32(), 2)),
        ([[[1, 2], None]], pa.list_(pa.list_(pa.int32(), 2), 2)),
    ],
)
def test_a_missing_value_inside_a_sequence_is_refused(values: Any, kind: pa.DataType) -> None:
    """A missing value inside a row is an error, on whichever level it is."""
    message = r"^column 'x' must have no missing value inside a sequence, got 1; fill them in a Map$"
    with pytest.raises(ValueError, match=message):
        read(values, kind)


@pytest.mark.parametrize(
    "chunks",
    [
        [pa.array([[1], [2, 3]]), pa.array([[], [4, None]], pa.list_(pa.int64()))],
        [
            pa.array([[[1, 2]]] * 2, pa.list_(pa.list_(pa.int8(), 2))),
            pa.array([[], [[1, 2], [3, None]]], pa.list_(pa.list_(pa.int8(), 2))),
        ],
        [pa.array([[1, 2]] * 3, pa.list_(pa.int8(), 2)), pa.array([[1, None]], pa.list_(pa.int8(), 2))],
    ],
)
def test_a_missing_value_inside_a_sequence_names_its_row(chunks: list[pa.Array]) -> None:
    """The row is counted over chunks, over empty rows and over steps of several numbers."""
    with pytest.raises(ColumnError) as caught:
        read_column("x", pa.chunked_array(chunks))
    assert caught.value.row == 3


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_unsigned_numbers_of_one_shape_are_int64(shape: tuple[int, ...]) -> None:
    """Unsigned numbers of more than 8 bits become int64, as torch supports few operations on them; bytes stay bytes."""
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64):
        largest = min(int(np.iinfo(kind).max), 2**63 - 1)
        values = pa.array(np.full(int(np.prod(shape, dtype=int)), largest, kind))
        for size in reversed(shape):
            values = pa.FixedSizeListArray.from_arrays(values, size)
        column = read_column("x", pa.chunked_array([values]))
        assert isinstance(column, Dense)
        assert column.values.dtype == (np.uint8 if kind is np.uint8 else np.int64)
        assert column.values.reshape(-1)[0] == largest


TOO_LARGE = 2**63
UINT64 = pa.uint64()


@pytest.mark.parametrize(
    "chunks",
    [
        [pa.array([1, 2], UINT64), pa.array([3, TOO_LARGE, TOO_LARGE + 1], UINT64)],
        [pa.array([[1], [2, 3]], pa.list_(UINT64)), pa.array([[], [5, TOO_LARGE]], pa.list_(UINT64))],
        [pa.array([[1, 2]] * 3, pa.list_(UINT64, 2)), pa.array([[1, TOO_LARGE]], pa.list_(UINT64, 2))],
        [pa.array([[[1, 2]]] * 3 + [[[1, 2], [TOO_LARGE, 3]]], pa.list_(pa.list_(UINT64, 2)))],
    ],
)
def test_a_number_that_int64_cannot_hold_is_refused(chunks: list[pa.Array]) -> None:
    """No number wraps around: the error names the column, the value, the limit and the remedy, and has the row."""
    message = (
        r"^column 'x' must hold whole numbers up to 9,223,372,036,854,775,807, the largest of int64, got "
        r"9,223,372,036,854,775,808; turn it into a str or a smaller number in a Map, or leave the column out$"
    )
    with pytest.raises(ColumnError, match=message) as caught:
        read_column("x", pa.chunked_array(chunks))
    assert caught.value.row == 3


@pytest.mark.parametrize("name", ["label", "labels"])
@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_labels_are_int64(name: str, kind: pa.DataType) -> None:
    """Whole numbers and booleans of labels become int64, as losses need them: one a row, arrays and sequences."""
    for values, whole in (
        ([1, 0], kind),
        ([[1, 0], [0, 1]], pa.list_(kind, 2)),
        ([[1], [0, 1]], pa.list_(kind)),
        ([[[1, 0]], [[0, 1]]], pa.list_(pa.list_(kind, 2))),
    ):
        column = read_column(name, pa.chunked_array([pa.array(values).cast(whole)]))
        assert not isinstance(column, Objects)
        assert column.values.dtype == np.int64
        assert (rows_of(column) if isinstance(column, Ragged) else column.values.tolist()) == values


def test_types_of_sequences_are_told_by_their_type_alone() -> None:
    """Lists of numbers are sequences, also where all are empty; lists of other things are not."""
    assert all(map(holds_steps, [pa.list_(pa.int8()), pa.large_list(pa.float32()), pa.list_(pa.list_(pa.bool_(), 3))]))
    assert holds_steps(pa.array([[], []]).type)
    kinds = [pa.list_(pa.string()), pa.list_(pa.list_(pa.int8())), pa.list_(pa.int8(), 3), pa.int8(), pa.string(), pa.null()]
    assert not any(map(holds_steps, kinds))
