"""Columns in names of folders: ``lang=en/part-0.parquet``, the partitions that Hive, Spark and Arrow write."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from urllib.parse import unquote

import pyarrow as pa

_MISSING = "__HIVE_DEFAULT_PARTITION__"
_FOLDER = re.compile(r"(?<=/)([^/=]+)=([^/]*)(?=/)")
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")


@dataclasses.dataclass(frozen=True)
class Partitions:
    """The values that files have in the names of their folders.

    Attributes:
        table: A row for each file, a column for each partition.
    """

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.table.schema

    @property
    def digest(self) -> str:
        """A hash of the values; the fingerprint of the files does not include their folders."""
        return hashlib.blake2b(repr(self.table.to_pydict()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()

    def without(self, names: Sequence[str]) -> Partitions | None:
        """Return the partitions without the columns of some names; ``None`` if none is left."""
        left = [name for name in self.table.column_names if name not in names]
        return Partitions(self.table.select(left)) if left else None

    def append(self, table: pa.Table, file: int, names: Sequence[str]) -> pa.Table:
        """Return records of file number ``file`` with the columns of the partitions that are in ``names``."""
        for name in self.table.column_names:
            if name in names:
                table = table.append_column(name, pa.repeat(self.table.column(name)[file], len(table)))
        return table


def find_partitions(names: Sequence[str]) -> Partitions | None:
    """Return the partitions in names of files; ``None`` if there are none.

    A column has whole numbers if all its values are whole numbers, else strings; it is null for a file in no such folder.
    """
    if not any("=" in name for name in names):
        return None
    rows = [{unquote(key): unquote(value) for key, value in _FOLDER.findall("/" + name)} for name in names]
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [None if row.get(key) == _MISSING else row.get(key) for row in rows] for key in keys}
    return Partitions(pa.table({key: _typed(values) for key, values in columns.items()})) if columns else None


def warn_of_partitions(kind: str, names: Sequence[str], present: Callable[[], Sequence[str]]) -> None:
    """Warn that a source does not read partitions, if files have different values of one that is not a column in them.

    Args:
        kind: The class name of the source.
        names: Names of the files.
        present: Returns the columns of the files; called only if values differ.
    """
    found = find_partitions(names)
    differing = [] if found is None else [name for name in found.schema.names if len(found.table.column(name).unique()) > 1]
    if differing and (differing := [name for name in differing if name not in present()]):
        shown = ", ".join(map(repr, differing))
        warnings.warn(
            f"{kind} reads no columns from folders such as {differing[0]}=..., so {shown} is left out; make a source for each "
            "folder, write the values into the files, or read Parquet",
            stacklevel=4,
        )


def _typed(values: Sequence[str | None]) -> pa.Array:
    if all(value is None or _WHOLE.fullmatch(value) for value in values):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    return pa.array(values, pa.string())
