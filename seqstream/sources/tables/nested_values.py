"""Nested values, such as messages and tools, out of Arrow as the data has them.

A struct of Arrow gives every value all the keys, in one order, the missing ones null. What a file of JSON had is kept beside it
as text; where nothing is, keys without a value are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa

EXACT = "exact_json"
"""A field of structs of messages: the text of the message in the file, where the struct does not say all of it."""

Clean: TypeAlias = Callable[[Any], Any]


def to_objects(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return nested values as Python objects, without the keys that structs put in, and text of JSON decoded.

    Text is that of the ``Json()`` features of `datasets`. What a file had is returned as it was, unless a stage has changed
    the struct since.
    """
    objects: list[Any] = values.to_pylist()
    clean = _cleaner(values.type)
    return objects if clean is None else [clean(value) for value in objects]


def decode_text(value: Any) -> Any:
    """Return what a text of JSON holds, anything else as it is.

    Raises:
        ValueError: Text is not JSON.
    """
    return json.loads(value) if isinstance(value, str) else value


def exact_text(value: object) -> str | None:
    """Return the text of an object that a struct may not hold whole; ``None`` for one of texts alone."""
    if not isinstance(value, dict) or all(isinstance(each, str) for each in value.values()):
        return None
    return json.dumps(value, ensure_ascii=False)


def is_exact(kind: pa.DataType) -> bool:
    """Return whether a column holds structs beside which their text is kept."""
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type.get_field_index(EXACT) >= 0)


def without_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without the text that is kept beside messages."""
    kind = values.type
    if not is_exact(kind):
        return values
    fields = [field for field in kind.value_type if field.name != EXACT]
    return values.cast(pa.list_(pa.struct(fields)))


def _cleaner(kind: pa.DataType) -> Clean | None:
    """Return what makes of a Python object of a type what the data had; ``None`` where it is that already."""
    if isinstance(kind, pa.JsonType):
        return decode_text
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _cleaner(kind.value_type)
        return None if inner is None else lambda value: None if value is None else [inner(each) for each in value]
    if pa.types.is_struct(kind):
        inners = {field.name: _cleaner(field.type) for field in kind}
        return lambda value: None if value is None else _without_missing(value, inners)
    return None


def _without_missing(value: dict[str, Any], inners: dict[str, Clean | None]) -> dict[str, Any]:
    text = value.pop(EXACT, None)
    found = {}
    for key, each in value.items():
        if each is not None:
            clean = inners.get(key)
            found[key] = each if clean is None else clean(each)
    if text is not None:
        exact = json.loads(text)
        if (dropped := _drop_nulls(exact)) == found or _is_text_of(found, dropped):
            return dict(exact)
    return found


def _is_text_of(found: Any, exact: Any) -> bool:
    """Return whether a value is another one, with text of JSON in place of objects whose keys are data."""
    if isinstance(found, str) and not isinstance(exact, str):
        try:
            return bool(_drop_nulls(json.loads(found)) == exact)
        except ValueError:
            return False
    if isinstance(found, dict) and isinstance(exact, dict):
        return found.keys() == exact.keys() and all(_is_text_of(each, exact[key]) for key, each in found.items())
    if isinstance(found, list) and isinstance(exact, list):
        return len(found) == len(exact) and all(map(_is_text_of, found, exact))
    return bool(found == exact)


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(each) for key, each in value.items() if each is not None}
    return [_drop_nulls(each) for each in value] if isinstance(value, list) else value
