"""`Map` and `Filter`: the stages that call a function of the user with a table.

A stage is a frozen description. Opened, it is a function on the tables of consecutive blocks; it holds no position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from seqstream.options import function_name
from seqstream.records import RESERVED, Counts, Json, OpenStage

_ARROW_CLASSES = (pa.Table, pa.ChunkedArray, pa.Array, pa.Scalar)
"""Classes of what a function that is called with a table handles."""


@dataclasses.dataclass(frozen=True, repr=False)
class FunctionStage:
    """A stage that calls a function of the user.

    Args:
        fn: The function.

    Raises:
        TypeError: ``fn`` is not a function.
    """

    fn: Callable[[Any], Any]
    _takes: ClassVar[str] = "a pyarrow.Table"

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"{type(self).__name__} must be given a function of {self._takes}, got {type(self.fn).__name__}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({function_name(self.fn)})"

    def fingerprint(self) -> Json:
        """Return the name of the function: its code can be changed without making saved states useless."""
        return {"kind": type(self).__name__, "fn": function_name(self.fn)}


@dataclasses.dataclass(frozen=True, repr=False)
class Map(FunctionStage):
    """Apply a function to the records of each block.

    Every record stays: the function returns as many rows as it receives, in the same order.

    Args:
        fn: Takes a ``pa.Table`` of many records, where `MapRecords` takes one; returns a ``pa.Table``, a ``pa.RecordBatch`` or
            a dict of columns. Its result replaces all columns. It is never called with a table without rows, and may be called
            from another thread.

    Raises:
        TypeError: ``fn`` is not a function.
    """

    def open(self) -> OpenStage:
        """Return the function that maps tables; it raises what the user's function raises, with a note of its name."""
        return lambda tables: ([self._apply(table) for table in tables], [{} for _ in tables])

    def _apply(self, table: pa.Table) -> pa.Table:
        own, users = _split_columns(table)
        if not len(table):
            return own
        result = self._compute(own, users)
        if len(result) != len(table):
            raise ValueError(
                f"{self} must return {len(table):,} rows as it was given, got {len(result):,}; drop rows with Filter"
            )
        taken = [name for name in result.column_names if name in RESERVED]
        if taken:
            raise ValueError(f"{self} cannot return a column named {taken[0]}, which is the loader's own; use another name")
        for name in own.column_names:
            result = result.append_column(name, own.column(name))
        return result

    def _compute(self, own: pa.Table, users: pa.Table) -> pa.Table:
        """Return the new columns, from the columns of the loader and those of the user."""
        return _as_table(self, _call(self, users))


@dataclasses.dataclass(frozen=True, repr=False)
class Filter(FunctionStage):
    """Keep the records for which a function returns true; the others are counted as dropped.

    Args:
        fn: Takes a ``pa.Table``, returns a mask of booleans with one value per row, true to keep it: an Arrow array, a numpy
            array or a list. It is never called with a table without rows, and may be called from another thread.

    Raises:
        TypeError: ``fn`` is not a function.
    """

    def open(self) -> OpenStage:
        """Return the function that filters tables; it raises what the user's function raises, with a note of its name."""

        def run(tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
            kept = [self._apply(table) for table in tables]
            dropped = [len(table) - len(rows) for table, rows in zip(tables, kept, strict=True)]
            return kept, [{"dropped": number} if number else {} for number in dropped]

        return run

    def _apply(self, table: pa.Table) -> pa.Table:
        if not len(table):
            return table
        mask = self._compute(*_split_columns(table))
        if len(mask) != len(table):
            raise ValueError(f"{self} must return a mask of {len(table):,} values, one per row, got {len(mask):,}")
        if mask.null_count:
            raise ValueError(f"{self} must return true or false for each row, got {mask.null_count:,} nulls; use fill_null")
        return table if mask.false_count == 0 else table.filter(mask)

    def _compute(self, own: pa.Table, users: pa.Table) -> pa.BooleanArray:
        """Return the mask, from the columns of the loader and those of the user."""
        return _as_mask(self, _call(self, users))


def _split_columns(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the columns of the loader, and those of the user."""
    own = [name for name in table.column_names if name in RESERVED]
    return table.select(own), table.drop_columns(own)


def _call(stage: Map | Filter, table: pa.Table) -> object:
    """Call the function of the user, and convert lists and dicts to Arrow."""
    result: object = None
    try:
        result = stage.fn(table)
        if isinstance(result, dict):
            _refuse_strings(result)
            return pa.table(result)
        return pa.array(result) if isinstance(result, (list, tuple, np.ndarray)) else result
    except Exception as error:
        error.add_note(f"in {stage}")
        if _expects_record(error, result):
            error.add_note(_records_remedy(stage))
        raise


def _refuse_strings(columns: dict[str, object]) -> None:
    """Raise if a column is a string, which Arrow would convert to a column of its letters."""
    for name, values in columns.items():
        if isinstance(values, (str, bytes)):
            raise TypeError(f"column {name!r} must be a list or an array with a value for each record, got {values[:40]!r}")


def _expects_record(error: Exception, result: object) -> bool:
    """Return whether a function failed because it treats a table as a record, or a column as a value."""
    if isinstance(result, dict):  # a value where a column must be
        return any(value is None or isinstance(value, (str, int, float, dict, pa.Scalar)) for value in result.values())
    names = ("pyarrow.lib.", *(kind.__name__ for kind in _ARROW_CLASSES))
    is_of_arrow = isinstance(getattr(error, "obj", None), _ARROW_CLASSES)
    return is_of_arrow or (isinstance(error, (AttributeError, TypeError)) and any(name in str(error) for name in names))


def _records_remedy(stage: Map | Filter) -> str:
    """Return what to use for a function of one record, for messages."""
    name = type(stage).__name__
    return (
        f"{name} calls its function with a pyarrow.Table of many records; {name}Records calls one with each record, a dict, "
        "which is slower; pyarrow.compute works on columns, such as pc.utf8_lower(table['text'])"
    )


def _as_table(stage: Map, result: object) -> pa.Table:
    if isinstance(result, pa.RecordBatch):
        return pa.Table.from_batches([result])
    if not isinstance(result, pa.Table):
        expected = "a pyarrow.Table, a pyarrow.RecordBatch or a dict of columns"
        raise TypeError(f"{stage} must return {expected}, got {type(result).__name__}; {_records_remedy(stage)}")
    return result


def _as_mask(stage: Filter, result: object) -> pa.BooleanArray:
    mask = result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result
    if not isinstance(mask, pa.Array):
        got = f"got {type(result).__name__}; {_records_remedy(stage)}"
        raise TypeError(f"{stage} must return a mask of booleans, one per row, {got}")
    if not pa.types.is_boolean(mask.type):
        raise TypeError(f"{stage} must return a mask of booleans, got values of type {mask.type}")
    return mask
