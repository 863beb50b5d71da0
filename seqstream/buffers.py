"""Tables as one flat buffer each, to cross to another process: the format of Arrow streams."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


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
