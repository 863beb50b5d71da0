"""What is known of records everywhere: row ids, reserved columns, counts by outcome, and errors that name one record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrow import holds_steps, to_arrow, to_numpy

Json: TypeAlias = Any
"""What ``json.dumps`` takes: dicts with string keys, lists, strings, numbers, booleans, ``None``."""

Record: TypeAlias = dict[str, Any]
"""A record as Python values, by column."""

Counts: TypeAlias = dict[str, int]
"""Record counts by outcome; an absent key means 0.

``dropped``, of those ``rows_without_labels``, ``empty`` (dropped as well), ``truncated``, ``split``.
"""

OpenStage: TypeAlias = Callable[[list[pa.Table]], tuple[list[pa.Table], Counts]]
"""Tables of consecutive blocks in, as many out, in their order; a table may come out with no rows."""

RECORD = "record"
"""An optional column of a block: the number of each record in its shard, where they are not consecutive."""

RECORD_BITS = 32
"""A row id is ``shard << 32 | record``."""

ROW_ID = "row_id"
"""The column by which a row is known from source to batch."""

PIECE = "piece"
"""The column that numbers the pieces of a record which `Tokenize(overflow="split")` has cut."""

RESERVED = (ROW_ID, PIECE, RECORD)
"""Columns that belong to the loader: no source gives ``row_id`` or ``piece``, and users' functions see none of them."""

LABEL_COLUMNS = ("labels", "label")
"""Columns of classes: whole numbers and booleans there are int64, as losses want them."""

IGNORE_INDEX = -100
"""The label that losses of PyTorch and transformers ignore."""


def split_row_id(row_id: int) -> tuple[int, int]:
    """Return the shard and the record of a row id."""
    return row_id >> RECORD_BITS, row_id & ((1 << RECORD_BITS) - 1)


def record_numbers(table: pa.Table, first: int) -> np.ndarray:
    """Return the numbers of a block's records in their shard, ``int64 (rows,)``: given by the source, or consecutive."""
    if RECORD in table.column_names:
        return to_numpy(table.column(RECORD))
    return np.arange(first, first + len(table), dtype=np.int64)


def with_record_numbers(table: pa.Table, records: np.ndarray) -> pa.Table:
    """Return what `Source.take` has read with the numbers of its records.

    Raises:
        ValueError: Some are missing, and nothing says which.
    """
    if RECORD in table.column_names:
        return table
    if len(table) != len(records):
        raise ValueError(f"take() must give the {len(records)} records it is asked for, got {len(table)}")
    return table.append_column(RECORD, to_arrow(records))


def drop_record_numbers(table: pa.Table) -> pa.Table:
    """Return the table without the source's own record numbers."""
    return table.drop_columns([RECORD]) if RECORD in table.column_names else table


class RecordError(ValueError):
    """One record is to blame: ``row_id`` says which, so that the loader can add its place."""

    def __init__(self, message: str, row_id: int | None) -> None:
        super().__init__(message)
        self.row_id = row_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.row_id)


@contextlib.contextmanager
def located(row_ids: pa.ChunkedArray, locate: Callable[[int], str]) -> Iterator[None]:
    """Add to an error the place in the data: of the record that is to blame, or of the records it was one of."""
    try:
        yield
    except Exception as error:
        row_id = getattr(error, "row_id", None)  # of a `RecordError`, or of what a user's function raised for one record
        if isinstance(row_id, int):
            error.add_note(f"while reading {place_of(locate, row_id)}")
        elif len(row_ids) and not isinstance(error, RecordError):
            first, last = (place_of(locate, row_ids[at].as_py()) for at in (0, -1))
            error.add_note(f"while working on the {len(row_ids):,} records from {first} to {last}")
        raise


def place_of(locate: Callable[[int], str], row_id: int) -> str:
    """Return the location of a record, or its row id where it cannot be located."""
    try:
        return locate(row_id)
    except Exception:  # noqa: BLE001 - the file may be gone; the error that is told about matters more
        return f"row {row_id}"


def sequence_column(schema: pa.Schema) -> str | None:
    """Return the column whose lengths a batch's lengths are: ``input_ids``, ``features``, or the first of sequences."""
    kinds = {field.name: field.type for field in schema if holds_steps(field.type)}
    # What is an empty list everywhere may be of texts.
    ragged = [name for name, kind in kinds.items() if not pa.types.is_null(kind.value_type)] or list(kinds)
    for name in ("input_ids", "features"):
        if name in ragged:
            return name
    return ragged[0] if ragged else None


def row_id_of(tables: Sequence[pa.Table], record: int) -> int | None:
    """Return the row id of a record, counted over all tables."""
    for table in tables:
        if record < len(table):
            return int(table.column(ROW_ID)[record].as_py()) if ROW_ID in table.column_names else None
        record -= len(table)
    return None


def is_label(column: str) -> bool:
    """Return whether a column holds labels, by its name: then padding is -100, which is no class."""
    return column in ("label", "labels", "label_ids") or column.endswith(("_label", "_labels"))
