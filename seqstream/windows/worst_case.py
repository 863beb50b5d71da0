"""A window of one record, repeated: a batch of any wanted shape, before there is data of that shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pack import Pack
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import PIECE, ROW_ID, lengths_column, sequence_column
from seqstream.windows.columns import Column, Dense, Objects, Ragged, read_column
from seqstream.windows.settings import WindowStart
from seqstream.windows.window import Window


def repeat_record(table: pa.Table, spec: BatchSpec, rows: int, length: int) -> Window:
    """Return a window of one batch, whose rows are the first record of a table with its sequences repeated or cut.

    Args:
        table: At least one record, after the stages.
        spec: Packs or pads the batch, and names its sequences.
        rows: Number of rows of the batch.
        length: Steps of every sequence in every row.
    """
    names = [name for name in table.column_names if name not in (ROW_ID, PIECE)]
    columns = {name: _repeated(read_column(name, table.column(name).slice(0, 1)), rows, length) for name in names}
    texts = Ragged(np.full((rows + 2, 1), length), np.arange(1, rows + 1), np.ones(rows, dtype=np.int64), ())
    columns |= {name: texts for name in map(lengths_column, spec.columns or ()) if name in names}  # one text in each row
    sequence = spec.columns[0] if spec.columns else sequence_column(table.schema)
    one_batch = spec if isinstance(spec, Pack) else dataclasses.replace(_Whole(rows), columns=spec.columns)
    lengths = np.full(rows, length)
    plan = one_batch.plan(lengths, key=None)
    ids = np.arange(rows)
    length_counts, pieces = LengthCounts.of(lengths), np.zeros_like(ids)
    return Window(
        WindowStart(), None, 0, length_counts, columns, sequence, ids, pieces, None, one_batch, plan, [rows], {}, [0], [True]
    )


@dataclasses.dataclass(frozen=True)
class _Whole(Unbucketed):
    """All rows in one batch."""

    columns: tuple[str, ...] | None = None  # a property of other batch specs


def _repeated(column: Column, rows: int, length: int) -> Column:
    """Return the first row of a column ``rows`` times; a ragged one has ``length`` steps in each."""
    if isinstance(column, Dense):
        return Dense(np.repeat(column.values, rows, axis=0))
    if isinstance(column, Objects):
        return Objects(pa.chunked_array([column.values.combine_chunks().take(to_arrow(np.zeros(rows, dtype=np.int64)))]))
    begin, steps = int(column.starts[0]), max(int(column.lengths[0]), 1)
    values = np.resize(column.values[begin : begin + steps], (3 * length, column.values.shape[1]))
    return Ragged(values, np.full(rows, length), np.full(rows, length), column.shape)
