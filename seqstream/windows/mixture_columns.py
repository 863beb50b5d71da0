"""The columns of the sources of a mixture: every source has the same columns, or ``fill`` supplies the missing ones."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import to_arrow
from seqstream.records import RESERVED, Json


class MixtureColumns:
    """What is known of the columns of each source after the stages; the same on every rank.

    Args:
        names: Names of the sources.
        fill: Values of columns that only some sources have.
        column: Name of the column that has the number of each row's source.
    """

    def __init__(self, names: Sequence[str], fill: Mapping[str, Any], column: str) -> None:
        self._names = names
        self._fill = fill
        self._column = column
        self._types: dict[str, pa.DataType] = {}
        self._columns: dict[int, list[str]] = {}

    def describe_new(self, tables: Mapping[int, pa.Table]) -> Json:
        """Return the columns and types of sources whose columns are not yet known, as JSON, given rows of each."""
        found: dict[str, list[int]] = {}
        for number, table in tables.items():
            if number not in self._columns:
                text = base64.b64encode(table.schema.remove_metadata().serialize()).decode()
                found.setdefault(text, []).append(number)
        return found

    def learn(self, of_ranks: Sequence[Json]) -> None:
        """Add what `describe_new` returned on each rank.

        Raises:
            ValueError: A source lacks a column that another one has, or has a column of the name of the mixture's.
        """
        num_known = len(self._columns)
        for text, numbers in (pair for columns in of_ranks for pair in columns.items()):
            schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))
            names = [name for name in schema.names if name not in RESERVED]
            if self._column in names:
                raise ValueError(
                    f"source {self._names[numbers[0]]!r} has a column {self._column!r}, which is the number of the source in a "
                    "mixture; set Mixture(column=...) to another name, or rename it in a Map"
                )
            for number in numbers:
                self._columns.setdefault(number, names)
            for name in names:
                self._types.setdefault(name, schema.field(name).type)
        if len(self._columns) > num_known:
            self._check()

    def complete(self, table: pa.Table) -> pa.Table:
        """Return rows of a source with values for the columns that it lacks."""
        for name in self._types.keys() - set(table.column_names):
            table = table.append_column(name, self._filled(name, len(table)))
        return table

    def with_sources(self, table: pa.Table, sources: Index) -> pa.Table:
        """Return rows of several sources with the number of each row's source, ``int64 (n,)``."""
        return table.append_column(self._column, to_arrow(sources))

    def _check(self) -> None:
        for number, columns in self._columns.items():
            for name in self._types:
                if name not in columns and name not in self._fill:
                    has = next(self._names[other] for other, known in self._columns.items() if name in known)
                    raise ValueError(
                        f"sources must have the same columns, got {name!r} in {has!r} and not in {self._names[number]!r}; set "
                        f"Mixture(fill={{{name!r}: ...}}) to a value for the rows without it, or drop it in a Map of {has!r}: "
                        f"{{{has!r}: (source, Map(...))}}"
                    )

    def _filled(self, name: str, num: int) -> pa.Array:
        """Return a column of the value to fill in.

        Raises:
            ValueError: The value does not have the type of the column.
        """
        value, kind = self._fill.get(name), self._types[name]
        try:
            return pa.array([value] * num, type=kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
            raise ValueError(f"Mixture(fill=...) must have a value of type {kind} for {name!r}, got {value!r:.80}") from error
