"""Columns of items: what all items have in one, decided by the first item that has a value there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.sources.tables.arrow_to_python import CHAT_COLUMNS
from seqstream.sources.tables.item_values import (
    NUMBER_RANKS,
    Array,
    UnfitError,
    Value,
    describe,
    describe_value,
    narrow,
    out_of_range,
    to_json,
    to_value,
)

FIELD_RULE = "a str, a number, a sequence of numbers, a tensor or array, or a list of str or of dicts"


@dataclasses.dataclass(frozen=True)
class ItemField:
    """A column of texts, of numbers, or of sequences of numbers.

    Attributes:
        dtype: Type of the numbers, ``None`` for text.
        shape: Shape of one step of a sequence, ``None`` for a single number.
        item: Number of the item that decided it.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    item: int = 0

    def value(self, given: Any) -> Value:
        """Return the value of an item in this column; a text may be ``None``.

        Raises:
            UnfitError: It is not like that of the deciding item.
        """
        if given is None and self.dtype is None:
            return None
        value = to_value(given)
        if not self._accepts(value):
            raise UnfitError(describe_value(value))
        return value

    def _accepts(self, value: str | Array) -> bool:
        if isinstance(value, str) or self.dtype is None:
            return isinstance(value, str) and self.dtype is None
        if value.shape == (0,):
            return self.shape is not None
        if NUMBER_RANKS[value.dtype.kind] > NUMBER_RANKS[self.dtype.kind]:
            return False
        return self.shape == (value.shape[1:] if value.ndim else None)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block's items, whose numbers are ``numbers``, into a column.

        Raises:
            ValueError: A whole number does not fit the column's type.
        """
        if self.dtype is None:
            return pa.array(values, pa.string())
        column = pa.array(self._concatenate(values, self.dtype, numbers, source).reshape(-1))
        if self.shape is None:
            return column
        for size in reversed(self.shape):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        return pa.ListArray.from_arrays(offsets, column)

    def _concatenate(self, values: Sequence[Array], dtype: np.dtype[Any], numbers: Sequence[int], source: str) -> Array:
        rows = [value.reshape(-1, *self.shape) if self.shape else value.reshape(-1) for value in values]
        try:
            if len({row.dtype for row in rows}) == 1:
                return narrow(np.concatenate(rows), dtype)
            return np.concatenate([np.empty((0, *(self.shape or ())), dtype), *(narrow(row, dtype) for row in rows)])
        except OverflowError:
            items = zip(numbers, rows, strict=True)
            number, value = next((number, bad) for number, row in items for bad in out_of_range(row, dtype))
            raise ValueError(f"{self.name} of item {number} of {source} must fit {dtype}, got {value}") from None

    def __str__(self) -> str:
        if self.dtype is None:
            return "a str"
        if self.shape is None:
            return f"one {self.dtype}"
        return f"{self.dtype} of shape ({', '.join(['length', *map(str, self.shape)])}{'' if self.shape else ','})"


@dataclasses.dataclass(frozen=True)
class TextsField:
    """A column of lists of texts, such as words, or of dicts, such as messages.

    Attributes:
        keys: Keys of a dict whose values are texts, ``None`` for lists of texts.
        item: Number of the item that decided it.
    """

    name: str
    keys: tuple[str, ...] | None
    item: int = 0

    def value(self, given: Any) -> list[Any] | None:
        """Return the value of an item in this column, with copies of its dicts: a generator may fill the same ones again.

        Where a dict holds more than texts under these keys, each dict becomes text of JSON.

        Raises:
            UnfitError: It is not like that of the deciding item.
        """
        if given is None:
            return None
        if not isinstance(given, list | tuple):
            raise UnfitError(describe(given))
        if all(self._accepts(part) for part in given):
            return list(given) if self.keys is None else list(map(dict, given))
        if self.keys is None or not all(isinstance(part, Mapping) for part in given):
            raise UnfitError(describe(given))
        return [to_json(part) for part in given]

    def _accepts(self, part: Any) -> bool:
        if self.keys is None:
            return isinstance(part, str)
        return isinstance(part, Mapping) and part.keys() == set(self.keys) and all(isinstance(part[key], str) for key in part)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block into a column."""
        if self.keys is None:
            return pa.array(values, pa.list_(pa.string()))
        if any(isinstance(part, str) for value in values if value is not None for part in value):
            texts = [None if value is None else [to_json(part) for part in value] for value in values]
            return pa.array(texts, pa.list_(pa.string()))
        return pa.array(values, pa.list_(pa.struct([(key, pa.string()) for key in self.keys])))

    def __str__(self) -> str:
        return "a list of str" if self.keys is None else "a list of dicts that JSON can hold"


@dataclasses.dataclass(frozen=True)
class JsonField:
    """A column of dicts, or of what a chat template reads beside messages: text of JSON, or null."""

    name: str
    item: int = 0

    def value(self, given: Any) -> str | None:
        """Return the value of an item in this column.

        Raises:
            UnfitError: JSON cannot hold it.
        """
        return None if given is None else to_json(given)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block into a column."""
        return pa.array(values, pa.string())

    def __str__(self) -> str:
        return "a dict or a list that JSON can hold, or None"


@dataclasses.dataclass(frozen=True)
class OpenField:
    """A column that is still undecided: all items so far have ``None`` or an empty list there."""

    name: str
    item: int = 0

    def value(self, given: Any) -> Value:
        """Return ``None``, or an empty list."""
        return None if given is None else []

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Return a column of nulls or empty lists, without a type."""
        return pa.array(values)

    def __str__(self) -> str:
        return "None or an empty list"


AnyField: TypeAlias = ItemField | TextsField | JsonField | OpenField


def decide_field(name: str, given: Any, where: str, number: int) -> ItemField | TextsField | JsonField:
    """Return the column of all values like this one, of the item with this number.

    Raises:
        ValueError: No column can hold it; ``where`` names the item in the message.
    """
    field = _json_field(name, given) or _texts_field(name, given) or sequence_field(name, given, where, FIELD_RULE)
    return dataclasses.replace(field, item=number)


def sequence_field(name: str, given: Any, where: str, rule: str) -> ItemField:
    """Return the column of all texts, numbers or sequences like this one.

    Raises:
        ValueError: It is none of these; the message says that ``where`` must be ``rule``.
    """
    value = first_value(given, where, rule)
    if isinstance(value, str):
        return ItemField(name, None, None)
    if value.ndim == 0:
        return ItemField(name, np.dtype(np.float64) if value.dtype == np.longdouble else value.dtype, None)
    dtype = value.dtype
    if dtype.kind == "f" and dtype.itemsize > np.dtype(np.float32).itemsize:
        dtype = np.dtype(np.float32)
    elif dtype.kind in "iu" and value.ndim == 1:
        dtype = np.dtype(np.int32)
    return ItemField(name, dtype, value.shape[1:])


def first_value(given: Any, where: str, rule: str) -> str | Array:
    """Return the value that decides a column.

    Raises:
        ValueError: It is neither text nor numbers; the message says that ``where`` must be ``rule``.
    """
    try:
        return to_value(given)
    except UnfitError as error:
        raise ValueError(f"{where} must be {rule}, got {error}") from error.__cause__


def _texts_field(name: str, given: Any) -> TextsField | None:
    """Return the field of a list of texts, or of dicts with texts; ``None`` for other values."""
    if not isinstance(given, list | tuple) or not given:
        return None
    if isinstance(given[0], str):
        field = TextsField(name, None)
    elif isinstance(given[0], Mapping) and all(isinstance(key, str) for key in given[0]):
        field = TextsField(name, tuple(key for key, value in given[0].items() if isinstance(value, str)))
    else:
        return None
    try:
        field.value(given)
    except UnfitError:
        return None
    return field


def _json_field(name: str, given: Any) -> JsonField | None:
    """Return the field of a dict, or of tools and documents, which some records lack; ``None`` for other values."""
    is_nested = given is None or isinstance(given, Mapping | list | tuple)
    return JsonField(name) if isinstance(given, Mapping) or (name in CHAT_COLUMNS and is_nested) else None
