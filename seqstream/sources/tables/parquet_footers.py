"""Footers of Parquet files: their row groups, a cache of them, and types that hold the values of all files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

_CACHED_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, which is a shard.

    Attributes:
        file: Number of its file.
        number: Its number in the file.
        first_row: Number of its first row in the file.
        rows: Number of rows.
        size: Uncompressed bytes of the columns that are read.
    """

    file: int
    number: int
    first_row: int
    rows: int
    size: int


def row_groups(file: int, metadata: Any, names: Iterable[str]) -> Iterator[RowGroup]:
    """Yield the row groups of a file, with the bytes of the columns ``names``.

    Single columns are looked at only where some are left out: that is slow, and Arrow ends the process on some damaged ones.
    """
    first, names = 0, set(names)
    are_all = names.issuperset(metadata.schema.to_arrow_schema().names)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = map(group.column, range(0 if are_all else group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in names)
        size = group.total_byte_size if are_all else size
        yield RowGroup(file, number, first, group.num_rows, size)
        first += group.num_rows


class FooterCache:
    """Parsed footers by the number of their file, up to 32 MiB of serialized footers; a pickled copy is empty."""

    def __init__(self) -> None:
        self._footers: dict[int, Any] = {}
        self._size = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return FooterCache, ()

    def get(self, number: int) -> Any:
        """Return the footer of a file, or ``None``."""
        return self._footers.get(number)

    def put(self, number: int, footer: Any) -> None:
        """Keep a footer; the oldest ones are dropped where all are too large."""
        if number in self._footers:
            return
        self._footers[number] = footer
        self._size += footer.serialized_size
        while self._size > _CACHED_BYTES and len(self._footers) > 1:
            with contextlib.suppress(KeyError, RuntimeError):  # another thread dropped it
                self._size -= self._footers.pop(next(iter(self._footers))).serialized_size


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
