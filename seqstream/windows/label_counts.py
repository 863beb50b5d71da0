"""How many labels a batch will have, known before it is made; so all ranks know what the loss of a step is divided by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.pack import Pack
from seqstream.planning.plan import MADE_UP
from seqstream.records import IGNORE_INDEX, LABEL_COLUMNS
from seqstream.stages.row_labels import LabelRule
from seqstream.windows.columns import Column, Dense, Ragged
from seqstream.windows.window import Window


def count_labels(window: Window, rule: LabelRule | None) -> list[int]:
    """Return how many labels each batch of a window has; -1 where nobody can know.

    Args:
        window: The window.
        rule: Where labels come from; ``None`` if nobody knows before a batch is made.
    """
    if rule is None or rule.is_drawn or not len(window.plan):
        return [-1] * len(window.plan)
    name, is_shifted = _labelled(window.columns, window.spec, rule)
    order = window.plan.order
    counts = np.zeros(len(order), dtype=np.int64)
    if name is not None:
        column = window.columns[name]
        if isinstance(column, Ragged):
            rows = window.planned.spans[name]
            counts = _in_steps(name, column, rows.starts, rows.lengths, is_shifted=is_shifted)
        elif isinstance(column, Dense):
            counts = np.append(_in_rows(column), 0)[order]
        counts[order == MADE_UP] = 0
        if window.is_repeated is not None:
            counts[window.is_repeated[order]] = 0
    found: list[int] = np.add.reduceat(counts, window.plan.cuts[:-1]).tolist()
    return found


def count_labels_of(
    columns: Mapping[str, Column], spec: BatchSpec, rule: LabelRule | None, *, rows: Index, begins: Index, lengths: Index
) -> int:
    """Return how many labels parts of some rows have; -1 where nobody can know.

    Args:
        columns: Columns that have the rows.
        spec: How rows are batched.
        rule: Where labels come from; ``None`` if nobody knows before a batch is made.
        rows: ``int64 (n,)``, the row of each part.
        begins: ``int64 (n,)``, its first step there.
        lengths: ``int64 (n,)``, its most steps.
    """
    if rule is None or rule.is_drawn:
        return -1
    name, is_shifted = _labelled(columns, spec, rule)
    column = None if name is None else columns[name]
    if isinstance(column, Dense):
        return int(_in_rows(column)[rows].sum())
    if name is None or not isinstance(column, Ragged):
        return 0
    taken = np.minimum(column.lengths[rows] - begins, lengths)
    return int(_in_steps(name, column, column.starts[rows] + begins, taken, is_shifted=is_shifted).sum())


def _labelled(columns: Mapping[str, Column], spec: BatchSpec, rule: LabelRule) -> tuple[str | None, bool]:
    """Return the column that labels are of, and whether the first step of each row is none."""
    if isinstance(spec, Pack) and spec.causal and rule.column is None and "input_ids" in columns:
        return "labels" if "labels" in columns else "input_ids", True
    return rule.column or next((name for name in LABEL_COLUMNS if name in columns), None), rule.is_shifted


def _in_rows(column: Dense) -> Index:
    """Return how many labels each row has."""
    counts: Index = (column.values != IGNORE_INDEX).sum(axis=tuple(range(1, column.values.ndim)))
    return counts


def _in_steps(name: str, column: Ragged, starts: Index, lengths: Index, *, is_shifted: bool) -> Index:
    """Return how many labels some stretches of steps have."""
    if name not in LABEL_COLUMNS:
        return lengths - is_shifted
    before = np.append(0, np.cumsum((column.values != IGNORE_INDEX).sum(axis=1)))
    counts: Index = before[starts + lengths] - before[starts + np.minimum(is_shifted, lengths)]
    return counts


def without_labels(columns: Mapping[str, Column], is_repeated: npt.NDArray[np.bool_]) -> dict[str, Column]:
    """Return columns in which repeated rows have no labels: -100 wherever labels are whole numbers."""
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
