"""Finds the column of classes of a corpus, and the class of each row.

Legend: ``N`` rows, ``C`` classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import is_text
from seqstream.records import RESERVED, is_label

MOST_CLASSES = 4096
_MOST_CHARACTERS = 64
"""A column of longer texts holds no classes."""

_LEAST_ROWS = 4
"""Rows for each class, on average, of a column that is taken to hold classes."""

_FIRST_ROWS = 4096
"""Columns that have few rows for each value among this many are looked at no more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """A column of classes.

    Attributes:
        column: Its name.
        names: The classes as text, in the order of their numbers.
        codes: ``int32`` or ``int64 (N,)``, number of the class of each row, -1 where it is missing.
    """

    column: str
    names: tuple[str, ...]
    codes: Index

    @property
    def counts(self) -> Index:
        """Number of rows of each class, ``int64 (C,)``."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


class ClassCounter:
    """Numbers the values of columns that may hold classes, table after table.

    Args:
        label: The column of classes; ``None`` for the most likely one.
    """

    def __init__(self, label: str | None = None) -> None:
        self._label = label
        self._numbers: dict[str, dict[object, int]] | None = None
        self._codes: dict[str, list[Index]] = {}
        self._num_rows = 0

    def add(self, table: pa.Table) -> None:
        """Number the classes of some rows."""
        if not len(table):
            return
        if self._numbers is None:
            names = [field.name for field in table.schema if may_be_classes(field) and self._label in (None, field.name)]
            self._numbers = {name: {} for name in names}
            self._codes = {name: [] for name in names}
        self._num_rows += len(table)
        for name in list(self._numbers):
            self._add(name, table.column(name).combine_chunks())

    def _add(self, name: str, column: pa.Array) -> None:
        numbers = self._numbers or {}
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        if len(encoded.dictionary) <= MOST_CLASSES:
            own = [numbers[name].setdefault(value, len(numbers[name])) for value in encoded.dictionary.to_pylist()]
            codes = encoded.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
            self._codes[name].append(np.array([*own, -1], dtype=np.int32)[codes])
        seen = len(numbers[name])
        many = max(len(encoded.dictionary), seen)
        is_long = any(len(str(value)) > _MOST_CHARACTERS for value in list(numbers[name])[-8:])
        if many > MOST_CLASSES or is_long or (self._num_rows >= _FIRST_ROWS and many * _LEAST_ROWS > self._num_rows):
            del numbers[name], self._codes[name]

    def chosen(self) -> Classes | None:
        """Return the column of classes: one with the name of a label, else the one with the fewest classes, at least 2."""
        found = {
            name: numbers
            for name, numbers in (self._numbers or {}).items()
            if len(numbers) >= 2 and len(numbers) * (1 if name == self._label else _LEAST_ROWS) <= self._num_rows
        }
        if not found:
            return None
        name = min(found, key=lambda each: (not is_label(each), len(found[each])))
        return Classes(name, tuple(map(str, found[name])), np.concatenate(self._codes[name]))


def mix_classes(parts: Sequence[Classes | None], sources: Index, rows: Index) -> Classes | None:
    """Return the classes of the rows of a mixture; ``None`` where its sources have no column of classes, or several.

    Args:
        parts: The classes of each source; ``None`` where it has none, so that its rows have no class.
        sources: ``int64 (N,)``, number of the source of each row.
        rows: ``int64 (N,)``, number of each row in its source.
    """
    columns = {part.column for part in parts if part is not None}
    if len(columns) != 1:
        return None
    numbers: dict[str, int] = {}
    codes: Index = np.full(len(rows), -1)
    for source, part in enumerate(parts):
        if part is not None:
            own = sources == source
            mixed = [numbers.setdefault(name, len(numbers)) for name in part.names]
            codes[own] = np.array([*mixed, -1])[part.codes[rows[own]]]
    return Classes(columns.pop(), tuple(numbers), codes)


def may_be_classes(field: pa.Field) -> bool:
    """Return whether a column may hold classes, by its name and type."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_class = is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return is_class and field.name not in RESERVED


def class_columns(records: Sequence[Mapping[str, object]], field: str) -> list[str]:
    """Return the columns of records, as a source gives them, that look like classes, those with names of labels first.

    Args:
        records: The first records.
        field: The column of texts, which is none.
    """
    found = []
    for name in records[0] if records else ():
        values = [record.get(name) for record in records]
        is_class = all(isinstance(value, str | int | bool) and len(str(value)) <= _MOST_CHARACTERS for value in values)
        num_classes = len(set(map(str, values)))
        if name not in (field, *RESERVED) and is_class and (num_classes * _LEAST_ROWS <= len(values) or is_label(name)):
            found.append(name)
    return sorted(found, key=lambda name: not is_label(name))
