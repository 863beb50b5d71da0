"""`MapRecords` and `FilterRecords`: the functions of a user that take one record at a time."""

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

    Every record stays, in its order. Each becomes Python objects and Arrow again, which takes about 2 microseconds for one of a
    short text and a number, besides what the function takes; `Map` on whole columns takes a hundredth of it. Where that is what
    the model waits for, set ``Loader(num_workers=...)``.

    Args:
        fn: Takes a record as a dict, and returns one, whose keys are the columns from there on; a key that a record lacks is
            null. It may change the dict that it was given, and may be called from another thread.
    """

    fn: Callable[[dict[str, Any]], Mapping[str, Any]]
    _takes: ClassVar[str] = "a record, a dict"

    def _compute(self, hidden: pa.Table, shown: pa.Table) -> pa.Table:
        records = _call_each(self, hidden, shown)
        names: dict[str, None] = {}
        for number, record in enumerate(records):
            if not isinstance(record, Mapping):
                remedy = "drop records with FilterRecords" if record is None else "keys are columns"
                message = f"{self} must return a dict for each record, got {type(record).__name__}; {remedy}"
                raise RecordError(message, _row_id(hidden, number))
            names.update(dict.fromkeys(record))
        return pa.table({name: self._column(name, [record.get(name) for record in records], shown) for name in names})

    def _column(self, name: object, values: list[Any], shown: pa.Table) -> pa.Array:
        """Return a column, of the type that it had if that holds the values as they are."""
        if not isinstance(name, str):
            raise TypeError(f"{self} must return dicts whose keys are names of columns, got the key {name!r}")
        try:
            made = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            error.add_note(f"in {self}, whose values of {name!r} must be of one type that Arrow knows")
            raise
        kept = shown.schema.field(name).type if name in shown.column_names else made.type
        if made.type == kept or not _holds(kept, made.type):
            return made
        try:
            return pa.array(values, kept)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return made  # one is too large for it


def _holds(kept: pa.DataType, made: pa.DataType) -> bool:
    """Return whether a type takes values of another without a loss but of range, which raises; `pa.array` drops fractions."""
    types = pa.types
    if types.is_list(made) and (types.is_list(kept) or types.is_large_list(kept) or types.is_fixed_size_list(kept)):
        return _holds(kept.value_type, made.value_type)
    if types.is_struct(made) and types.is_struct(kept):
        names = {field.name for field in kept}
        return all(field.name in names and _holds(kept.field(field.name).type, field.type) for field in made)
    is_floating = types.is_floating(kept) and (types.is_floating(made) or types.is_integer(made))
    kinds = (is_text, types.is_integer, types.is_timestamp, types.is_time, types.is_duration)
    return kept == made or types.is_null(made) or is_floating or any(kind(kept) and kind(made) for kind in kinds)


@dataclasses.dataclass(frozen=True, repr=False)
class FilterRecords(Filter):
    """Keep the records for which a function says so, called with one after the other; the others are counted as dropped.

    Each record becomes Python objects first, which takes about half a microsecond for one of a short text and a number, besides
    what the function takes; `Filter` on whole columns takes a hundredth of it.

    Args:
        fn: Takes a record as a dict, and returns true to keep it. It may be called from another thread.
    """

    fn: Callable[[dict[str, Any]], bool]
    _takes: ClassVar[str] = "a record, a dict"

    def _compute(self, hidden: pa.Table, shown: pa.Table) -> pa.BooleanArray:
        kept = _call_each(self, hidden, shown)
        for number, value in enumerate(kept):
            if not isinstance(value, (bool, np.bool_)):
                message = f"{self} must return true or false for each record, got {value!r}"
                raise RecordError(message, _row_id(hidden, number))
        return pa.array(kept, pa.bool_())


def _call_each(stage: Map | Filter, hidden: pa.Table, shown: pa.Table) -> list[Any]:
    """Return what a function makes of each record; what it raises says which record it was."""
    records: Sequence[dict[str, Any]] = shown.to_pylist() if shown.num_columns else [{} for _ in range(len(hidden))]
    fn, results = stage.fn, []
    try:
        for record in records:
            results.append(fn(record))  # noqa: PERF401 - how many there are says which record has raised
    except Exception as error:
        error.add_note(f"in {stage}")
        error.row_id = _row_id(hidden, len(results))  # type: ignore[attr-defined]  # as a `RecordError` has it
        raise
    return results


def _row_id(hidden: pa.Table, number: int) -> int | None:
    return int(hidden.column(ROW_ID)[number].as_py()) if ROW_ID in hidden.column_names else None
