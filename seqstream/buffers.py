"""Tables as one flat buffer each, to cross to another process: the format of Arrow streams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_HEAD = 8
"""Bytes in front of each of several buffers: how long the schema is that follows; 0 if a stream does."""


def to_buffer(table: pa.Table) -> bytes:
    """Return a table as one buffer."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def from_buffer(buffer: Any) -> pa.Table:
    """Return the table that lies in a buffer, on its memory."""
    return pa.ipc.open_stream(pa.py_buffer(buffer)).read_all()


def to_buffers(table: pa.Table, sizes: Sequence[int]) -> list[bytes]:
    """Return the rows of a table, the first so many, the next so many and so on, each as a buffer for `from_buffers`."""
    batches = table.to_batches()
    firsts = [0, *itertools.accumulate(sizes)]
    if len(batches) > 1 or any("dictionary<" in str(field.type) for field in table.schema):
        parts = (table.slice(first, size) for first, size in zip(firsts, sizes, strict=False))
        return [bytes(_HEAD) + to_buffer(part) for part in parts]
    schema = table.schema.serialize().to_pybytes()
    head = len(schema).to_bytes(_HEAD, "little") + schema
    if not batches:
        return [head for _ in sizes]
    whole = batches[0]
    messages = (whole.slice(first, size).serialize() for first, size in zip(firsts, sizes, strict=False))
    return [b"".join([head, message]) for message in messages]


def from_buffers(parts: Sequence[bytes]) -> list[pa.Table]:
    """Return the rows of all parts, as one table where their columns are alike, else as several, in any order."""
    alike: dict[bytes, tuple[pa.Schema, list[pa.RecordBatch]]] = {}
    tables = []
    for part in parts:
        stop = _HEAD + int.from_bytes(part[:_HEAD], "little")
        buffer = pa.py_buffer(part)
        if stop == _HEAD:
            tables.append(from_buffer(buffer.slice(_HEAD)))
            continue
        head = part[_HEAD:stop]
        if head not in alike:
            alike[head] = pa.ipc.read_schema(buffer.slice(_HEAD, stop - _HEAD)), []
        schema, batches = alike[head]
        if stop < len(part):
            batches.append(pa.ipc.read_record_batch(buffer.slice(stop), schema))
    return [*(pa.Table.from_batches(batches, schema) for schema, batches in alike.values()), *tables]
