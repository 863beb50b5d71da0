"""The columns of a window, read from Arrow once, so that the rows of a batch are gathered in a few array operations.

Legend: ``N`` rows, ``T`` steps of all rows, ``D`` numbers in one step.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import is_list, list_lengths, plain, step_of, to_numpy
from seqstream.records import LABEL_COLUMNS, ROW_ID, RecordError
from seqstream.sources.tables.arrow_to_python import without_text

Array: TypeAlias = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Rows of their own lengths in one flat buffer.

    The buffer has room for one longest row on both sides, so that a slice of any padded length around any row lies inside it.

    Attributes:
        values: ``(T + 2 * longest, D)``, the steps of all rows.
        starts: ``int64 (N,)``, first step of each row in ``values``.
        lengths: ``int64 (N,)``, steps of each row.
        shape: Shape of one step, ``()`` for tokens; ``D`` numbers.
    """

    values: Array
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dense:
    """Rows of one shape.

    Attributes:
        values: ``(N, ...)``.
    """

    values: Array


@dataclasses.dataclass(frozen=True)
class Objects:
    """Rows that no tensor holds: strings, nested or missing values.

    Attributes:
        values: ``N`` of them.
    """

    values: pa.ChunkedArray


Column: TypeAlias = Ragged | Dense | Objects

MADE_BY_PACKING = ("position_ids", "sequence_ids")
"""Columns that packed batches get."""

_LARGEST = np.iinfo(np.int64).max


def read_column(name: str, values: pa.ChunkedArray) -> Column:
    """Return a column of Arrow as the kind of column that its type is.

    Whole numbers of steps keep their type, which batches widen. The whole numbers and booleans of ``label`` and ``labels``
    become int64, and so do unsigned ones of rows that have more than 8 bits, with which torch can do little.

    Args:
        name: Name of the column.
        values: Its ``N`` rows.

    Raises:
        ColumnError: A column of numbers has missing values, or one that int64 cannot hold.
    """
    values = plain(values)
    kind = values.type
    if is_list(kind) and (step := step_of(kind.value_type)) is not None:
        _refuse_nulls(name, values)
        return _read_ragged(name, values, *step)
    if (step := step_of(kind)) is not None:
        if not values.null_count:
            return Dense(_read_dense(name, values, *step))
        _refuse_nulls(name, values)
    return Objects(without_text(values))


def _refuse_nulls(name: str, values: pa.ChunkedArray) -> None:
    """Raise a `ColumnError` if a row has no value."""
    if values.null_count:
        row = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise ColumnError(
            f"column {name!r} must have a value in every record, got none; fill it in a Map or leave the column out", row
        )


def check_parallel(columns: Mapping[str, Column], sequence: str | None) -> None:
    """Check that columns can be packed side by side.

    Args:
        columns: The columns by name.
        sequence: The one whose lengths rows are packed by.

    Raises:
        ValueError: There is no sequence, or a column has the name of one that packed batches get.
        ColumnError: A column has another number of steps than the sequence in some row.
    """
    own = columns.get(sequence or "")
    if not isinstance(own, Ragged):
        raise ValueError("Pack needs a column of sequences, got none; tokenise text with Tokenize before")
    for name, column in columns.items():
        if name in MADE_BY_PACKING:
            raise ValueError(f"Pack makes the column {name!r} itself, got one; drop it in a Map")
        if isinstance(column, Ragged) and not np.array_equal(column.lengths, own.lengths):
            row = int(np.flatnonzero(column.lengths != own.lengths)[0])
            raise ColumnError(
                f"column {name!r} must have as many steps as {sequence!r} to be packed beside it, got "
                f"{column.lengths[row]:,} and {own.lengths[row]:,}; mend or drop it in a Map",
                row,
            )


class ColumnError(ValueError):
    """An error in one row of a column; ``row`` is its number."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def _read_ragged(name: str, values: pa.ChunkedArray, kind: pa.DataType, shape: tuple[int, ...]) -> Ragged:
    """Return rows of lists: the steps of all chunks are copied into one buffer, in one pass."""
    lengths = list_lengths(values)
    room = int(lengths.max(initial=1))  # 1: rows made up have a step before the first row
    width = int(np.prod(shape, dtype=np.int64))
    flat = np.zeros(((int(lengths.sum()) + 2 * room), width), dtype=_held(name, _dtype(kind)))
    at, first_row = room, 0
    for chunk in values.chunks:
        ends = to_numpy(chunk.offsets)
        with _in_rows(ends - ends[0], first_row):
            steps = _flat_numbers(name, chunk.values.slice(ends[0], ends[-1] - ends[0]), width).reshape(-1, width)
        flat[at : at + len(steps)] = steps
        at += len(steps)
        first_row += len(chunk)
    starts = np.cumsum(lengths)
    starts -= lengths
    starts += room
    return Ragged(flat, starts, lengths, shape)


@contextlib.contextmanager
def _in_rows(ends: Array, first_row: int) -> Iterator[None]:
    """Replace the step that an error of a chunk names by its row; ``ends`` are the offsets of the chunk's rows, from 0."""
    try:
        yield
    except ColumnError as error:
        error.row = first_row + int(np.searchsorted(ends, error.row, side="right")) - 1
        raise


def _held(name: str, kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which numbers are held: classes become int64, and ids stay small, as they are gathered faster so."""
    return np.dtype(np.int64) if kind.kind in "biu" and name in LABEL_COLUMNS else kind


def _read_dense(name: str, values: pa.ChunkedArray, kind: pa.DataType, shape: tuple[int, ...]) -> Array:
    """Return rows of one shape, ``(N, *shape)``."""
    width = int(np.prod(shape, dtype=np.int64))
    parts, first_row = [], 0
    for chunk in values.chunks:
        with _in_rows(np.arange(len(chunk) + 1), first_row):
            parts.append(_flat_numbers(name, chunk, width))
        first_row += len(chunk)
    numbers = np.concatenate(parts or [np.empty(0, dtype=_dtype(kind))]).reshape(-1, *shape)
    is_unsigned = numbers.dtype.kind == "u" and numbers.dtype.itemsize > 1
    return numbers.astype(np.int64 if is_unsigned else _held(name, numbers.dtype), copy=False)


def _flat_numbers(name: str, values: pa.Array, width: int) -> Array:
    """Return the numbers inside an array of fixed-size lists, flat; an error names the step of ``width`` numbers."""
    inside = width  # numbers in each of the values
    while True:
        if values.null_count:  # missing lists too: flatten() would leave them out, and move the numbers that follow
            step = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) * inside // width
            count = values.null_count
            raise ColumnError(
                f"column {name!r} must have no missing value inside a sequence, got {count}; fill them in a Map", step
            )
        if not pa.types.is_fixed_size_list(values.type):
            break
        inside //= values.type.list_size
        values = values.flatten()
    numbers = to_numpy(values)
    if numbers.dtype == np.uint64 and numbers.max(initial=0) > _LARGEST:
        at = int(np.argmax(numbers > _LARGEST))
        raise ColumnError(
            f"column {name!r} must hold whole numbers up to {_LARGEST:,}, the largest of int64, got {numbers[at]:,}; "
            "turn it into a str or a smaller number in a Map, or leave the column out",
            at // width,
        )
    return numbers


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    """Return the type of NumPy for a type of numbers."""
    numbers: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return numbers


def read_rows(name: str, table: pa.Table) -> Column:
    """Return a column of a table that has row ids, as `read_column` does.

    Raises:
        RecordError: A value is missing or too large; it names the row.
    """
    try:
        return read_column(name, table.column(name))
    except ColumnError as error:
        raise RecordError(str(error), row_id=table.column(ROW_ID)[error.row].as_py()) from None
