"""Chats in JSON lines, kept as they are: beside each message that a struct does not hold whole, its text.

A struct of Arrow has one set of keys for all messages of a corpus, in one order: of a call with the arguments ``{"a": 1}``
it makes ``{"city": null, "a": 1}`` where another has a ``city``, and which of the nulls were in the file cannot be told.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_numpy
from seqstream.sources.tables.json_keys import Path
from seqstream.sources.tables.json_spans import Spans
from seqstream.sources.tables.nested_values import EXACT, exact_text

_ROLE = "role"
_BESIDE = ("tools", "documents")


def keep_exact(table: pa.Table, text: bytes, typed: Collection[str], texts: Collection[Path] = ()) -> pa.Table:
    """Return the table with the text of messages and tools, where structs do not hold all of them.

    Args:
        table: Objects as Arrow reads them.
        text: The lines that they are of, one each, blank lines aside.
        typed: Columns whose type the user gave, which stay as they are.
        texts: Where the table has text of JSON instead of objects.
    """
    with_texts = {path[0] for path in texts}
    fields = [field for field in table.schema if field.name not in typed and _has_objects(field)]
    names = [field.name for field in fields if field.name in with_texts or _may_lose(table, field)]
    if not names:
        return table
    spans = Spans(text)
    for name in names:
        index = table.schema.get_field_index(name)
        lists = table.column(name).combine_chunks()
        exact = _cut(spans, name, lists)
        if len(exact) > exact.null_count:
            table = table.set_column(index, name, _with_texts(lists, exact))
    return table


def _has_objects(field: pa.Field) -> bool:
    """Return whether a column holds messages or tools."""
    kind = field.type
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    return kind.value_type.get_field_index(_ROLE) >= 0 or field.name in _BESIDE


def _may_lose(table: pa.Table, field: pa.Field) -> bool:
    """Return whether messages or tools hold more than text."""
    return any(
        own.null_count or not pa.types.is_string(own.type)
        for chunk in table.column(field.name).chunks
        for own, part in zip(chunk.values.flatten(), chunk.values.type, strict=True)
        if part.name != EXACT
    )


def _cut(spans: Spans, name: str, lists: pa.ListArray) -> pa.StringArray:
    """Return the text of each object that holds more than strings, null for the others."""
    found, lengths = spans.objects(name), np.diff(to_numpy(lists.offsets))
    if lists.null_count:
        lengths = lengths[to_numpy(lists.is_valid())]
    if not np.array_equal(found.counts, lengths):
        # Some items are null, or the name is written with escapes.
        return _encoded(spans.text, name)
    bounds = np.stack([found.starts, found.ends], axis=1).astype(np.int32)
    parts = pa.StringArray.from_buffers(max(0, bounds.size - 1), pa.py_buffer(bounds), pa.py_buffer(spans.text))
    return parts.take(pa.array(2 * np.arange(len(bounds)), mask=~found.has_more))


def _encoded(text: bytes, name: str) -> pa.StringArray:
    lists = [json.loads(line).get(name) for line in text.split(b"\n") if line.strip()]
    return pa.array([exact_text(item) for items in lists if isinstance(items, list) for item in items], pa.string())


def _with_texts(lists: pa.ListArray, texts: pa.StringArray) -> pa.ListArray:
    """Return lists of structs with a field of texts, one for each struct of all lists."""
    bounds = to_numpy(lists.offsets)
    structs = lists.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
    kept = [(field, own) for field, own in zip(structs.type, structs.flatten(), strict=True) if field.name != EXACT]
    fields = [*(field for field, _ in kept), pa.field(EXACT, pa.string())]
    columns = [*(own for _, own in kept), texts]
    filled = pa.StructArray.from_arrays(columns, fields=fields, mask=structs.is_null())
    return pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), filled, mask=lists.is_null())
