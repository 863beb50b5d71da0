"""Columns of stable types: the schema that files become, and tables cast to it."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.records import RESERVED
from seqstream.sources.tables.nested_types import types_in

CHOOSE_COLUMNS = "choose others with columns=[...]"

_LISTED_NAMES = 50


def conform(table: pa.Table, schema: pa.Schema, remedy: str) -> pa.Table:
    """Return the table's columns in the order and the types of ``schema``, without metadata; missing ones hold nulls.

    A column keeps its own type where that of the schema is open: all values were null when the schema was made.

    Raises:
        ValueError: A column cannot be cast, or the schema lacks it or a field of it; the message has the ``remedy``.
    """
    known, present = set(schema.names), set(table.column_names)
    for name in table.column_names:
        if name not in known:
            raise ValueError(f"column '{name}' must be in the first records, which have {_listed(schema.names)}; {remedy}")
    columns = []
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(len(table), field.type))
            continue
        try:
            column = _stable(table.column(field.name))
            if column.type != field.type and (late := _late_field(column.type, field.type)) is not None:
                raise ValueError(
                    f"column '{field.name}' cannot have the field {late!r}, which none of the first records has; "
                    f"{remedy}, or where keys are data make it text with json.dumps"
                )
            columns.append(column if _is_open(field.type) else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            found = table.schema.field(field.name).type
            raise ValueError(f"column '{field.name}' must hold {field.type}, got {found}: {error}; {remedy}") from error
    return pa.table(columns, names=schema.names)


def stable_schema(schema: pa.Schema, remedy: str, file: str = "") -> pa.Schema:
    """Return a schema with the types that batches are built from: no dictionaries, no extensions, 32-bit offsets.

    Args:
        schema: Columns as they are stored.
        remedy: What to do about a name that is not allowed.
        file: The name of their file, if there is one.

    Raises:
        ValueError: A column has a reserved name, or two have the same name.
    """
    counts = collections.Counter(schema.names)
    where = f" in {file}" if file else ""
    for name, count in counts.items():
        if name in RESERVED:
            raise ValueError(f"column '{name}' cannot have that name{where}, which the loader uses itself; {remedy}")
        if count > 1:
            raise ValueError(f"column '{name}' must appear once, got {count} columns of that name{where}; {remedy}")
    return pa.schema([pa.field(field.name, _stable_type(field.type)) for field in schema])


def missing_columns(parameter: str, wanted: Sequence[str], present: Sequence[str]) -> str | None:
    """Return a message about the columns that a parameter names and a file lacks, ``None`` if it lacks none."""
    known = set(present)
    missing = [name for name in wanted if name not in known]
    return f"{parameter} must be among {_listed(present)}, got {_listed(missing)}" if missing else None


def type_names(schema: pa.Schema) -> dict[str, str]:
    """Return the type of each column by its name, as text."""
    return {field.name: str(field.type) for field in schema}


def _is_open(kind: pa.DataType) -> bool:
    """Return whether part of a type is null, so that later values decide it."""
    return any(pa.types.is_null(each) for _, each in types_in(kind))


def _late_field(found: pa.DataType, known: pa.DataType) -> str | None:
    """Return the name of a field, at any depth, that a cast to the known type would drop."""
    if pa.types.is_struct(found) and pa.types.is_struct(known):
        for field in found:
            index = known.get_field_index(field.name)
            late = field.name if index < 0 else _late_field(field.type, known.field(index).type)
            if late is not None:
                return str(late)
    if hasattr(found, "value_type") and hasattr(known, "value_type"):
        return _late_field(found.value_type, known.value_type)
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED_NAMES]))
    return f"{shown} and {len(names) - _LISTED_NAMES:,} more" if len(names) > _LISTED_NAMES else shown


def _stable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in its `_stable_type`."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    kind = _stable_type(column.type)
    if _is_view(column.type):
        return pa.chunked_array([_as_lists(chunk).cast(kind) for chunk in column.chunks], kind)
    return column.cast(kind)


def _as_lists(views: pa.Array) -> pa.Array:
    """Return list views as lists: Arrow 26 casts them to broken ones."""
    if not _is_view(views.type):
        return views
    lengths = views.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = to_arrow(np.append(0, np.cumsum(lengths)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _as_lists(views.flatten()), mask=views.is_null() if views.null_count else None)


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _stable_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, extensions and views around it, and with 32-bit offsets."""
    if isinstance(kind, pa.BaseExtensionType):
        return _stable_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _stable_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_stable_type(kind.value_type), kind.list_size)
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        return pa.list_(_stable_type(kind.value_type))
    return kind
