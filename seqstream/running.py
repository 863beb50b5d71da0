"""Running the stages over the tables of blocks, and saying where in the data an error was."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.columns import holds_steps, is_list
from seqstream.data_padding import without_padding
from seqstream.stages import Counts, OpenStage, RecordError
from seqstream.steps import LABEL_PADDING

if TYPE_CHECKING:
    from seqstream.unlabelled import RowLabels


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


@contextlib.contextmanager
def placed(row_ids: pa.ChunkedArray, locate: Callable[[int], str]) -> Iterator[None]:
    """Add to an error the place in the data: of the record that is to blame, or of the records it was one of."""
    try:
        yield
    except Exception as error:
        row_id = getattr(error, "row_id", None)  # of a `RecordError`, or of what a user's function raised for one record
        if isinstance(row_id, int):
            error.add_note(f"while reading {_place(locate, row_id)}")
        elif len(row_ids) and not isinstance(error, RecordError):
            first, last = (_place(locate, row_ids[at].as_py()) for at in (0, -1))
            error.add_note(f"while working on the {len(row_ids):,} records from {first} to {last}")
        raise


def _place(locate: Callable[[int], str], row_id: int) -> str:
    try:
        return locate(row_id)
    except Exception:  # noqa: BLE001 - the file may be gone; the error that is told about matters more
        return f"row {row_id}"


def join_tables(tables: list[pa.Table]) -> pa.Table:
    """Return tables one after the other; a column that some of them lack is null there, numbers take their common type.

    Raises:
        ValueError: Columns of one name are of types that do not go together.
    """
    tables = [table for table in tables if len(table)] or tables[:1]  # what has no rows may lack columns
    joined = pa.concat_tables(tables, promote_options="permissive")
    if any(table.schema != joined.schema for table in tables):
        joined.validate()  # Arrow 26 promotes some structs of lists to broken ones
    return joined


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
    values = {name: fill, "labels": LABEL_PADDING, "token_type_ids": 0}
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


def steps_of(column: pa.ChunkedArray) -> int:
    """Return how many steps all rows of a column of sequences have."""
    return sum(int(to_numpy(chunk.offsets)[-1]) - int(to_numpy(chunk.offsets)[0]) for chunk in column.chunks if len(chunk))


def sequence_column(schema: pa.Schema) -> str | None:
    """Return the column whose lengths a batch's lengths are: ``input_ids``, ``features``, or the first of sequences."""
    kinds = {field.name: field.type for field in schema if holds_steps(field.type)}
    # What is an empty list everywhere may be of texts.
    ragged = [name for name, kind in kinds.items() if not pa.types.is_null(kind.value_type)] or list(kinds)
    for name in ("input_ids", "features"):
        if name in ragged:
            return name
    return ragged[0] if ragged else None
