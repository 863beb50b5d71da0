"""Counts the labels of batches before they are built, so that all ranks know by what the loss of a step is divided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from seqstream.arrays import Index, Mask
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.pack import Pack
from seqstream.planning.plan import MADE_UP
from seqstream.records import IGNORE_INDEX, LABEL_COLUMNS
from seqstream.stages.label_filter import LabelRule
from seqstream.windows.columns import Column, Dense, Ragged
from seqstream.windows.window import Window


def count_labels(window: Window, rule: LabelRule | None) -> list[int]:
    """Return the number of labels of each batch of a window; -1 where it is not known before the batch is built.

    Args:
        window: The window.
        rule: Which labels a batch has; ``None`` where that is not known before the batch is built.
    """
    if rule is None or rule.is_drawn or not len(window.plan):
        return [-1] * len(window.plan)
    name, is_shifted = _label_column(window.columns, window.spec, rule)
    order = window.plan.order
    counts = np.zeros(len(order), dtype=np.int64)
    if name is not None:
        column = window.columns[name]
        if isinstance(column, Ragged):
            rows = window.slices.spans[name]
            counts = _count_in_spans(name, column, rows.starts, rows.lengths, is_shifted=is_shifted)
        elif isinstance(column, Dense):
            counts = np.append(_count_in_rows(column), 0)[order]
        counts[order == MADE_UP] = 0
        if window.is_repeated is not None:
            counts[window.is_repeated[order]] = 0
    of_batches: list[int] = np.add.reduceat(counts, window.plan.cuts[:-1]).tolist()
    return of_batches


def count_labels_of(
    columns: Mapping[str, Column], spec: BatchSpec, rule: LabelRule | None, *, rows: Index, begins: Index, lengths: Index
) -> int:
    """Return the number of labels that parts of rows have together; -1 where it is not known before a batch is built.

    Args:
        columns: Columns that have the rows.
        spec: How rows are batched.
        rule: Which labels a batch has; ``None`` where that is not known before the batch is built.
        rows: ``int64 (n,)``, the row of each part.
        begins: ``int64 (n,)``, its first step in the row.
        lengths: ``int64 (n,)``, its largest number of steps; it ends with the row.
    """
    if rule is None or rule.is_drawn:
        return -1
    name, is_shifted = _label_column(columns, spec, rule)
    column = None if name is None else columns[name]
    if isinstance(column, Dense):
        return int(_count_in_rows(column)[rows].sum())
    if name is None or not isinstance(column, Ragged):
        return 0
    taken = np.minimum(column.lengths[rows] - begins, lengths)
    return int(_count_in_spans(name, column, column.starts[rows] + begins, taken, is_shifted=is_shifted).sum())


def _label_column(columns: Mapping[str, Column], spec: BatchSpec, rule: LabelRule) -> tuple[str | None, bool]:
    """Return the column whose steps have labels, and whether the first step of each row has none."""
    if isinstance(spec, Pack) and spec.causal and rule.column is None and "input_ids" in columns:
        return "labels" if "labels" in columns else "input_ids", True
    return rule.column or next((name for name in LABEL_COLUMNS if name in columns), None), rule.is_shifted


def _count_in_rows(column: Dense) -> Index:
    """Return the number of labels of each row, ``int64 (N,)``."""
    counts: Index = (column.values != IGNORE_INDEX).sum(axis=tuple(range(1, column.values.ndim)))
    return counts


def _count_in_spans(name: str, column: Ragged, starts: Index, lengths: Index, *, is_shifted: bool) -> Index:
    """Return the number of labels of spans of steps, ``int64 (n,)``."""
    if name not in LABEL_COLUMNS:
        return lengths - is_shifted
    before = np.append(0, np.cumsum((column.values != IGNORE_INDEX).sum(axis=1)))
    counts: Index = before[starts + lengths] - before[starts + np.minimum(is_shifted, lengths)]
    return counts


def without_labels(columns: Mapping[str, Column], is_repeated: Mask) -> dict[str, Column]:
    """Return the columns with -100 for all labels of repeated rows that are whole numbers.

    Args:
        columns: The columns.
        is_repeated: ``bool (N,)``.
    """
    changed = dict(columns)
    for name in LABEL_COLUMNS:
        column = columns.get(name)
        if isinstance(column, Dense) and column.values.dtype.kind == "i":
            values = column.values.copy()
            values[is_repeated] = IGNORE_INDEX
            changed[name] = Dense(values)
        elif isinstance(column, Ragged) and column.values.dtype.kind == "i":
            values = column.values.copy()
            for start, length in zip(column.starts[is_repeated].tolist(), column.lengths[is_repeated].tolist(), strict=True):
                values[start : start + length] = IGNORE_INDEX
            changed[name] = dataclasses.replace(column, values=values)
    return changed
