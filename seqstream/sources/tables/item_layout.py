"""Items of a generator to tables: the first items decide the columns, each block of items becomes one table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from seqstream.records import RESERVED
from seqstream.sources.tables.item_fields import AnyField, ItemField, OpenField, decide_field, first_value, sequence_field
from seqstream.sources.tables.item_values import UnfitError, Value, describe, describe_value, is_open, is_unicode
from seqstream.sources.tables.unpacking import Unpack, unpacking

_ITEM_RULE = "a str, a sequence of ids, a tensor or array, or a dict of named fields"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all items of a source are.

    Attributes:
        fields: Their columns.
        named: Whether items are dicts, or unpacked into dicts.
        source: Name of the function or the object that yields the items, for messages.
        unpack: Makes a dict of an item of another type, ``None`` where items are dicts or have no names.
    """

    fields: tuple[AnyField, ...]
    named: bool
    source: str
    unpack: Unpack | None = None

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether a later item decides some column."""
        return any(isinstance(field, OpenField) for field in self.fields)

    @functools.cached_property
    def is_text(self) -> bool:
        """Whether items are texts themselves."""
        return not self.named and isinstance(self.fields[0], ItemField) and self.fields[0].dtype is None

    @functools.cached_property
    def _names(self) -> set[str]:
        return {field.name for field in self.fields}

    def settled(self, item: Any, number: int) -> Layout:
        """Return the layout with the open columns that an item decides; the same object if it decides none.

        Raises:
            ValueError: No column can hold what it has there.
        """
        item = item if self.unpack is None else self.unpack(item)
        if not isinstance(item, Mapping):
            return self
        fields = tuple(
            _named_field(field.name, item[field.name], f"item {number} of {self.source}", number)
            if isinstance(field, OpenField) and field.name in item
            else field
            for field in self.fields
        )
        return self if fields == self.fields else dataclasses.replace(self, fields=fields)

    def settled_block(
        self, item: Any, number: int, block: list[list[Value]], numbers: Sequence[int]
    ) -> tuple[Layout, list[list[Value]]]:
        """Return `settled`, and the values of the items before, whose numbers are ``numbers``, for the new layout."""
        layout = self.settled(item, number)
        if layout is self:
            return self, block
        return layout, [
            [layout._value(field, value, before) for field, value in zip(layout.fields, values, strict=True)]
            for values, before in zip(block, numbers, strict=False)
        ]

    def values(self, item: Any, number: int) -> list[Value]:
        """Return the values of an item, one for each column.

        Raises:
            ValueError: The item is of another kind than the first.
        """
        if self.is_text and type(item) is str:
            return [item]
        if self.unpack is not None:
            item = self.unpack(item)
        if item is None or isinstance(item, Mapping) != self.named or (self.named and item.keys() != self._names):
            raise ValueError(f"item {number} of {self.source} must be {self} like item 0, got {describe(item)}")
        try:
            return [field.value(item[field.name] if self.named else item) for field in self.fields]
        except UnfitError:  # again, for a message that names the item and the field
            return [self._value(field, item[field.name] if self.named else item, number) for field in self.fields]

    def _value(self, field: AnyField, given: Any, number: int) -> Value:
        try:
            return field.value(given)
        except UnfitError as error:
            where = f"field '{field.name}' of item {number}" if self.named else f"item {number}"
            like = f"{field} like item {field.item}"
            raise ValueError(f"{where} of {self.source} must be {like}, got {error}") from error.__cause__

    def table(self, block: list[list[Value]], numbers: Sequence[int]) -> pa.Table:
        """Join the values of the items whose numbers are ``numbers`` into a table.

        Raises:
            ValueError: A whole number does not fit its column, or UTF-8 cannot hold a text.
        """
        values = zip(*block, strict=True) if block else [()] * len(self.fields)
        columns = zip(self.fields, values, strict=True)
        try:
            return pa.table({field.name: field.column(values, numbers, self.source) for field, values in columns})
        except UnicodeEncodeError as error:
            number = next((number for number, item in zip(numbers, block, strict=True) if not is_unicode(item)), numbers[0])
            raise ValueError(
                f"item {number} of {self.source} must be text that UTF-8 can hold, got half of a surrogate pair, "
                f"{error.object[error.start]!a}; replace it: text.encode('utf-8', 'replace').decode()"
            ) from error

    def __str__(self) -> str:
        return f"a dict with {', '.join(repr(field.name) for field in self.fields)}" if self.named else str(self.fields[0])


def layout_of(item: Any, source: str) -> Layout:
    """Return the layout of all items, decided by the first one.

    Raises:
        ValueError: No table can hold such an item.
    """
    where = f"item 0 of {source}"
    try:
        unpack = unpacking(item)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    item = item if unpack is None else unpack(item)
    if isinstance(item, Mapping):
        if not item or not all(isinstance(name, str) for name in item):
            raise ValueError(f"{where} must be a dict of named fields, got {dict(item)!r:.80}")
        for name in item:
            if name in RESERVED:
                raise ValueError(f"{where} cannot have a field '{name}', which the loader makes itself; choose another name")
        return Layout(tuple(_named_field(name, value, where, 0) for name, value in item.items()), True, source, unpack)
    value = first_value(item, where, _ITEM_RULE)
    if not isinstance(value, str) and (value.ndim == 0 or value.dtype == bool):
        raise ValueError(f"{where} must be {_ITEM_RULE}, got {describe_value(value)}; give it a name in a dict")
    name = "text" if isinstance(value, str) else "input_ids" if value.ndim == 1 and value.dtype.kind in "iu" else "features"
    return Layout((sequence_field(name, item, where, _ITEM_RULE),), False, source)


def _named_field(name: str, given: Any, item: str, number: int) -> AnyField:
    return OpenField(name) if is_open(given) else decide_field(name, given, f"field '{name}' of {item}", number)
