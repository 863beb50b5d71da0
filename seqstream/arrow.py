"""Arrow and NumPy over the same memory, questions about Arrow types, and operations on whole tables.

``pa.array`` and ``to_numpy`` import pandas at their first call, and ``take`` ``pyarrow.compute``; the functions here do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Return numbers ``(N,)`` as an Arrow array that shares their memory."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def to_numpy(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column of numbers as an array ``(N,)``; it shares the memory of a column of one chunk without nulls."""
    if isinstance(values, pa.ChunkedArray):
        return join([to_numpy(chunk) for chunk in values.chunks], _dtype(values.type))
    if pa.types.is_boolean(values.type) or values.null_count:
        return np.asarray(values.to_numpy(zero_copy_only=False))
    data = values.buffers()[1]
    return np.frombuffer(data if data is not None else b"", _dtype(values.type), len(values) + values.offset)[values.offset :]


def no_rows(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of columns without rows; ``schema.empty_table()`` imports pandas, which takes a third of a second."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)


def take_rows(table: pa.Table, rows: npt.NDArray[np.integer[Any]]) -> pa.Table:
    """Return the rows of a table at the indices ``rows``.

    A list of numbers is copied as one string of bytes, which is much faster than number by number.
    """
    indices = to_arrow(rows)
    return pa.table([_take(column, indices) for column in table.columns], schema=table.schema)


def take_values(values: pa.Array | pa.ChunkedArray, rows: pa.Array) -> Any:
    """Return the values of a column at the indices ``rows``, as ``values.take(rows)`` does."""
    try:
        from pyarrow._compute import call_function
    except ImportError:  # private: without it, the public name costs 0.1 s once
        from pyarrow.compute import call_function
    return call_function("take", [values, rows])


def _take(column: pa.ChunkedArray, rows: pa.Array) -> pa.Array | pa.ChunkedArray:
    """Take rows of one column; lists of numbers without nulls are taken as bytes."""
    kind = column.type
    if not pa.types.is_list(kind) or column.null_count or not _is_number(kind.value_type):
        return take_values(column, rows)
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    width = kind.value_type.bit_width // 8
    if not chunks or any(chunk.values.null_count for chunk in chunks):
        return take_values(column, rows)
    taken = take_values(pa.concat_arrays([_as_bytes(chunk, width) for chunk in chunks]), rows)
    _, offsets, data = taken.buffers()
    ends = np.frombuffer(offsets, np.int64, len(taken) + 1) // width
    if ends[-1] > np.iinfo(np.int32).max:
        return take_values(column, rows)  # the result needs several chunks
    values = pa.Array.from_buffers(kind.value_type, int(ends[-1]), [None, data])
    return pa.Array.from_buffers(kind, len(taken), [None, pa.py_buffer(ends.astype(np.int32))], children=[values])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind)) and kind.bit_width % 8 == 0


def _as_bytes(chunk: pa.ListArray, width: int) -> pa.Array:
    """Return lists of numbers of ``width`` bytes each as an array of binary values that shares their memory."""
    offsets = pa.py_buffer(to_numpy(chunk.offsets).astype(np.int64) * width)
    values = chunk.values
    data = values.buffers()[1] or pa.py_buffer(b"")
    return pa.Array.from_buffers(pa.large_binary(), len(chunk), [None, offsets, data.slice(values.offset * width)])


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def to_buffer(table: pa.Table) -> bytes:
    """Return a table as the bytes of one Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    buffer: bytes = sink.getvalue().to_pybytes()
    return buffer


def from_buffer(buffer: Any) -> pa.Table:
    """Return the table of an Arrow stream; it shares the memory of ``buffer``."""
    return pa.ipc.open_stream(pa.py_buffer(buffer)).read_all()


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with its dictionary decoded, or as the type that its extension type is stored as."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in values.chunks], type=kind.storage_type)
    return values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that an extension type is stored as, and any other type as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of a type are lists of any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def holds_steps(kind: pa.DataType) -> bool:
    """Return whether a column of a type holds sequences for tensors; lists that are all empty so far count as such."""
    return is_list(kind) and (pa.types.is_null(kind.value_type) or step_of(kind.value_type) is not None)


def step_of(kind: pa.DataType) -> tuple[pa.DataType, tuple[int, ...]] | None:
    """Return the number type and the shape of a value that fits in a tensor; ``None`` for a type that does not."""
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return (kind, tuple(shape)) if is_number else None


def join_tables(tables: list[pa.Table]) -> pa.Table:
    """Concatenate tables; a column that a table lacks is null there, and numbers get their common type.

    Raises:
        ValueError: The types of a column cannot be unified.
    """
    tables = [table for table in tables if len(table)] or tables[:1]  # a table without rows may lack columns
    joined = pa.concat_tables(tables, promote_options="permissive")
    if any(table.schema != joined.schema for table in tables):
        joined.validate()  # Arrow 26 promotes some structs of lists to invalid arrays
    return joined


def list_lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the length of each list of a column, ``int64 (N,)``."""
    ends = [to_numpy(chunk.offsets) for chunk in column.chunks]
    return join([each[1:] - each[:-1] for each in ends], np.dtype(np.int32)).astype(np.int64)


def join(arrays: list[npt.NDArray[Any]], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return arrays one after the other; a single one is not copied, and without any the result has a type and no items."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays or [np.empty(0, dtype=kind)])


def steps_of(column: pa.ChunkedArray) -> int:
    """Return the number of steps in all rows of a column of sequences."""
    return int(list_lengths(column).sum())


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are strings, also in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
