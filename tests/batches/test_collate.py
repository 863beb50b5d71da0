"""Collating: element for element what `pad_sequence` makes, for every type, shape and cut of Arrow arrays."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.batches.batch import Batch
from seqstream.batches.collate import collate
from seqstream.batches.padding import PaddedRegion, Padding, gather_rows, pad_rows
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import PIECE, ROW_ID
from seqstream.windows.block_reader import Cursor, ReadBlock
from seqstream.windows.building import read_windows
from seqstream.windows.columns import Dense, Ragged, read_column
from seqstream.windows.processing import run_here
from seqstream.windows.settings import WindowSettings, WindowStart
from seqstream.windows.window import Window
from tests.helpers import batches

TYPES = {
    "int32": torch.int64,
    "int64": torch.int64,
    "uint16": torch.int64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float32,
}
SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 2)]


def arrow_rows(lengths: list[int], dtype: str, shape: tuple[int, ...], seed: int) -> tuple[pa.Array, list[torch.Tensor]]:
    """Make random sequences twice: as an Arrow array and as a tensor of each, in the type of a batch."""
    numbers = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 100, (sum(lengths), *shape)).astype(dtype)
    steps = pa.array(numbers.ravel())
    for size in reversed(shape):
        steps = pa.FixedSizeListArray.from_arrays(steps, size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    rows = np.split(numbers, offsets[1:-1])
    return pa.ListArray.from_arrays(offsets, steps), [torch.from_numpy(row).to(TYPES[dtype]) for row in rows]


def cut(array: pa.Array, places: list[int]) -> pa.ChunkedArray:
    """Cut an array into slices, which keep their offsets."""
    bounds = [0, *sorted(min(place, len(array)) for place in places), len(array)]
    return pa.chunked_array([array.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)])


def window_of(table: pa.Table, spec: Bucket | Unbucketed) -> Window:
    """Plan a table as one window, in the order of the source."""
    table = table.append_column(ROW_ID, pa.array(np.arange(len(table)) + 100))
    block = ReadBlock(table, Cursor(), Cursor(1))
    (window,) = read_windows([block], WindowStart(), WindowSettings(run_here(((),)), spec, (0,), shuffle=False))
    return window


def padded(column: Ragged, rows: npt.NDArray[np.int64], width: int, value: float, side: str = "right") -> torch.Tensor:
    """Pad some rows of a column."""
    lengths = column.lengths[rows]
    region = PaddedRegion.of(lengths, lengths.min(), lengths.max(), width, side)
    return pad_rows(column, column.starts[rows], region, value)


def batch_of(table: pa.Table, padding: Padding | None = None, spec: Bucket | Unbucketed | None = None) -> Batch:
    """Collate a table as one batch."""
    window = window_of(table, spec or Unbucketed(len(table)))
    return collate(window, 0, padding or Padding(), {"position": 1}, 5)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    dtype=st.sampled_from(sorted(TYPES)),
    shape=st.sampled_from(SHAPES),
    places=st.lists(st.integers(0, 20), max_size=4),
    dropped=st.integers(0, 3),
    wider=st.integers(0, 5),
    value=st.sampled_from([0, 1]),
    side=st.sampled_from(["right", "left"]),
    data=st.data(),
)
def test_padding_equals_pad_sequence(  # noqa: PLR0917 - hypothesis passes them by name
    lengths: list[int],
    dtype: str,
    shape: tuple[int, ...],
    places: list[int],
    dropped: int,
    wider: int,
    value: int,
    side: str,
    data: st.DataObject,
) -> None:
    """Any rows in any order, of any type and step, from any cut of the array, on both sides, and wider than the longest."""
    array, tensors = arrow_rows(lengths, dtype, shape, seed=len(lengths))
    dropped = min(dropped, len(lengths) - 1)
    array, tensors = array.slice(dropped), tensors[dropped:]
    column = read_column("x", cut(array, places))
    assert isinstance(column, Ragged)
    before = column.values.copy()
    rows = data.draw(st.lists(st.integers(0, len(tensors) - 1), min_size=1, max_size=12))
    chosen = [tensors[row] for row in rows]
    width = max(map(len, chosen)) + wider
    expected = batches.padded(chosen, width, value, side)
    got = padded(column, np.array(rows), width, value, side)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)
    np.testing.assert_array_equal(column.values, before)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 3), st.sampled_from(["right", "left"]))
def test_the_mask_is_true_on_real_steps(lengths: list[int], wider: int, side: str) -> None:
    """It is what padding rows of ones gives."""
    width = max(lengths) + wider
    expected = batches.padded([torch.ones(length, dtype=torch.bool) for length in lengths], width, side=side)
    region = PaddedRegion.of(np.array(lengths), min(lengths), max(lengths), width, side)
    assert torch.equal(torch.from_numpy(region.mask()), expected)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("uint8", -100, torch.int64),
        ("uint8", 255, torch.uint8),
        ("int8", -100, torch.int8),
        ("int8", -129, torch.int64),
        ("bool", -100, torch.int64),
        ("bool", True, torch.bool),
        ("float16", -100, torch.float16),
    ],
)
def test_padding_is_what_was_asked_for_in_narrow_types(dtype: str, value: float, expected: torch.dtype) -> None:
    """A type that cannot hold the padding gives way to int64; -100 never turns into 156 or true."""
    array, _ = arrow_rows([1, 3], dtype, (), seed=0)
    column = read_column("x", pa.chunked_array([array]))
    assert isinstance(column, Ragged)
    got = padded(column, np.array([0, 1]), 3, value)
    assert got.dtype == expected
    assert got[0, 1:].tolist() == [value, value]
    assert padded(column, np.array([1]), 3, value).dtype == expected, "the type must not depend on whether there is padding"


def test_doubles_follow_the_default_of_torch() -> None:
    """float64 becomes float32 unless torch has another default."""
    table = pa.table({"x": [[0.5, 1.5], [2.5]], "y": [1.5, 2.5]})
    assert batch_of(table).x.dtype == batch_of(table).y.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert batch_of(table).x.dtype == batch_of(table).y.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_batch_by_hand() -> None:
    """Every part of a batch of two rows, as planned: longest first."""
    columns = {
        "input_ids": pa.array([[5], [6, 7, 8]], pa.list_(pa.int32())),
        "labels": pa.array([[1], [0, 1, 0]], pa.list_(pa.int64())),
        "label": pa.array([3, 4], pa.int8()),
        "score": pa.array([0.5, 1.5]),
        "vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)),
        "text": ["a", "b"],
        "tags": [["x"], []],
        PIECE: pa.array([0, 2], pa.int32()),
    }
    batch = batch_of(pa.table(columns), Padding({"input_ids": 9}), Bucket(100, multiple_of=4))
    assert batch.input_ids.tolist() == [[6, 7, 8, 9], [5, 9, 9, 9]]
    assert batch.labels.tolist() == [[0, 1, 0, -100], [1, -100, -100, -100]]
    assert batch.layout.columns["label"].tolist() == [4, 3]
    assert batch.layout.columns["label"].dtype == torch.int64
    assert batch.score.tolist() == [1.5, 0.5]
    assert batch.score.dtype == torch.float32
    assert batch.vector.tolist() == [[3, 4], [1, 2]]
    assert batch.vector.dtype == torch.uint8
    assert batch.text == ["b", "a"]
    assert batch.tags == [[], ["x"]]
    assert batch.lengths.tolist() == batch.layout.device_lengths.tolist() == [3, 1]
    assert {name: lengths.tolist() for name, lengths in batch.layout.column_lengths.items()} == {
        "input_ids": [3, 1],
        "labels": [3, 1],
    }
    assert batch.mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert batch.row_ids.tolist() == [101, 100]
    assert batch.pieces.tolist() == [2, 0]
    assert batch.weights.tolist() == [1, 1]
    assert (batch.num_tokens, batch.num_slots, batch.num_rows, batch.layout.seed, batch.window) == (4, 8, 2, 5, 100)
    assert batch.state == {"position": 1}
    assert PIECE not in batch.layout.columns
    assert ROW_ID not in batch.layout.columns


@pytest.mark.parametrize("side", ["right", "left"])
def test_columns_of_other_lengths_are_padded_for_themselves(side: str) -> None:
    """Each has its own lengths and width, a multiple like the others; mask and lengths are those of the first."""
    table = pa.table({"source_ids": [[1], [2, 3], [4] * 5], "target_ids": [[1] * 9, [2] * 3, [3]]})
    batch = batch_of(table, Padding(side=side), Bucket(1000, multiple_of=4))
    assert batch.num_rows == 3
    assert batch.source_ids.shape == batch.mask.shape == (3, 8)
    assert batch.target_ids.shape == (3, 12)
    assert batch.lengths.tolist() == [1, 5, 2], "planned by the longer of the two"
    assert batch.layout.column_lengths["target_ids"].tolist() == [9, 1, 3]
    assert batch.num_tokens == 8
    assert batch.mask.sum(1).tolist() == [1, 5, 2]
    assert (batch.source_ids != 0).equal(batch.mask)


def test_lengths_of_padded_columns_are_always_there() -> None:
    """Also where they happen to equal those of the others, so that code which asks for them works on every batch."""
    batch = batch_of(pa.table({"source_ids": [[1, 2]], "target_ids": [[3, 4]]}))
    assert batch.layout.column_lengths["target_ids"].tolist() == [2]


def test_lists_of_strings_are_not_the_sequence() -> None:
    """Lengths are those of numbers, and a record without tags is not an empty one."""
    batch = batch_of(pa.table({"tags": [[], ["a", "b"]], "x": [[1, 2, 3], [4]]}))
    assert batch.lengths.tolist() == [3, 1]
    assert batch.tags == [[], ["a", "b"]]


def test_rows_without_sequences_have_length_1() -> None:
    """A batch of single numbers has lengths and a mask all the same."""
    batch = batch_of(pa.table({"x": [5, 6, 7]}))
    assert batch.lengths.tolist() == [1, 1, 1]
    assert batch.mask.tolist() == [[True]] * 3
    assert batch.layout.column_lengths == {}


def test_batches_of_a_window_are_collated_as_served() -> None:
    """Turn after turn, the rows of the plan; a batch is a copy, not a view of its window."""
    table = pa.table({"input_ids": [[row] * (row % 5 + 1) for row in range(40)]})
    window = window_of(table, Bucket(20))
    seen = []
    for turn in range(len(window.plan)):
        batch = collate(window, turn, Padding(), {}, turn)
        ids = batch.row_ids - 100
        assert ids.tolist() == window.plan.rows(turn).tolist()
        assert (batch.input_ids * batch.mask).equal(ids[:, None] * batch.mask)
        batch.input_ids.zero_()
        batch.lengths.zero_()
        seen += ids.tolist()
    assert sorted(seen) == list(range(40))
    assert collate(window, 0, Padding(), {}, 0).num_tokens == window.columns["input_ids"].lengths[window.plan.rows(0)].sum()
    column = window.columns["input_ids"]
    assert isinstance(column, Ragged)
    assert column.values.max() == 39


def test_columns_of_one_shape_are_copied() -> None:
    """What is taken can be written to without changing the window."""
    column = Dense(np.arange(6).reshape(3, 2))
    taken = gather_rows(column, np.array([2, 0]))
    assert isinstance(taken, torch.Tensor)
    assert taken.tolist() == [[4, 5], [0, 1]]
    taken.zero_()
    assert column.values.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_ragged_column_is_not_taken() -> None:
    """It has to be padded."""
    column = read_column("x", pa.chunked_array([pa.array([[1]])]))
    with pytest.raises(TypeError, match=r"^a ragged column must be padded, not taken$"):
        gather_rows(column, np.array([0]))


def test_padding_of_labels_is_ignored_by_losses() -> None:
    """-100 for ``labels``, 0 for others, and what was asked for instead."""
    padding = Padding({"x": 7, "labels": 3})
    assert (Padding().value("labels"), Padding().value("x")) == (-100, 0)
    assert (padding.value("labels"), padding.value("x"), padding.value("y")) == (3, 7, 0)
    assert dataclasses.replace(padding, side="left").side == "left"


def test_a_wide_window_of_huge_rows_is_read_in_place() -> None:
    """Overlapping views never read outside the buffer, at its very ends and with rows of very different lengths."""
    lengths = [1, 5000, 0, 1]
    array, tensors = arrow_rows(lengths, "int32", (), seed=1)
    column = read_column("x", pa.chunked_array([array]))
    assert isinstance(column, Ragged)
    for side in ("right", "left"):
        for rows in ([0, 1, 2, 3], [3], [0], [2], [2, 0], [1, 1]):
            chosen: Any = [tensors[row] for row in rows]
            expected = batches.padded(chosen, side=side)
            got = padded(column, np.array(rows), max(map(len, chosen)), 0, side)
            assert got.equal(expected)
