"""Send rows to other ranks: columns of numbers, or of lists of numbers, as raw memory, and other columns as Arrow streams.

Legend: ``R`` ranks, ``n`` rows to send, rank after rank.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, flat_starts
from seqstream.arrow import from_buffer, is_list, join_tables, take_rows, to_arrow, to_buffer, to_numpy
from seqstream.distributed.agreement import check_plans
from seqstream.distributed.collectives import Ranks

Rows: TypeAlias = npt.NDArray[np.integer[Any]]


def send_rows(table: pa.Table, rows: Rows, sizes: Index, ranks: Ranks, plan: bytes = b"") -> pa.Table:
    """Send rows to ranks, and return the received rows, rank after rank.

    Args:
        table: This rank's rows.
        rows: ``int32 (n,)`` or ``int64``, rows of the table, those for rank 0 first.
        sizes: ``int64 (R,)``, number of rows for each rank.
        ranks: All ranks, which call this together.
        plan: A digest of the plan, which must be the same on all ranks.

    Raises:
        RuntimeError: The plans of ranks differ.
    """
    messages = ranks.all_gather(plan + kind_of(table))
    check_plans([message[: len(plan)] for message in messages])
    kinds = sorted({message[len(plan) :] for message in messages})
    if sum(map(_has_rows, kinds)) > 1:  # `join_tables` finds a common type
        return _send_streams(table, rows, sizes, ranks)
    plain, schema = _read_kind(max(kinds, key=lambda kind: (_has_rows(kind), len(kind))))
    table = table if len(table) else schema.empty_table()  # a table without rows may lack columns
    columns = {name: _send_column(table.select([name]), rows, sizes, ranks) for name in plain}
    others = [name for name in schema.names if name not in plain]
    if others:
        received = _send_streams(table.select(others), rows, sizes, ranks)
        columns |= {name: received.column(name) for name in others}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def send_array(values: npt.NDArray[Any], sizes: Index, ranks: Ranks) -> tuple[npt.NDArray[Any], Index]:
    """Send values to ranks.

    Args:
        values: ``(n,)``, the values for rank 0, then those for rank 1, and so on.
        sizes: ``int64 (R,)``, number of values for each rank.
        ranks: All ranks, which call this together with arrays of one type.

    Returns:
        The received values, rank after rank, and the number of values from each rank, ``int64 (R,)``.
    """
    width = values.dtype.itemsize
    received, num_bytes = ranks.all_to_all(values.view(np.uint8), sizes * width)
    return received.view(values.dtype), num_bytes // width


def kind_of(table: pa.Table) -> bytes:
    """Return the kind of a table: whether it has rows, which of its columns are plain, and its schema."""
    schema: bytes = table.schema.serialize().to_pybytes()
    return bytes([len(table) > 0, *map(_is_plain, table.columns)]) + schema


def _has_rows(kind: bytes) -> bool:
    return bool(kind[0])


def _read_kind(kind: bytes) -> tuple[list[str], pa.Schema]:
    """Return the names of the plain columns, lists before numbers, and the schema."""
    begin = kind.index(b"\xff")  # the first byte of a schema
    schema = pa.ipc.read_schema(pa.py_buffer(kind[begin:]))
    plain = [name for name, is_plain in zip(schema.names, kind[1:begin], strict=True) if is_plain]
    return sorted(plain, key=lambda name: not is_list(schema.field(name).type)), schema


def _is_plain(column: pa.ChunkedArray) -> bool:
    """Return whether a column has numbers, or lists of numbers, none of them missing."""
    kind = column.type
    if column.null_count:
        return False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
        if any(chunk.values.null_count for chunk in column.chunks):
            return False
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _send_column(table: pa.Table, rows: Rows, sizes: Index, ranks: Ranks) -> pa.Array:
    """Send rows of one plain column as raw memory, and return the received rows."""
    sent = take_rows(table, rows).column(0).combine_chunks()
    kind = sent.type
    if pa.types.is_fixed_size_list(kind):
        values, _ = send_array(to_numpy(sent.flatten()), sizes * kind.list_size, ranks)
        return pa.FixedSizeListArray.from_arrays(to_arrow(values), type=kind)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return to_arrow(send_array(to_numpy(sent), sizes, ranks)[0])
    offsets, values = to_numpy(sent.offsets), to_numpy(sent.flatten())
    ends = offsets[np.append(0, np.cumsum(sizes))].astype(np.int64)
    del sent
    lengths, _ = send_array(np.diff(offsets), sizes, ranks)
    values, _ = send_array(values, np.diff(ends), ranks)
    offsets = np.append(0, np.cumsum(lengths)).astype(offsets.dtype)
    return pa.Array.from_buffers(kind, len(lengths), [None, pa.py_buffer(offsets)], children=[to_arrow(values)])


def _send_streams(table: pa.Table, rows: Rows, sizes: Index, ranks: Ranks) -> pa.Table:
    """Send rows of any columns, as one Arrow stream for each rank, and return the received rows."""
    sent, firsts = take_rows(table, rows), flat_starts(sizes)
    streams = [to_buffer(sent.slice(first, size)) for first, size in zip(firsts.tolist(), sizes.tolist(), strict=True)]
    joined = np.frombuffer(bytearray().join(streams), dtype=np.uint8)
    received, num_bytes = send_array(joined, np.array([len(stream) for stream in streams]), ranks)
    ends = np.cumsum(num_bytes).tolist()
    return join_tables([from_buffer(received[end - size : end]) for end, size in zip(ends, num_bytes.tolist(), strict=True)])
