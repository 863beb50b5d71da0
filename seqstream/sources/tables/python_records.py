"""Records that are Python dicts, as streams and transforms of `datasets` yield them, to Arrow tables without a loss."""

from __future__ import annotations

import json
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from seqstream.sources.tables.json_keys import find_sparse
from seqstream.sources.tables.json_rewriting import PathTree, as_tree
from seqstream.sources.tables.nested_types import Path, json_paths, stored_type

_MANY_NAMES = 32
"""A dict in the first records with at most this many different names is never sparse."""
_INT64 = np.iinfo(np.int64)
_NUMBERS = frozenset((int, float, bool))
_SCALARS = _NUMBERS | {str, bytes, type(None)}


def batches_of(records: Iterable[Mapping[str, Any]], rows: int) -> Iterator[dict[str, list[Any]]]:
    """Yield records as columns, ``rows`` at a time; each record is copied at once, since its objects may be filled again."""
    batch: list[dict[str, Any]] = []
    for record in records:
        is_flat = type(record) is dict and _SCALARS.issuperset(map(type, record.values()))
        batch.append(dict(record) if is_flat else _own_copy(record))
        if len(batch) == rows:
            yield _columns(batch)
            batch = []
    if batch:
        yield _columns(batch)


def _own_copy(value: Any) -> Any:
    """Return a copy of a value with new lists, dicts, arrays and tensors at all depths."""
    kind = type(value)  # quicker than isinstance, for common types
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: part if type(part) in _SCALARS else _own_copy(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if not value or type(value[0]) in _NUMBERS else [_own_copy(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return _own_copy(dict(value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def find_texts(batch: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the paths of dicts in columns whose keys are data."""
    records = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    return tuple(sparse.path for sparse in find_sparse(records, _MANY_NAMES)[0] if sparse.path)


def to_table(batch: Mapping[str, Any], schema: pa.Schema | None, remedy: str, texts: Collection[Path] = ()) -> pa.Table:
    """Return columns of Python objects as a table, in the types of the schema where it has them.

    Args:
        batch: Values of each column.
        schema: Types that the data set declares.
        remedy: What a user can do about values that do not fit.
        texts: Paths of values to store as text of JSON.

    Raises:
        ValueError: A column holds several kinds of values, or a number out of the range of its type; with the ``remedy``.
    """
    from datasets.features.features import cast_to_python_objects

    columns, tree = {}, as_tree(texts)
    for name, values in cast_to_python_objects(dict(batch), only_1d_for_numpy=True).items():
        kind = None if schema is None or name not in schema.names else schema.field(name).type
        try:
            if name in tree and not _are_chats(values):
                values = [_with_texts(value, tree[name]) for value in values]
            columns[name] = _array(*_encode_json(values, kind))
        except OverflowError as error:
            number = next(_too_large(values), "a number out of range")
            raise ValueError(f"column '{name}' must hold {kind or 'int64'}, got {number}; {remedy}") from error
        except (pa.ArrowInvalid, TypeError) as error:
            raise ValueError(f"column '{name}' must hold one kind of value: {error}; {remedy}") from error
    return pa.table(columns)


def _columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    first = batch[0]
    try:
        columns = {name: list(map(operator.itemgetter(name), batch)) for name in first}
        if max(map(len, batch)) == len(first):
            return columns
    except KeyError:
        pass
    names = dict.fromkeys(name for record in batch for name in record)
    return {name: [record.get(name) for record in batch] for name in names}


def _encode_json(values: list[Any], kind: pa.DataType | None) -> tuple[list[Any], pa.DataType | None]:
    """Return the values of a column as Arrow takes them, and their type, ``None`` if Arrow shall infer it.

    Values of ``Json()`` features become text, as `datasets` stores them. So do the messages of chats in a column without a
    declared type, if they hold more than strings: a struct would give each message the keys of all.
    """
    if kind is None:
        chats = _are_chats(values)
        return [chat and [_to_json(message) for message in chat] for chat in values] if chats else values, None
    if json_paths(kind):
        return [_encode(value, kind) for value in values], stored_type(kind)
    return values, None if isinstance(kind, pa.BaseExtensionType) else kind


def _are_chats(values: list[Any]) -> bool:
    """Return whether values are lists of messages, some of which hold more than strings."""
    chats = [value for value in values if value is not None]
    if not all(isinstance(chat, list) for chat in chats):
        return False
    messages = [message for chat in chats for message in chat]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        return False
    return any(not isinstance(part, str) for message in messages for part in message.values())


def _encode(value: Any, kind: pa.DataType) -> Any:
    """Return a value with text in place of each part that is ``pa.json_()`` in its type."""
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return _to_json(value)
    if pa.types.is_struct(kind):
        return {field.name: _encode(value.get(field.name), field.type) for field in kind}
    return [_encode(each, kind.value_type) for each in value] if hasattr(kind, "value_type") else value


def _with_texts(value: Any, tree: PathTree) -> Any:
    """Return a value with text in place of each part at the paths of a tree, unless it is a string already."""
    if value is None or isinstance(value, str):
        return value
    if not tree:
        return _to_json(value)
    if isinstance(value, dict):
        return {name: _with_texts(each, tree[name]) if name in tree else each for name, each in value.items()}
    if isinstance(value, list) and None in tree:
        return [_with_texts(each, tree[None]) for each in value]
    return value


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return values as an array; a fraction in a column of integers is an error, where ``pa.array`` would cut it off."""
    if kind is None or not _holds_integers(kind) or pa.types.is_uint64(kind):
        return pa.array(values, kind)
    return pa.array(values).cast(kind)


def _holds_integers(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind))


def _too_large(values: Any) -> Iterator[int]:
    """Yield the whole numbers, at any depth, that do not fit 64 bits."""
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            yield from _too_large(value)
        elif isinstance(value, Mapping):
            yield from _too_large(value.values())
        elif isinstance(value, int | np.integer) and not _INT64.min <= value <= _INT64.max:
            yield int(value)
