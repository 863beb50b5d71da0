"""Messages and tools of JSON lines, kept exactly: their structs get a field with the JSON text of the file.

An Arrow struct has one set of keys for all messages of a corpus, in one order: the arguments ``{"a": 1}`` of a call become
``{"city": null, "a": 1}`` if another call has a ``city``, and which nulls were in the file is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_numpy
from seqstream.sources.tables.arrow_to_python import CHAT_COLUMNS, EXACT
from seqstream.sources.tables.json_spans import Spans
from seqstream.sources.tables.nested_types import Path


def keep_exact(table: pa.Table, text: bytes, typed: Collection[str], texts: Collection[Path] = ()) -> pa.Table:
    """Return the table with the field `EXACT` in messages and tools, where a struct does not hold all of them.

    Args:
        table: Objects as Arrow reads them.
        text: The lines of these objects, one for each row, besides blank lines.
        typed: Columns whose type the user gave; they stay as they are.
        texts: Paths at which the table has text of JSON instead of objects.
    """
    with_texts = {path[0] for path in texts}
    fields = [field for field in table.schema if field.name not in typed and _has_messages(field)]
    names = [field.name for field in fields if field.name in with_texts or _may_lose(table, field)]
    if not names:
        return table
    spans = Spans(text)
    for name in names:
        index = table.schema.get_field_index(name)
        lists = table.column(name).combine_chunks()
        exact = _exact_texts(spans, name, lists)
        if len(exact) > exact.null_count:
            table = table.set_column(index, name, _with_exact(lists, exact))
    return table


def _has_messages(field: pa.Field) -> bool:
    """Return whether a column holds messages or tools."""
    kind = field.type
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return False
    return kind.value_type.get_field_index("role") >= 0 or field.name in CHAT_COLUMNS


def _may_lose(table: pa.Table, field: pa.Field) -> bool:
    """Return whether messages or tools hold anything but strings."""
    return any(
        own.null_count or not pa.types.is_string(own.type)
        for chunk in table.column(field.name).chunks
        for own, part in zip(chunk.values.flatten(), chunk.values.type, strict=True)
        if part.name != EXACT
    )


def _exact_texts(spans: Spans, name: str, lists: pa.ListArray) -> pa.StringArray:
    """Return the text of each object in the lists of a field, null for objects of strings alone."""
    found, lengths = spans.objects(name), np.diff(to_numpy(lists.offsets))
    if lists.null_count:
        lengths = lengths[to_numpy(lists.is_valid())]
    if not np.array_equal(found.counts, lengths):
        # Some items are null, or the name is written with escapes.
        return _encode_again(spans.text, name)
    bounds = np.stack([found.starts, found.ends], axis=1).astype(np.int32)
    parts = pa.StringArray.from_buffers(max(0, bounds.size - 1), pa.py_buffer(bounds), pa.py_buffer(spans.text))
    return parts.take(pa.array(2 * np.arange(len(bounds)), mask=~found.has_more))


def _encode_again(text: bytes, name: str) -> pa.StringArray:
    """Return what `_exact_texts` does, by parsing each line."""
    lists = [json.loads(line).get(name) for line in text.split(b"\n") if line.strip()]
    items = [item for each in lists if isinstance(each, list) for item in each]
    is_exact = [isinstance(item, dict) and not all(isinstance(value, str) for value in item.values()) for item in items]
    texts = [json.dumps(item, ensure_ascii=False) if keep else None for item, keep in zip(items, is_exact, strict=True)]
    return pa.array(texts, pa.string())


def _with_exact(lists: pa.ListArray, texts: pa.StringArray) -> pa.ListArray:
    """Return lists of structs with the field `EXACT`, of one text for each struct of all lists."""
    bounds = to_numpy(lists.offsets)
    structs = lists.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
    kept = [(field, own) for field, own in zip(structs.type, structs.flatten(), strict=True) if field.name != EXACT]
    fields = [*(field for field, _ in kept), pa.field(EXACT, pa.string())]
    columns = [*(own for _, own in kept), texts]
    filled = pa.StructArray.from_arrays(columns, fields=fields, mask=structs.is_null())
    return pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), filled, mask=lists.is_null())
