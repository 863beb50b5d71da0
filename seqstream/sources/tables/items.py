"""Items of a generator made into columns: the first items say what all are, and each block is one concatenation."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from seqstream.records import RESERVED
from seqstream.sources.tables.unpacking import Unpack, unpacking

Array: TypeAlias = npt.NDArray[Any]
Value: TypeAlias = str | Array | list[Any] | None

_ITEM = "a str, a sequence of ids, a tensor or array, or a dict of named fields"
_FIELD = "a str, a number, a sequence of numbers, a tensor or array, or a list of str or of dicts"
_OF_CHATS = ("tools", "documents")
"""Fields that a chat template is given beside messages; where there are none they may be ``None``."""

_EXACT = 1 << 53
"""Floats hold whole numbers up to here exactly."""

_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2}
"""Kinds of numbers; each may stand where one of a higher rank is wanted."""


class UnfitError(Exception):
    """What an item has instead of what it must have."""


@dataclasses.dataclass(frozen=True)
class Field:
    """What all items have in one column.

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
        """Return what an item has in this column; a text may be missing.

        Raises:
            UnfitError: It is not what the deciding item has.
        """
        if given is None and self.dtype is None:
            return None
        value = _as_value(given)
        if not self._accepts(value):
            raise UnfitError(_described(value))
        return value

    def _accepts(self, value: str | Array) -> bool:
        if isinstance(value, str) or self.dtype is None:
            return isinstance(value, str) and self.dtype is None
        if value.shape == (0,):
            return self.shape is not None
        if _RANKS[value.dtype.kind] > _RANKS[self.dtype.kind]:
            return False
        return self.shape == (value.shape[1:] if value.ndim else None)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block's items, which have these numbers, into a column.

        Raises:
            ValueError: A whole number does not fit the column's type.
        """
        if self.dtype is None:
            return pa.array(values, pa.string())
        column = pa.array(self._joined(values, self.dtype, numbers, source).reshape(-1))
        if self.shape is None:
            return column
        for size in reversed(self.shape):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        return pa.ListArray.from_arrays(offsets, column)

    def _joined(self, values: Sequence[Array], dtype: np.dtype[Any], numbers: Sequence[int], source: str) -> Array:
        rows = [value.reshape(-1, *self.shape) if self.shape else value.reshape(-1) for value in values]
        try:
            if len({row.dtype for row in rows}) == 1:
                return _narrowed(np.concatenate(rows), dtype)
            return np.concatenate([np.empty((0, *(self.shape or ())), dtype), *(_narrowed(row, dtype) for row in rows)])
        except OverflowError:
            places = zip(numbers, rows, strict=True)
            number, value = next((number, bad) for number, row in places for bad in _outside(row, dtype))
            raise ValueError(f"{self.name} of item {number} of {source} must fit {dtype}, got {value}") from None

    def __str__(self) -> str:
        if self.dtype is None:
            return "a str"
        if self.shape is None:
            return f"one {self.dtype}"
        return f"{self.dtype} of shape ({', '.join(['length', *map(str, self.shape)])}{'' if self.shape else ','})"


@dataclasses.dataclass(frozen=True)
class TextsField:
    """What all items have in a column of lists of texts, such as words, or of dicts of texts, such as messages.

    Attributes:
        keys: Names in a dict, ``None`` for texts.
        item: Number of the item that decided it.
    """

    name: str
    keys: tuple[str, ...] | None
    item: int = 0

    def value(self, given: Any) -> list[Any] | None:
        """Return what an item has in this column, with dicts of its own: a generator may fill the same ones again.

        Of dicts that hold more than the texts of these keys it is the text of each.

        Raises:
            UnfitError: It is not what the deciding item has.
        """
        if given is None:
            return None
        if not isinstance(given, list | tuple):
            raise UnfitError(_shown(given))
        if all(self._accepts(part) for part in given):
            return list(given) if self.keys is None else list(map(dict, given))
        if self.keys is None or not all(isinstance(part, Mapping) for part in given):
            raise UnfitError(_shown(given))
        return [_json_text(part) for part in given]

    def _accepts(self, part: Any) -> bool:
        if self.keys is None:
            return isinstance(part, str)
        return isinstance(part, Mapping) and part.keys() == set(self.keys) and all(isinstance(part[key], str) for key in part)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block into a column."""
        if self.keys is None:
            return pa.array(values, pa.list_(pa.string()))
        if any(isinstance(part, str) for value in values if value is not None for part in value):
            texts = [None if value is None else [_json_text(part) for part in value] for value in values]
            return pa.array(texts, pa.list_(pa.string()))
        return pa.array(values, pa.list_(pa.struct([(key, pa.string()) for key in self.keys])))

    def __str__(self) -> str:
        return "a list of str" if self.keys is None else "a list of dicts that JSON can hold"


@dataclasses.dataclass(frozen=True)
class JsonField:
    """What all items have in a column of dicts, or of one that a chat template is given: text of JSON, or nothing."""

    name: str
    item: int = 0

    def value(self, given: Any) -> str | None:
        """Return what an item has in this column.

        Raises:
            UnfitError: JSON cannot hold it.
        """
        return None if given is None else _json_text(given)

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Join the values of a block into a column."""
        return pa.array(values, pa.string())

    def __str__(self) -> str:
        return "a dict or a list that JSON can hold, or None"


@dataclasses.dataclass(frozen=True)
class OpenField:
    """A column of which no item has said yet what it holds: all have ``None`` or an empty list there."""

    name: str
    item: int = 0

    def value(self, given: Any) -> Value:
        """Return ``None``, or an empty list."""
        return None if given is None else []

    def column(self, values: Sequence[Any], numbers: Sequence[int], source: str) -> pa.Array:
        """Return a column of missing values, or of empty lists, without a type."""
        return pa.array(values)

    def __str__(self) -> str:
        return "None or an empty list"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all items of a source are.

    Attributes:
        fields: Their columns.
        named: Whether items are dicts, or made into dicts.
        source: What the items come from, for messages.
        unpack: Makes a dict of an item that is none, ``None`` where that is not needed.
    """

    fields: tuple[Field | TextsField | JsonField | OpenField, ...]
    named: bool
    source: str
    unpack: Unpack | None = None

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether what some column holds is for a later item to say."""
        return any(isinstance(field, OpenField) for field in self.fields)

    def settled(self, item: Any, number: int) -> Layout:
        """Return the layout with what an item says of columns that are open; itself if it says nothing.

        Raises:
            ValueError: What it has there has no place in a table.
        """
        item = item if self.unpack is None else self.unpack(item)
        if not isinstance(item, Mapping):
            return self
        where = f"of item {number} of {self.source}"
        fields = [
            _named_field(field.name, item[field.name], where, number)
            if isinstance(field, OpenField) and field.name in item and not _is_open(item[field.name])
            else field
            for field in self.fields
        ]
        return self if tuple(fields) == self.fields else dataclasses.replace(self, fields=tuple(fields))

    def settled_block(
        self, item: Any, number: int, block: list[list[Value]], numbers: Sequence[int]
    ) -> tuple[Layout, list[list[Value]]]:
        """Return `settled`, and the values of items before, which have these numbers, as the new layout has them."""
        layout = self.settled(item, number)
        if layout is self:
            return self, block
        pairs = [(zip(layout.fields, values, strict=True), before) for values, before in zip(block, numbers, strict=False)]
        return layout, [[layout._value(*pair, before) for pair in values] for values, before in pairs]

    @functools.cached_property
    def _names(self) -> set[str]:
        return {field.name for field in self.fields}

    @functools.cached_property
    def is_text(self) -> bool:
        """Whether items are texts themselves."""
        return not self.named and isinstance(self.fields[0], Field) and self.fields[0].dtype is None

    def values(self, item: Any, number: int) -> list[Value]:
        """Return what an item has in each column.

        Raises:
            ValueError: The item is of another kind than the first.
        """
        if self.is_text and type(item) is str:
            return [item]
        if self.unpack is not None:
            item = self.unpack(item)
        if item is None or isinstance(item, Mapping) != self.named or (self.named and item.keys() != self._names):
            raise ValueError(f"item {number} of {self.source} must be {self} like item 0, got {_shown(item)}")
        try:
            return [field.value(item[field.name] if self.named else item) for field in self.fields]
        except UnfitError:  # raised again, with its place
            return [self._value(field, item[field.name] if self.named else item, number) for field in self.fields]

    def _value(self, field: Field | TextsField | JsonField | OpenField, given: Any, number: int) -> Value:
        try:
            return field.value(given)
        except UnfitError as error:
            where = f"field '{field.name}' of item {number}" if self.named else f"item {number}"
            like = f"{field} like item {field.item}"
            raise ValueError(f"{where} of {self.source} must be {like}, got {error}") from error.__cause__

    def table(self, block: list[list[Value]], numbers: Sequence[int]) -> pa.Table:
        """Join the values of the items that have these numbers."""
        values = zip(*block, strict=True) if block else [()] * len(self.fields)
        columns = zip(self.fields, values, strict=True)
        try:
            return pa.table({field.name: field.column(values, numbers, self.source) for field, values in columns})
        except UnicodeEncodeError as error:
            number = next((number for number, item in zip(numbers, block, strict=True) if not _is_unicode(item)), numbers[0])
            raise ValueError(
                f"item {number} of {self.source} must be text that UTF-8 can hold, got half of a surrogate pair, "
                f"{error.object[error.start]!a}; replace it: text.encode('utf-8', 'replace').decode()"
            ) from error

    def __str__(self) -> str:
        return f"a dict with {', '.join(repr(field.name) for field in self.fields)}" if self.named else str(self.fields[0])


def _is_unicode(value: Any) -> bool:
    """Return whether UTF-8 can hold all text in a value of an item."""
    if isinstance(value, Mapping):
        return all(map(_is_unicode, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_unicode, value))
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


def layout_of(item: Any, source: str) -> Layout:
    """Return what all items are, from the first one.

    Raises:
        ValueError: An item like this has no place in a table.
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
        named = [
            OpenField(name) if _is_open(value) else _named_field(name, value, f"of {where}", 0) for name, value in item.items()
        ]
        return Layout(tuple(named), True, source, unpack)
    value = _first_value(item, where, _ITEM)
    if not isinstance(value, str) and (value.ndim == 0 or value.dtype == bool):
        raise ValueError(f"{where} must be {_ITEM}, got {_described(value)}; give it a name in a dict")
    name = "text" if isinstance(value, str) else "input_ids" if value.ndim == 1 and value.dtype.kind in "iu" else "features"
    return Layout((_field_of(name, item, where, _ITEM),), False, source)


def size_of(values: list[Value]) -> int:
    """Return about how many bytes an item's values have."""
    size = 0
    for value in values:
        if isinstance(value, str):
            size += len(value)
        elif value is None:
            size += 1
        elif isinstance(value, list):
            size += sum(sum(map(len, part.values())) if isinstance(part, Mapping) else len(part) for part in value)
        elif value is not None:
            size += value.nbytes
    return size


def _as_value(given: Any) -> str | Array:
    """Return a ``str`` as it is, anything else as an array of its own: a generator may fill the same buffer again."""
    if isinstance(given, str):
        return str(given)
    try:
        array = _copied(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnfitError(f"{_shown(given)}: {error}") from error
    if array.dtype.kind not in _RANKS:
        raise UnfitError(_shown(given))
    if array.dtype.kind == "f" and isinstance(given, list | tuple) and np.abs(array).max(initial=0) >= _EXACT:
        _check_exact(given)
    return array


def _check_exact(given: Any) -> None:
    """Raise if numpy has rounded a whole number: among floats, or because of one beyond int64."""
    for number in np.array(given, object).ravel().tolist():
        if isinstance(number, int | np.integer) and abs(int(number)) > _EXACT:
            raise UnfitError(f"{number} in a list whose numbers only floats hold, which round it")


def _first_value(given: Any, where: str, rule: str) -> str | Array:
    try:
        return _as_value(given)
    except UnfitError as error:
        raise ValueError(f"{where} must be {rule}, got {error}") from error.__cause__


def _copied(given: Any) -> Array:
    if isinstance(given, list | tuple):
        if not given:
            return np.empty(0, np.int32)
        if isinstance(given[0], torch.Tensor):
            given = torch.stack(tuple(given))
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    return np.array(given)


def _is_open(given: Any) -> bool:
    """Return whether a value says nothing of what its column holds."""
    return given is None or (isinstance(given, list | tuple) and not given)


def _named_field(name: str, given: Any, where: str, number: int) -> Field | TextsField | JsonField:
    field = _json_field(name, given) or _texts_field(name, given) or _field_of(name, given, f"field '{name}' {where}", _FIELD)
    return dataclasses.replace(field, item=number)


def _field_of(name: str, given: Any, where: str, rule: str) -> Field:
    value = _first_value(given, where, rule)
    if isinstance(value, str):
        return Field(name, None, None)
    if value.ndim == 0:
        return Field(name, np.dtype(np.float64) if value.dtype == np.longdouble else value.dtype, None)
    dtype = value.dtype
    if dtype.kind == "f" and dtype.itemsize > np.dtype(np.float32).itemsize:
        dtype = np.dtype(np.float32)
    elif dtype.kind in "iu" and value.ndim == 1:
        dtype = np.dtype(np.int32)
    return Field(name, dtype, value.shape[1:])


def _texts_field(name: str, given: Any) -> TextsField | None:
    """Return the field of a list of texts, or of dicts of texts; ``None`` if it is none."""
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
    """Return the field of a dict, or of tools and the like, of which some records have none; ``None`` if it is none."""
    is_nested = given is None or isinstance(given, Mapping | list | tuple)
    return JsonField(name) if isinstance(given, Mapping) or (name in _OF_CHATS and is_nested) else None


def _json_text(given: Any) -> str:
    if isinstance(given, str):
        return given
    try:
        return json.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnfitError(f"{_shown(given)}: {error}") from error


def _narrowed(values: Array, dtype: np.dtype[Any]) -> Array:
    if _outside(values, dtype):
        raise OverflowError
    return values.astype(dtype, copy=False)


def _outside(values: Array, dtype: np.dtype[Any]) -> list[int]:
    """Return the smallest and the largest whole number if they do not fit the type; floats must hold them exactly."""
    if values.dtype.kind not in "iu" or not values.size or values.dtype == dtype:
        return []
    limit = 1 << (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else np.iinfo(dtype).max
    least = -limit if dtype.kind == "f" else np.iinfo(dtype).min
    if least <= np.iinfo(values.dtype).min and np.iinfo(values.dtype).max <= limit:
        return []
    return [value for value in (int(values.min()), int(values.max())) if not least <= value <= limit]


def _described(value: str | Array) -> str:
    return "a str" if isinstance(value, str) else f"{value.dtype} of shape {value.shape}"


def _shown(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"a dict with {', '.join(map(repr, given))}"
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given}, beyond 64 bits"
    if isinstance(given, list | tuple) and given:
        return f"a {type(given).__name__} of {', '.join(sorted({type(part).__name__ for part in given}))}"
    return "None" if given is None else f"{type(given).__name__}"
