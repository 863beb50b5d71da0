"""Running the stages over the tables of blocks, and saying where in the data an error was."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import is_list, to_arrow, to_numpy
from seqstream.records import IGNORE_INDEX, Counts, sequence_column
from seqstream.stages.data_padding import without_padding

if TYPE_CHECKING:
    from seqstream.stages.row_labels import RowLabels
from seqstream.records import OpenStage


def run_stages(
    tables: list[pa.Table], stages: tuple[OpenStage, ...], fill: int | None = None, labels: RowLabels | None = None
) -> tuple[list[pa.Table], Counts]:
    """Return the tables after all stages, without padding that the data has, rows of no length and rows without labels.

    Also return what was counted on the way.

    A row of length 0 would make `torch.nn.utils.rnn.pack_padded_sequence` raise and attention give NaN: it is dropped, or
    filled with one token.
    """
    total: Counter[str] = Counter()
    for stage in stages:
        tables, counts = stage(tables)
        total.update(counts)
    tables = [without_padding(table) for table in tables]
    kept = [_without_empty(table, fill) for table in tables]
    total["empty"] += sum(map(len, tables)) - sum(map(len, kept))
    if labels is not None:
        checked = [labels.apply(table) for table in kept]
        kept = [table for table, _ in checked]
        for _, counts in checked:
            total.update(counts)
    return kept, {name: count for name, count in total.items() if count}


def _without_empty(table: pa.Table, fill: int | None) -> pa.Table:
    name = sequence_column(table.schema)
    if name is None or not len(table):
        return table
    column = table.column(name)
    lengths = np.concatenate([np.diff(to_numpy(chunk.offsets)) for chunk in column.chunks])
    if column.null_count:
        lengths[column.is_null().to_numpy()] = 1  # a missing one is an error later
    if lengths.min() > 0:
        return table
    if fill is None:
        return table.take(to_arrow(np.flatnonzero(lengths > 0)))
    values = {name: fill, "labels": IGNORE_INDEX, "token_type_ids": 0}
    for beside in (each for each in values if each in table.column_names and is_list(table.schema.field(each).type)):
        filled = _with_steps(table.column(beside), lengths, values[beside])
        table = table.set_column(table.schema.get_field_index(beside), beside, filled)
    return table


def _with_steps(column: pa.ChunkedArray, lengths: npt.NDArray[np.int64], value: int) -> pa.Array:
    """Give one step to each row that has none."""
    begins = np.cumsum(lengths) - lengths
    steps = np.insert(to_numpy(column.combine_chunks().flatten()), begins[lengths == 0], value)
    offsets = np.append(0, np.cumsum(np.maximum(lengths, 1))).astype(np.int32)
    return pa.ListArray.from_arrays(to_arrow(offsets), to_arrow(steps))
