"""What all modules know of records: row ids, reserved columns, counts by outcome, and errors that say where a record is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import holds_steps, to_arrow, to_numpy

Json: TypeAlias = Any
"""A value that ``json.dumps`` accepts: dicts with string keys, lists, strings, numbers, booleans, ``None``."""

Record: TypeAlias = dict[str, Any]
"""A record as a dict of column -> Python value."""

Counts: TypeAlias = dict[str, int]
"""Record counts by outcome; an absent key means 0.

``dropped`` counts ``rows_without_labels`` as well; ``empty`` counts records that are left out for having no token, which
``dropped`` does not count; ``truncated`` and ``split`` count records that are too long.
"""

OpenStage: TypeAlias = Callable[[list[pa.Table]], tuple[list[pa.Table], list[Counts]]]
"""A stage at work: it takes the tables of consecutive blocks, and returns a table and the counts for each, in their order.

A table that it returns may have no rows.
"""

RECORD = "record"
"""Column of a source's block: ``int64``, the number of each record in its shard, from 0.

A block without it has consecutive records. Sources that leave records out, or change their order, must give it.
"""

RECORD_BITS = 32
"""Bits of a row id that hold the record's number in its shard; the shard's number is above them.

``row_id = shard << RECORD_BITS | record``, an ``int64``: record 5 of shard 2 has the row id 8,589,934,597. A source can have
up to 2**31 shards of 2**32 records each.
"""

ROW_ID = "row_id"
"""Column that identifies the record of each row, from the source to the batch; see `RECORD_BITS`."""

PIECE = "piece"
"""Column that numbers, from 0, the pieces into which ``Tokenize(overflow="split")`` cuts a record."""

RESERVED = (ROW_ID, PIECE, RECORD)
"""Columns of the loader: a source may give ``record`` only, and users' functions get none of them."""

INPUT_IDS = "input_ids"
"""Column of the token ids of a row of one text."""

LABEL_COLUMNS = ("labels", "label")
"""Columns of classes: integers and booleans there become int64, the type that losses of PyTorch require."""

IGNORE_INDEX = -100
"""The label that losses of PyTorch and transformers ignore."""


def lengths_column(ids: str) -> str:
    """Return the column with the lengths of the texts of each record, given the column of their ids, one text after the other.

    >>> lengths_column("choices_ids")
    'choices_lengths'
    """
    return f"{ids.removesuffix('_ids')}_lengths"


def ids_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ids among some columns, without those with the lengths of their texts."""
    lengths = {lengths_column(name) for name in columns}
    return tuple(name for name in columns if name not in lengths)


def split_row_id(row_id: int) -> tuple[int, int]:
    """Return the shard of a row id, and the number of its record in the shard."""
    return row_id >> RECORD_BITS, row_id & ((1 << RECORD_BITS) - 1)


def record_numbers(table: pa.Table, first: int) -> Index:
    """Return the numbers of a block's records in their shard, ``int64 (rows,)``.

    Args:
        table: A block; its column ``record`` has the numbers, and without one they are consecutive.
        first: The number of the first record of a block without the column.
    """
    if RECORD in table.column_names:
        return to_numpy(table.column(RECORD))
    return np.arange(first, first + len(table), dtype=np.int64)


def with_record_numbers(table: pa.Table, records: Index) -> pa.Table:
    """Return the table that ``Source.take(records)`` has read, with a column ``record``.

    Raises:
        ValueError: The table has more or fewer rows than were requested, and no column ``record``.
    """
    if RECORD in table.column_names:
        return table
    if len(table) != len(records):
        raise ValueError(
            f"take() must return a row for each of the {len(records)} records, or a column '{RECORD}', got {len(table)} rows"
        )
    return table.append_column(RECORD, to_arrow(records))


def drop_record_numbers(table: pa.Table) -> pa.Table:
    """Return the table without the column ``record``."""
    return table.drop_columns([RECORD]) if RECORD in table.column_names else table


class RecordError(ValueError):
    """An error of one record. The loader adds the record's location, found by ``row_id``, as a note."""

    def __init__(self, message: str, row_id: int | None) -> None:
        super().__init__(message)
        self.row_id = row_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.row_id), self.__dict__  # notes are there


@contextlib.contextmanager
def located(row_ids: pa.ChunkedArray, locate: Callable[[int], str]) -> Iterator[None]:
    """Add to an error, as a note, the location of the record that it is of, or else of the first and the last record.

    Args:
        row_ids: Row ids of the records that the block of the ``with`` statement works on.
        locate: ``Source.locate``, which names the location of a row id.
    """
    try:
        yield
    except Exception as error:
        row_id = getattr(error, "row_id", None)  # set in a `RecordError`, and in an error of a user's function for one record
        if isinstance(row_id, int):
            error.add_note(f"while reading {location_of(locate, row_id)}")
        elif len(row_ids) and not isinstance(error, RecordError):
            first, last = (location_of(locate, row_ids[index].as_py()) for index in (0, -1))
            error.add_note(f"while working on the {len(row_ids):,} records from {first} to {last}")
        raise


def location_of(locate: Callable[[int], str], row_id: int) -> str:
    """Return the name of a record's location, or its row id if the location cannot be found."""
    try:
        return locate(row_id)
    except Exception:  # noqa: BLE001 - the file may be gone; the error that needs the location matters more
        return f"row {row_id}"


def sequence_column(schema: pa.Schema) -> str | None:
    """Return the column that gives rows their lengths: ``input_ids``, else ``features``, else the first of sequences."""
    kinds = {field.name: field.type for field in schema if holds_steps(field.type)}
    # Lists that are all empty may be lists of texts.
    ragged = [name for name, kind in kinds.items() if not pa.types.is_null(kind.value_type)] or list(kinds)
    for name in ("input_ids", "features"):
        if name in ragged:
            return name
    return ragged[0] if ragged else None


def row_id_of(tables: Sequence[pa.Table], record: int) -> int | None:
    """Return the row id of row number ``record`` of concatenated tables; ``None`` if its table has no column ``row_id``."""
    for table in tables:
        if record < len(table):
            return int(table.column(ROW_ID)[record].as_py()) if ROW_ID in table.column_names else None
        record -= len(table)
    return None


def is_label(column: str) -> bool:
    """Return whether a column holds labels, by its name; its padding is `IGNORE_INDEX`."""
    return column in ("label", "labels", "label_ids") or column.endswith(("_label", "_labels"))
