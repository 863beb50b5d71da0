"""Lengths of the rows of Arrow tables, by which they are planned.

Legend: ``N`` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Lengths, flat_starts, ranges
from seqstream.arrow import holds_steps, list_lengths, plain, plain_type, to_numpy
from seqstream.records import RESERVED, ids_columns, lengths_column
from seqstream.sources.whole_groups import group_starts

Array: TypeAlias = npt.NDArray[Any]


def planning_numbers(table: pa.Table, columns: Sequence[str] | None, group: str | None) -> npt.NDArray[np.int64]:
    """Return the numbers that rows of a table are planned by: lengths, or the greatest of their group and its number of rows.

    Args:
        table: The rows, with whole groups.
        columns: As of `lengths_of`.
        group: The column of keys; ``None`` to plan rows one by one.

    Returns:
        As `lengths_of`; ``int64 (N, S + 1)`` for groups.

    Raises:
        ValueError: A column is missing, or has the wrong type.
    """
    lengths = lengths_of(table, columns)
    if group is None:
        return lengths
    sides = lengths if lengths.ndim == 2 else lengths[:, None]
    if not len(table):
        return np.empty((0, sides.shape[1] + 1), dtype=np.int64)
    if group not in table.column_names:
        known = ", ".join(name for name in table.column_names if name not in RESERVED)
        raise ValueError(f"Bucket(group=...) must name a column that the stages keep, which are {known}, got {group!r}")
    starts = group_starts(table.column(group))
    sizes = np.diff(starts, append=len(table))
    return np.repeat(np.column_stack([np.maximum.reduceat(sides, starts), sizes]), sizes, axis=0)


def lengths_of(table: pa.Table, columns: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """Return the lengths that rows of a table are planned by.

    Args:
        table: The rows.
        columns: Columns of sequences, each a side of its own; ``None`` takes the longest of all there are.

    Returns:
        ``int64 (N,)``; ``(N, S)`` for several columns; 1 for each row where there is no column of sequences.

    Raises:
        ValueError: A column that was named is none of sequences.
    """
    if not len(table):  # it may lack columns
        return np.empty((0, len(columns)) if columns and len(columns) > 1 else 0, dtype=np.int64)
    ragged = [field.name for field in table.schema if holds_steps(plain_type(field.type))]
    for name in ids_columns(columns or ()):
        if name not in ragged:
            known = ", ".join(ragged) or "(none)"
            raise ValueError(f"Bucket(columns=...) must name columns of sequences, which are {known}, got {name!r}")
    longest = {name: lengths_column(name) for name in columns or () if lengths_column(name) in (columns or ())}
    lengths = [_side(table, name, longest.get(name)) for name in columns or ragged]
    if columns is not None and len(columns) > 1:
        return np.stack(lengths, axis=1)
    return np.maximum.reduce(lengths) if lengths else np.ones(len(table), dtype=np.int64)


def _side(table: pa.Table, name: str, text_lengths: str | None) -> npt.NDArray[np.int64]:
    """Return the length of each row, or of its longest text, ``int64 (N,)``.

    Args:
        table: The rows.
        name: The column; one that is missing is that of the lengths of texts, where each row has one text.
        text_lengths: The column with the lengths of the texts of a row; it may be missing, too.
    """
    if name not in table.column_names:
        return np.ones(len(table), dtype=np.int64)
    if text_lengths is None or text_lengths not in table.column_names:
        return list_lengths(plain(table.column(name)))
    values = plain(table.column(text_lengths)).combine_chunks()
    bounds = to_numpy(values.offsets).astype(np.int64)
    return longest_texts(to_numpy(values.values), bounds[:-1], np.diff(bounds))


def longest_texts(lengths: Array, starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the length of the longest text of each row, ``int64 (N,)``; 0 for a row without texts.

    Args:
        lengths: ``(V,)``, of the texts.
        starts: ``int64 (N,)``, the first text of each row.
        counts: ``int64 (N,)``, its texts.
    """
    longest = np.zeros(len(counts), dtype=np.int64)
    indices = ranges(starts, counts)
    if len(indices):
        longest[counts > 0] = np.maximum.reduceat(lengths[indices], flat_starts(counts[counts > 0]))
    return longest


def total_lengths(lengths: Lengths) -> Lengths:
    """Return the lengths of rows, of all sides together, ``int64 (N,)``, given ``(N,)`` or ``(N, S)``."""
    return lengths if lengths.ndim == 1 else lengths.sum(axis=1)


def which_is_longest(table: pa.Table, row: int) -> str:
    """Return the end of a message: which column of sequences is the longest of a row, if there are several."""
    ragged = [field.name for field in table.schema if holds_steps(plain_type(field.type))]
    if len(ragged) < 2:
        return ""
    longest = max(ragged, key=lambda name: int(list_lengths(plain(table.column(name)))[row]))
    others = tuple(name for name in ragged if name != longest)
    return f"; the longest column is {longest!r}, and if it is none of tokens set Bucket(columns={others[:1]})"
