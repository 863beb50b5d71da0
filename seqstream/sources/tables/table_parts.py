"""Parts of files of columns, and types that hold the values of all files."""

from __future__ import annotations

import dataclasses

import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True)
class TablePart:
    """A part of a file that can be read by itself, such as a row group of a Parquet file; it is a shard.

    Attributes:
        file: Number of its file.
        number: Its number in the file.
        size: Bytes of the columns that are read, about.
        first_row: Number of its first row in the file; ``None`` if it is not known.
        rows: Number of rows; ``None`` if it is not known.
    """

    file: int
    number: int
    size: int
    first_row: int | None = None
    rows: int | None = None


def unite(first: pa.Schema, second: pa.Schema, name: str, remedy: str) -> pa.Schema:
    """Return a schema with the columns of both, in types that hold the values of both.

    Args:
        first: Columns of some files.
        second: Columns of another file.
        name: The name of that file.
        remedy: What to do about a column whose types have no common one.

    Raises:
        ValueError: No type holds the values of a column in both.
    """
    fields = {field.name: field for field in first}
    for field in second:
        known = fields.get(field.name, field)
        try:
            if _loses(known.type, field.type):
                raise pa.ArrowTypeError("no type holds the values of both")
            pair = [pa.schema([known]), pa.schema([field])]
            fields[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"column '{field.name}' must hold {known.type} as in other files, got {field.type} in {name}; "
                f"write the file anew, or {remedy}"
            ) from error
    return pa.schema([pa.field(name, field.type) for name, field in fields.items()])


def _loses(first: pa.DataType, second: pa.DataType) -> bool:
    """Return whether Arrow's common type would round values, or turn text into bytes."""
    kinds = (first, second)
    if any(map(pa.types.is_decimal, kinds)) and any(map(pa.types.is_floating, kinds)):
        return True
    return any(map(pa.types.is_string, kinds)) and any(map(pa.types.is_binary, kinds))
