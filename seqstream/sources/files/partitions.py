"""Columns in names of folders: ``lang=en/part-0.parquet``, as Hive, Spark and Arrow write tables in parts."""

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
    """What names of folders say of the files in them.

    Attributes:
        table: A row for each file.
    """

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.table.schema

    @property
    def digest(self) -> str:
        """A hash of the values, which fingerprints of files leave out with the folders."""
        return hashlib.blake2b(repr(self.table.to_pydict()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()

    def without(self, names: Sequence[str]) -> Partitions | None:
        """Return the columns without some, ``None`` if none is left."""
        left = [name for name in self.table.column_names if name not in names]
        return Partitions(self.table.select(left)) if left else None

    def append(self, table: pa.Table, file: int, names: Sequence[str]) -> pa.Table:
        """Return records of a file with those of the columns that are named."""
        for name in self.table.column_names:
            if name in names:
                table = table.append_column(name, pa.repeat(self.table.column(name)[file], len(table)))
        return table


def find_partitions(names: Sequence[str]) -> Partitions | None:
    """Return the columns that folders in names of files give, ``None`` if there are none.

    A column holds whole numbers if all values are written as such, else strings; a file in no such folder has none.
    """
    if not any("=" in name for name in names):
        return None
    rows = [{unquote(key): unquote(value) for key, value in _FOLDER.findall("/" + name)} for name in names]
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [None if row.get(key) == _MISSING else row.get(key) for row in rows] for key in keys}
    return Partitions(pa.table({key: _typed(values) for key, values in columns.items()})) if columns else None


def warn_of_partitions(kind: str, names: Sequence[str], present: Callable[[], Sequence[str]]) -> None:
    """Warn that a source reads no columns from names of folders, where these differ and the files lack the column.

    Args:
        kind: The name of the source.
        names: Names of the files.
        present: Gives the columns that the files have; called where folders differ only.
    """
    found = find_partitions(names)
    differing = [] if found is None else [name for name in found.schema.names if len(found.table.column(name).unique()) > 1]
    if differing and (differing := [name for name in differing if name not in present()]):
        shown = ", ".join(map(repr, differing))
        warnings.warn(
            f"{kind} takes no columns from folders such as {differing[0]}=..., so {shown} is left out; make a source for each "
            "folder, write the values into the files, or read Parquet",
            stacklevel=4,
        )


def _typed(values: Sequence[str | None]) -> pa.Array:
    if all(value is None or _WHOLE.fullmatch(value) for value in values):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    return pa.array(values, pa.string())
