"""Records that are Python objects, as streams and transforms give them, made into Arrow tables without a loss."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from seqstream.sources.tables.json_keys import Path, as_tree, find_sparse, text_at
from seqstream.sources.tables.json_values import are_nested_chats, encode_json

_MANY_NAMES = 32
"""A dict in the first rows may have so many different names, whatever they are."""
_INT64 = np.iinfo(np.int64)
_NUMBERS = frozenset((int, float, bool))
_SCALARS = _NUMBERS | {str, bytes, type(None)}


def batches_of(records: Iterable[Mapping[str, Any]], rows: int) -> Iterator[dict[str, list[Any]]]:
    """Yield records as columns, some at once, each as it was when it was given: its objects may be filled again."""
    batch: list[dict[str, Any]] = []
    for record in records:
        is_flat = type(record) is dict and _SCALARS.issuperset(map(type, record.values()))
        batch.append(dict(record) if is_flat else own_copy(record))
        if len(batch) == rows:
            yield _columns(batch)
            batch = []
    if batch:
        yield _columns(batch)


def own_copy(value: Any) -> Any:
    """Return a value whose lists, dicts, arrays and tensors are its own."""
    kind = type(value)  # quicker than isinstance, for what is common
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: part if type(part) in _SCALARS else own_copy(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if not value or type(value[0]) in _NUMBERS else [own_copy(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return own_copy(dict(value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def find_texts(batch: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return where dicts in columns have keys that are data."""
    records = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    return tuple(sparse.path for sparse in find_sparse(records, _MANY_NAMES)[0] if sparse.path)


def to_table(batch: Mapping[str, Any], schema: pa.Schema | None, remedy: str, texts: Collection[Path] = ()) -> pa.Table:
    """Return columns of Python objects as a table, in the types of the schema where it has them.

    Args:
        batch: Values of each column.
        schema: Types that somebody has declared.
        remedy: What a user can do about values that do not fit.
        texts: Where text of JSON stands for a value.

    Raises:
        ValueError: A column holds several kinds of values, or a number that its type does not; it names the ``remedy``.
    """
    from datasets.features.features import cast_to_python_objects

    columns, tree = {}, as_tree(texts)
    for name, values in cast_to_python_objects(dict(batch), only_1d_for_numpy=True).items():
        kind = None if schema is None or name not in schema.names else schema.field(name).type
        try:
            if name in tree and not are_nested_chats(values):
                values = [text_at(value, tree[name]) for value in values]
            columns[name] = _array(*encode_json(values, kind))
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


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return values as an array; fractions are not cut off where whole numbers are wanted, as ``pa.array`` does."""
    if kind is None or not _holds_integers(kind) or pa.types.is_uint64(kind):
        return pa.array(values, kind)
    return pa.array(values).cast(kind)


def _holds_integers(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind))


def _too_large(values: Any) -> Iterator[int]:
    """Yield whole numbers that 64 bits do not hold, at any depth."""
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            yield from _too_large(value)
        elif isinstance(value, Mapping):
            yield from _too_large(value.values())
        elif isinstance(value, int | np.integer) and not _INT64.min <= value <= _INT64.max:
            yield int(value)
