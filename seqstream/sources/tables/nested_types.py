"""Nested Arrow types: the types inside of one, and the text that stands for JSON in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pyarrow as pa

Path: TypeAlias = tuple[str | None, ...]
"""Field names on the way to a value, ``None`` for the items of a list; ``()`` is the record itself."""


def types_in(kind: pa.DataType, path: Path = ()) -> Iterator[tuple[Path, pa.DataType]]:
    """Yield a type and all types inside of its structs and lists, outer ones first, each with its path."""
    yield path, kind
    if pa.types.is_struct(kind):
        for field in kind:
            yield from types_in(field.type, (*path, field.name))
    elif _is_any_list(kind):
        yield from types_in(kind.value_type, (*path, None))


def map_leaves(kind: pa.DataType, replace: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type with ``replace(leaf)`` for each type that is no struct or list; lists of any kind become plain ones."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(map_leaves(field.type, replace)) for field in kind])
    return pa.list_(map_leaves(kind.value_type, replace)) if _is_any_list(kind) else replace(kind)


def json_paths(kind: pa.DataType, path: Path = ()) -> list[Path]:
    """Return the paths of all ``pa.json_()`` in the type at ``path``."""
    return [inner for inner, each in types_in(kind, path) if isinstance(each, pa.JsonType)]


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return a type with ``pa.string()`` for each ``pa.json_()`` in it."""
    return map_leaves(kind, lambda leaf: pa.string() if isinstance(leaf, pa.JsonType) else leaf)


def _is_any_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list of some kind; dictionaries have a ``value_type`` too."""
    return bool(pa.types.is_nested(kind)) and hasattr(kind, "value_type")
