"""Nested values, such as messages and tools, from Arrow to Python as the data had them.

An Arrow struct gives every value all keys, in one order, with nulls for missing ones. Where this loses something, a struct has
one more field with the JSON text of the file; where there is no text, keys that are null are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa

EXACT = "exact_json"
"""The field of a message's struct with the text of the message in the file; null where the struct holds all of it."""
CHAT_COLUMNS = ("tools", "documents")
"""Columns that chat templates read beside messages."""

_Restore: TypeAlias = Callable[[Any], Any]


def to_objects(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return nested values as Python objects, without the keys that a struct adds; the JSON of ``Json()`` features is decoded.

    A value with text in the field `EXACT` is returned as that text has it, unless a stage has changed the struct since.
    """
    objects: list[Any] = values.to_pylist()
    restore = _restorer(values.type)
    return objects if restore is None else [restore(value) for value in objects]


def decode_text(value: Any) -> Any:
    """Return the value of a JSON text; anything but a string as it is.

    Raises:
        ValueError: The text is not JSON.
    """
    return json.loads(value) if isinstance(value, str) else value


def is_exact(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of structs with the field `EXACT`."""
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type.get_field_index(EXACT) >= 0)


def without_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without the field `EXACT`."""
    kind = values.type
    if not is_exact(kind):
        return values
    fields = [field for field in kind.value_type if field.name != EXACT]
    return values.cast(pa.list_(pa.struct(fields)))


def _restorer(kind: pa.DataType) -> _Restore | None:
    """Return a function from Python objects of a type to what the data had; ``None`` where they are the same."""
    if isinstance(kind, pa.JsonType):
        return decode_text
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        restore = _restorer(kind.value_type)
        return None if restore is None else lambda value: None if value is None else [restore(each) for each in value]
    if pa.types.is_struct(kind):
        restorers = {field.name: _restorer(field.type) for field in kind}
        return lambda value: None if value is None else _restore_struct(value, restorers)
    return None


def _restore_struct(value: dict[str, Any], restorers: dict[str, _Restore | None]) -> dict[str, Any]:
    text = value.pop(EXACT, None)
    found = {}
    for key, each in value.items():
        if each is not None:
            restore = restorers.get(key)
            found[key] = each if restore is None else restore(each)
    if text is not None:
        exact = json.loads(text)
        if (dropped := _drop_nulls(exact)) == found or _is_same(found, dropped):
            return dict(exact)
    return found


def _is_same(found: Any, exact: Any) -> bool:
    """Return whether two values are the same, where ``found`` may have text of JSON in place of an object."""
    if isinstance(found, str) and not isinstance(exact, str):
        try:
            return bool(_drop_nulls(json.loads(found)) == exact)
        except ValueError:
            return False
    if isinstance(found, dict) and isinstance(exact, dict):
        return found.keys() == exact.keys() and all(_is_same(each, exact[key]) for key, each in found.items())
    if isinstance(found, list) and isinstance(exact, list):
        return len(found) == len(exact) and all(map(_is_same, found, exact))
    return bool(found == exact)


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(each) for key, each in value.items() if each is not None}
    return [_drop_nulls(each) for each in value] if isinstance(value, list) else value
