"""Removing steps from columns of lists: padding that is in the data, and pieces of rows without labels.

Shapes: ``N`` rows of a table, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, Mask
from seqstream.arrow import to_arrow, to_numpy
from seqstream.records import ROW_ID


@dataclasses.dataclass(frozen=True)
class Steps:
    """A column of lists, one item for each step.

    Attributes:
        offsets: ``int64 (N + 1,)``, from 0 to ``T``.
        values: The ``T`` items of all lists.
        is_null: ``bool (N,)``, which lists are null; ``None`` if none is.
    """

    offsets: Index
    values: pa.Array
    is_null: Mask | None = None

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Steps:
        """Return the steps of a column of lists, of fixed size or not; without a copy if it is one chunk."""
        lists = column.combine_chunks()
        is_null = np.asarray(lists.is_null().to_numpy(zero_copy_only=False)) if lists.null_count else None
        if pa.types.is_fixed_size_list(lists.type):
            size = lists.type.list_size
            return cls(np.arange(len(lists) + 1) * size, lists.values.slice(lists.offset * size, len(lists) * size), is_null)
        bounds = to_numpy(lists.offsets).astype(np.int64)
        first = int(bounds[0]) if len(bounds) else 0
        return cls(bounds - first, lists.values.slice(first, int(bounds[-1]) - first), is_null)

    @property
    def lengths(self) -> Index:
        """Steps of each row, ``int64 (N,)``."""
        return np.diff(self.offsets)

    def count(self, counted: Mask, begins: Index, ends: Index) -> Index:
        """Return how many true steps each of ``n`` ranges has, ``int64 (n,)``.

        Args:
            counted: ``bool (T,)``, the steps to count.
            begins: ``int64 (n,)``, first step of each range.
            ends: ``int64 (n,)``, its end.
        """
        before = np.zeros(len(counted) + 1, np.int64)
        np.cumsum(counted, out=before[1:])
        counts: Index = before[ends] - before[np.minimum(begins, ends)]
        return counts

    def filtered(self, kept: Mask) -> pa.ListArray:
        """Return the lists with only the steps where ``kept``, ``bool (T,)``, is true."""
        lengths = self.count(kept, self.offsets[:-1], self.offsets[1:])
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
        return pa.ListArray.from_arrays(to_arrow(offsets), self.values.take(to_arrow(np.flatnonzero(kept))))


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return a table with a column replaced by ``values``."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def row_id_at(table: pa.Table, row: int) -> int | None:
    """Return the row id of a row of a table, ``None`` without such a column."""
    return int(table.column(ROW_ID)[row].as_py()) if ROW_ID in table.column_names else None
