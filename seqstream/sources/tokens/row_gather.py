"""Rows of a mapped file by their numbers: copied straight from the file, without reading the blocks that they lie in."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import take_values, to_arrow


@dataclasses.dataclass(frozen=True)
class ColumnLayout:
    """Where the values of a column lie in a file.

    Attributes:
        kind: Type of the column.
        values: ``int64 (blocks,)``, byte of the file at which the values of each block begin.
        offsets: ``int64 (blocks,)``, byte at which the 32-bit offsets of each block begin; ``None`` for rows of one width.
    """

    kind: pa.DataType
    values: Index
    offsets: Index | None

    @property
    def num_bytes(self) -> int:
        """Bytes of memory."""
        return self.values.nbytes + (0 if self.offsets is None else self.offsets.nbytes)


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """Where the rows of a file lie in it.

    Attributes:
        columns: The layout of each column; its values in each block where Arrow must read it.
        schema: The columns.
        file_bytes: Size of the file.
    """

    columns: tuple[ColumnLayout | tuple[pa.Array, ...], ...]
    schema: pa.Schema
    file_bytes: int

    @property
    def holds_file(self) -> bool:
        """Whether it shares the memory of the file, and keeps it mapped."""
        return not all(isinstance(column, ColumnLayout) for column in self.columns)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory of its own."""
        return sum(column.num_bytes for column in self.columns if isinstance(column, ColumnLayout))


def layout_of(data: pa.Buffer, batches: Sequence[pa.RecordBatch]) -> FileLayout:
    """Return where the rows of a file lie, given all its blocks.

    Columns of numbers, of lists of numbers, of strings and of bytes are copied, where none is missing; Arrow reads others.

    Args:
        data: The whole file, mapped into memory.
        batches: The blocks, which share this memory.
    """
    schema = batches[0].schema
    arrays = [tuple(batch.column(number) for batch in batches) for number in range(len(schema))]
    return FileLayout(tuple(_column_layout(data, each) or each for each in arrays), schema, len(data))


def _column_layout(data: pa.Buffer, arrays: Sequence[pa.Array]) -> ColumnLayout | None:
    kind = arrays[0].type
    is_list = pa.types.is_list(kind) and _width(kind.value_type)
    is_ragged = bool(is_list) or pa.types.is_string(kind) or pa.types.is_binary(kind)
    if not (is_ragged or _width(kind)) or any(array.null_count for array in arrays):
        return None
    if is_list and any(array.values.null_count for array in arrays):
        return None
    buffers = [array.buffers() for array in arrays]
    values = np.array([_position(data, each[-1]) for each in buffers], dtype=np.int64)
    return ColumnLayout(kind, values, np.array([_position(data, each[1]) for each in buffers]) if is_ragged else None)


def _width(kind: pa.DataType) -> int:
    """Return the bytes of a number; 0 for a type of other values."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return int(kind.bit_width // 8) if is_number else 0


def _position(data: pa.Buffer, part: pa.Buffer | None) -> int:
    return 0 if part is None or not part.size else int(part.address - data.address)  # one without values lies elsewhere


def gather_rows(layout: FileLayout, data: pa.Buffer, blocks: Index, rows: Index) -> pa.Table:
    """Return rows of a file.

    Args:
        layout: Where the rows lie.
        data: The whole file, mapped into memory.
        blocks: ``int64 (n,)``, the block of each row, ascending.
        rows: ``int64 (n,)``, the number of each row in its block, ascending in a block.

    Returns:
        The rows, in this order.

    Raises:
        ValueError: Offsets in the file are none of rows in it, or it has another size than before.
    """
    if len(data) != layout.file_bytes:
        raise ValueError(f"the file must have {layout.file_bytes:,} bytes, as when it was opened, got {len(data):,}")
    columns = [
        _gather(data, column, blocks, rows) if isinstance(column, ColumnLayout) else _take(column, blocks, rows)
        for column in layout.columns
    ]
    return pa.table(columns, schema=layout.schema)


def _take(arrays: Sequence[pa.Array], blocks: Index, rows: Index) -> pa.ChunkedArray:
    cuts = np.flatnonzero(np.diff(blocks, prepend=-1, append=-1))
    chunks = [
        take_values(arrays[int(blocks[begin])], to_arrow(rows[begin:end])) for begin, end in itertools.pairwise(cuts.tolist())
    ]
    return pa.chunked_array(chunks, arrays[0].type)


def _gather(data: pa.Buffer, column: ColumnLayout, blocks: Index, rows: Index) -> pa.Array:
    kind = column.kind
    if column.offsets is None:
        numbers = np.frombuffer(data, kind.to_pandas_dtype(), len(data) // _width(kind))
        return to_arrow(numbers[column.values[blocks] // _width(kind) + rows])
    width = _width(kind.value_type) if pa.types.is_list(kind) else 1
    all_offsets = np.frombuffer(data, np.int32, len(data) // 4)
    at = column.offsets[blocks] // 4 + rows
    begin = column.values[blocks] + width * all_offsets[at].astype(np.int64)
    end = column.values[blocks] + width * all_offsets[at + 1].astype(np.int64)
    # The rows, and what lies between them, as values of bytes that share the memory of the file: Arrow copies each at once.
    bounds = np.stack([begin, end], axis=1).ravel()
    if len(bounds) and (bounds[0] < 0 or bounds[-1] > len(data) or (np.diff(bounds) < 0).any()):
        raise ValueError("offsets of rows must ascend and lie in the file")
    spans = pa.Array.from_buffers(pa.large_binary(), max(0, len(bounds) - 1), [None, pa.py_buffer(bounds), data])
    taken = take_values(spans, to_arrow(np.arange(0, len(bounds), 2)))
    return _from_spans(kind, width, taken)


def _from_spans(kind: pa.DataType, width: int, taken: pa.Array) -> pa.Array:
    """Return values of bytes as values of a type."""
    _, offsets, data = taken.buffers()
    ends: Any = np.frombuffer(offsets, np.int64, len(taken) + 1) // width
    small = pa.py_buffer(ends.astype(np.int32))
    if not pa.types.is_list(kind):
        return pa.Array.from_buffers(kind, len(taken), [None, small, data])
    values = pa.Array.from_buffers(kind.value_type, int(ends[-1]), [None, data])
    return pa.Array.from_buffers(kind, len(taken), [None, small], children=[values])
