"""Columns in names of folders: ``lang=en/part-0.parquet``, as Hive, Spark and Arrow write them, and ``pos/1.txt``."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from seqstream.records import RESERVED, Json

_MISSING = "__HIVE_DEFAULT_PARTITION__"
_PARTITION = re.compile(r"(?<=/)([^/=]+)=([^/]*)(?=/)")
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")


@dataclasses.dataclass(frozen=True)
class FolderColumns:
    """The columns whose values are in the names of folders.

    Attributes:
        schema: Their names and types.
        label: The one of them that has the name of the folder of each file; ``None`` if none has it.
        digest: A hash of all values; the fingerprint of the files does not include their folders.
    """

    schema: pa.Schema
    label: str | None
    digest: str

    def without(self, names: Sequence[str]) -> FolderColumns | None:
        """Return the columns except those of some names; ``None`` if none is left."""
        return self._select([name for name in self.schema.names if name not in names])

    def chosen(self, columns: Sequence[str] | None) -> FolderColumns | None:
        """Return those that the option ``columns`` of a source names, all for ``None``; ``None`` if there are none.

        Raises:
            ValueError: One has a reserved name.
        """
        names = [name for name in self.schema.names if columns is None or name in columns]
        for name in set(names).intersection(RESERVED):
            raise ValueError(f"folders cannot give a column {name!r}, which the loader uses itself; rename {name}=...")
        return self._select(names)

    def _select(self, names: Sequence[str]) -> FolderColumns | None:
        return dataclasses.replace(self, schema=pa.schema([self.schema.field(name) for name in names])) if names else None

    def append(self, table: pa.Table, files: Sequence[str], counts: Sequence[int]) -> pa.Table:
        """Return a table with these columns at its end.

        Args:
            table: Records, those of each file one after the other.
            files: Names of the files.
            counts: Number of records of each file.
        """
        rows = [_values(name, self.label) for name in files]
        for field in self.schema:
            of_files = _typed([row.get(field.name) for row in rows], field.type)
            parts = [pa.repeat(value, count) for value, count in zip(of_files, counts, strict=True)]
            table = table.append_column(field, pa.chunked_array(parts, field.type).combine_chunks())
        return table

    def fingerprint(self) -> dict[str, Json]:
        """Return what identifies the values."""
        return {"folders": self.digest}


def find_folder_columns(files: Sequence[str], label: str | None = None) -> FolderColumns | None:
    """Return the columns in the folders of files; ``None`` if there are none.

    A partition has whole numbers if all its values are whole numbers, else strings; it is null for a file in no such folder.

    Args:
        files: Names of all files.
        label: Name of a column for the name of the folder that each file is in; ``None`` for no such column.
    """
    if label is None and not any("=" in name for name in files):
        return None
    rows = [_values(name, label) for name in files]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    if not columns:
        return None
    schema = pa.schema([(name, pa.string() if name == label else _type_of(values)) for name, values in columns.items()])
    typed = {name: [value.as_py() for value in _typed(values, schema.field(name).type)] for name, values in columns.items()}
    digest = hashlib.blake2b(repr(typed).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return FolderColumns(schema, label, digest)


def own_columns(columns: Sequence[str] | None, present: Sequence[str], folders: FolderColumns | None) -> list[str] | None:
    """Return the columns of the option ``columns`` that are in the files and not in names of folders; ``None`` for all.

    Raises:
        ValueError: None is in the files.
    """
    if columns is None:
        return None
    own = [name for name in columns if name in present or folders is None or name not in folders.schema.names]
    if columns and not own:
        raise ValueError(f"columns must name at least one column in the files, got only folders: {', '.join(columns)}")
    return own


def _values(name: str, label: str | None) -> dict[str, str | None]:
    """Return the values of the columns of a file by its name."""
    pairs = ((unquote(key), unquote(value)) for key, value in _PARTITION.findall("/" + name))
    values = {key: None if value == _MISSING else value for key, value in pairs}
    if label is not None:
        values[label] = os.path.basename(os.path.dirname(name if "://" in name else os.path.abspath(name)))
    return values


def _type_of(values: Sequence[str | None]) -> pa.DataType:
    return pa.int64() if all(value is None or _WHOLE.fullmatch(value) for value in values) else pa.string()


def _typed(values: Sequence[str | None], kind: pa.DataType) -> list[pa.Scalar]:
    is_whole = pa.types.is_integer(kind)
    return [pa.scalar(int(value) if is_whole and value is not None else value, kind) for value in values]
