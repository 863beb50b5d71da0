"""`MapRecords` and `FilterRecords`: the stages that call a function of the user with one record at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from seqstream.arrow import is_text
from seqstream.records import ROW_ID, RecordError
from seqstream.stages.map_filter import Filter, Map


@dataclasses.dataclass(frozen=True, repr=False)
class MapRecords(Map):
    """Apply a function to one record after the other.

    Every record stays, in the same order. Each is converted to Python objects and back to Arrow, which takes about 2
    microseconds for a short text and a number, besides the time of the function; `Map` on whole columns takes a hundredth of
    that. If the model waits for it, set ``Loader(num_workers=...)``.

    Args:
        fn: Takes a record as a dict, and returns a dict, whose keys are the new columns; a key that a record lacks is null. It
            may change the dict that it receives, and may be called from another thread.

    Raises:
        TypeError: ``fn`` is not a function.
    """

    fn: Callable[[dict[str, Any]], Mapping[str, Any]]
    _takes: ClassVar[str] = "a record, a dict"

    def _compute(self, own: pa.Table, users: pa.Table) -> pa.Table:
        records = _call_each(self, own, users)
        names: dict[str, None] = {}
        for number, record in enumerate(records):
            if not isinstance(record, Mapping):
                remedy = "drop records with FilterRecords" if record is None else "keys are columns"
                message = f"{self} must return a dict for each record, got {type(record).__name__}; {remedy}"
                raise RecordError(message, _row_id(own, number))
            names.update(dict.fromkeys(record))
        return pa.table({name: self._column(name, [record.get(name) for record in records], users) for name in names})

    def _column(self, name: object, values: list[Any], users: pa.Table) -> pa.Array:
        """Return a column of values: of the type that it had before, if that type holds them without loss."""
        if not isinstance(name, str):
            raise TypeError(f"{self} must return dicts whose keys are names of columns, got the key {name!r}")
        try:
            column = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            error.add_note(f"in {self}, whose values of {name!r} must be of one type that Arrow knows")
            raise
        before = users.schema.field(name).type if name in users.column_names else column.type
        if column.type == before or not _can_hold(before, column.type):
            return column
        try:
            return pa.array(values, before)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return column  # one value is too large for the type


def _can_hold(kind: pa.DataType, values: pa.DataType) -> bool:
    """Return whether ``pa.array`` converts values of one type to ``kind`` without loss, or raises for one that is too large.

    It would drop the fractions of floats without an error.
    """
    types = pa.types
    if types.is_list(values) and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return _can_hold(kind.value_type, values.value_type)
    if types.is_struct(values) and types.is_struct(kind):
        names = {field.name for field in kind}
        return all(field.name in names and _can_hold(kind.field(field.name).type, field.type) for field in values)
    is_floating = types.is_floating(kind) and (types.is_floating(values) or types.is_integer(values))
    families = (is_text, types.is_integer, types.is_timestamp, types.is_time, types.is_duration)
    is_same_family = any(is_member(kind) and is_member(values) for is_member in families)
    return kind == values or types.is_null(values) or is_floating or is_same_family


@dataclasses.dataclass(frozen=True, repr=False)
class FilterRecords(Filter):
    """Keep the records for which a function returns true, called with one after the other; the others are counted as dropped.

    Each record is converted to Python objects first, which takes about half a microsecond for a short text and a number,
    besides the time of the function; `Filter` on whole columns takes a hundredth of that.

    Args:
        fn: Takes a record as a dict, and returns true to keep it. It may be called from another thread.

    Raises:
        TypeError: ``fn`` is not a function.
    """

    fn: Callable[[dict[str, Any]], bool]
    _takes: ClassVar[str] = "a record, a dict"

    def _compute(self, own: pa.Table, users: pa.Table) -> pa.BooleanArray:
        mask = _call_each(self, own, users)
        for number, value in enumerate(mask):
            if not isinstance(value, (bool, np.bool_)):
                message = f"{self} must return true or false for each record, got {value!r}"
                raise RecordError(message, _row_id(own, number))
        return pa.array(mask, pa.bool_())


def _call_each(stage: Map | Filter, own: pa.Table, users: pa.Table) -> list[Any]:
    """Return the result of the user's function for each record; an error that it raises gets the row id of the record."""
    records: Sequence[dict[str, Any]] = users.to_pylist() if users.num_columns else [{} for _ in range(len(own))]
    fn, results = stage.fn, []
    try:
        for record in records:
            results.append(fn(record))  # noqa: PERF401 - after an error their number tells the record that failed
    except Exception as error:
        error.add_note(f"in {stage}")
        error.row_id = _row_id(own, len(results))  # type: ignore[attr-defined]  # as `RecordError` has it
        raise
    return results


def _row_id(own: pa.Table, number: int) -> int | None:
    return int(own.column(ROW_ID)[number].as_py()) if ROW_ID in own.column_names else None
