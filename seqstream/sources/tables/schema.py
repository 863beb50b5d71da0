"""Columns of stable types: what schemas of files become, and tables made to conform to them."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.records import RESERVED

CHOOSE_COLUMNS = "choose others with columns=[...]"

_LISTED = 50


def conform(table: pa.Table, schema: pa.Schema, remedy: str) -> pa.Table:
    """Return the table's columns in the order and the types of ``schema``, without metadata; absent ones hold nulls.

    Where the schema has a type that is open, because all that was seen was null, a column keeps its own.

    Raises:
        ValueError: A column cannot be cast, or it or a field of it is not in the schema; the message says the ``remedy``.
    """
    known, present = set(schema.names), set(table.column_names)
    for name in table.column_names:
        if name not in known:
            raise ValueError(f"column '{name}' cannot come late, the first records have {_listed(schema.names)}; {remedy}")
    columns = []
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(len(table), field.type))
            continue
        try:
            column = _plain(table.column(field.name))
            if column.type != field.type and (late := _late_field(column.type, field.type)) is not None:
                raise ValueError(
                    f"column '{field.name}' cannot have the field {late!r}, which none of the first records has; "
                    f"{remedy}, or where keys are data make it text with json.dumps"
                )
            columns.append(column if is_open(field.type) else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            found = table.schema.field(field.name).type
            raise ValueError(f"column '{field.name}' must hold {field.type}, got {found}: {error}; {remedy}") from error
    return pa.table(columns, names=schema.names)


def plain_schema(schema: pa.Schema, remedy: str, file: str = "") -> pa.Schema:
    """Return a schema with the types that batches are made of: no dictionaries, no extensions, 32-bit offsets.

    Args:
        schema: Columns as they are stored.
        remedy: What to do about a name that cannot be.
        file: The name of the file that has them, if one has.

    Raises:
        ValueError: A column has a name that the loader needs, or the name of another one.
    """
    counts = collections.Counter(schema.names)
    where = f" in {file}" if file else ""
    for name, count in counts.items():
        if name in RESERVED:
            raise ValueError(f"column '{name}' cannot have that name{where}, which the loader uses itself; {remedy}")
        if count > 1:
            raise ValueError(f"column '{name}' must appear once, got {count} columns of that name{where}; {remedy}")
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def is_open(kind: pa.DataType) -> bool:
    """Return whether part of a type is null, so that later values may say what it is."""
    if pa.types.is_list(kind):
        return is_open(kind.value_type)
    if pa.types.is_struct(kind):
        return any(is_open(field.type) for field in kind)
    return bool(pa.types.is_null(kind))


def missing_columns(parameter: str, wanted: Sequence[str], present: Sequence[str]) -> str | None:
    """Say which columns that a parameter names are not there, or return ``None``."""
    known = set(present)
    missing = [name for name in wanted if name not in known]
    return f"{parameter} must be among {_listed(present)}, got {_listed(missing)}" if missing else None


def _late_field(found: pa.DataType, known: pa.DataType) -> str | None:
    """Return a field of a struct, at any depth, that a cast to the known type would drop."""
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
    shown = ", ".join(map(repr, names[:_LISTED]))
    return f"{shown} and {len(names) - _LISTED:,} more" if len(names) > _LISTED else shown


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    kind = _plain_type(column.type)
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        return pa.chunked_array([_as_lists(chunk) for chunk in column.chunks], _as_list_type(column.type)).cast(kind)
    return column.cast(kind)


def _as_lists(views: pa.Array) -> pa.Array:
    """Return list views as lists: Arrow 26 casts them to broken ones."""
    if not (pa.types.is_list_view(views.type) or pa.types.is_large_list_view(views.type)):
        return views
    lengths = views.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = to_arrow(np.append(0, np.cumsum(lengths)).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _as_lists(views.flatten()), mask=views.is_null() if views.null_count else None)


def _as_list_type(kind: pa.DataType) -> pa.DataType:
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return pa.list_(_as_list_type(kind.value_type)) if is_view else kind


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type), kind.list_size)
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        return pa.list_(_plain_type(kind.value_type))
    return kind


def type_names(schema: pa.Schema) -> dict[str, str]:
    """Return the type of each column by its name, as text."""
    return {field.name: str(field.type) for field in schema}
