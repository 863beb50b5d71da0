"""Running the stages over the tables of blocks, then removing padding, empty rows and rows without labels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, flat_starts
from seqstream.arrow import is_list, list_lengths, to_arrow, to_numpy
from seqstream.records import IGNORE_INDEX, Counts, OpenStage, sequence_column
from seqstream.stages.data_padding import without_padding
from seqstream.stages.label_filter import LabelFilter
from seqstream.stages.step_filter import set_column


def run_stages(
    tables: list[pa.Table], stages: tuple[OpenStage, ...], fill: int | None = None, labels: LabelFilter | None = None
) -> tuple[list[pa.Table], list[Counts]]:
    """Return the tables after all stages, without padding that the data has, and for each the counts of records by outcome.

    A row of length 0 would make `torch.nn.utils.rnn.pack_padded_sequence` raise and attention return NaN: it is dropped, or
    gets one token.

    Args:
        tables: The tables of consecutive blocks.
        stages: Opened stages, in the order in which they run.
        fill: The token that a row of length 0 gets; ``None`` to drop such rows.
        labels: Drops rows without labels; ``None`` to keep them.
    """
    totals: list[Counter[str]] = [Counter() for _ in tables]
    for stage in stages:
        tables, counts = stage(tables)
        for total, own in zip(totals, counts, strict=True):
            total.update(own)
    finished = [_finish(without_padding(table), total, fill, labels) for table, total in zip(tables, totals, strict=True)]
    return finished, [{name: count for name, count in total.items() if count} for total in totals]


def _finish(table: pa.Table, total: Counter[str], fill: int | None, labels: LabelFilter | None) -> pa.Table:
    """Return the rows that have a length and a label, and count the others."""
    kept = _without_empty_rows(table, fill)
    total["empty"] += len(table) - len(kept)
    if labels is not None:
        kept, counts = labels.apply(kept)
        total.update(counts)
    return kept


def _without_empty_rows(table: pa.Table, fill: int | None) -> pa.Table:
    """Drop rows of length 0, or give each one step: ``fill`` in the ids, and what padding holds in columns parallel to them."""
    name = sequence_column(table.schema)
    if name is None or not len(table):
        return table
    column = table.column(name)
    lengths = list_lengths(column)
    if column.null_count:
        lengths[column.is_null().to_numpy()] = 1  # null is an error later
    if lengths.min() > 0:
        return table
    if fill is None:
        return table.take(to_arrow(np.flatnonzero(lengths > 0)))
    for column, value in {name: fill, "labels": IGNORE_INDEX, "token_type_ids": 0}.items():
        if column in table.column_names and is_list(table.schema.field(column).type):
            table = set_column(table, column, _with_steps(table.column(column), lengths, value))
    return table


def _with_steps(column: pa.ChunkedArray, lengths: Index, value: int) -> pa.Array:
    """Return the lists of a column, with one step ``value`` in each of length 0."""
    steps = np.insert(to_numpy(column.combine_chunks().flatten()), flat_starts(lengths)[lengths == 0], value)
    offsets = np.append(0, np.cumsum(np.maximum(lengths, 1))).astype(np.int32)
    return pa.ListArray.from_arrays(to_arrow(offsets), to_arrow(steps))
