"""How many labels a batch will have, known before it is made; so all ranks know what the loss of a step is divided by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from seqstream.columns import Column, Dense, Ragged
from seqstream.planning.pack import Pack
from seqstream.planning.plan import MADE_UP, Index
from seqstream.steps import LABEL_PADDING

if TYPE_CHECKING:
    from seqstream.window import Window

LABELS = ("labels", "label")


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """Which steps are labels.

    Attributes:
        column: The column they are of; ``None`` for the labels that the data has.
        is_shifted: Whether the first step of each row is none, because nothing predicts it.
    """

    column: str | None = None
    is_shifted: bool = False


def count_labels(window: Window, rule: LabelRule | None) -> list[int]:
    """Return how many labels each batch of a window has; -1 where nobody can know.

    Args:
        window: The window.
        rule: Where labels come from; ``None`` if nobody knows before a batch is made.
    """
    if rule is None or not len(window.plan):
        return [-1] * len(window.plan)
    own = next((name for name in LABELS if name in window.columns), None)
    if isinstance(window.spec, Pack) and window.spec.causal and rule.column is None and "input_ids" in window.columns:
        rule = LabelRule("labels" if "labels" in window.columns else "input_ids", is_shifted=True)
    name = rule.column or own
    order = window.plan.order
    counts = np.zeros(len(order), dtype=np.int64)
    if name is not None:
        counts = _of_rows(window, name, window.columns[name], is_shifted=rule.is_shifted)
        counts[order == MADE_UP] = 0
        if window.is_repeated is not None:
            counts[window.is_repeated[order]] = 0
    found: list[int] = np.add.reduceat(counts, window.plan.cuts[:-1]).tolist()
    return found


def _of_rows(window: Window, name: str, column: Column, *, is_shifted: bool) -> Index:
    """Return how many labels each row of the plan has."""
    if isinstance(column, Dense):
        per_row = (column.values != LABEL_PADDING).reshape(len(column.values), -1).sum(axis=1)
        return np.append(per_row, 0)[window.plan.order]
    if not isinstance(column, Ragged):
        return np.zeros(len(window.plan.order), dtype=np.int64)
    rows = window.planned.spans[name]
    if name not in LABELS:
        return rows.lengths - is_shifted
    before = np.append(0, np.cumsum((column.values != LABEL_PADDING).sum(axis=1)))
    counts: Index = before[rows.starts + rows.lengths] - before[rows.starts + np.minimum(is_shifted, rows.lengths)]
    return counts


def without_labels(columns: Mapping[str, Column], is_repeated: npt.NDArray[np.bool_]) -> dict[str, Column]:
    """Return columns in which repeated rows have no labels: -100 wherever labels are whole numbers."""
    changed = dict(columns)
    for name in LABELS:
        column = columns.get(name)
        if isinstance(column, Dense) and column.values.dtype.kind == "i":
            values = column.values.copy()
            values[is_repeated] = LABEL_PADDING
            changed[name] = Dense(values)
        elif isinstance(column, Ragged) and column.values.dtype.kind == "i":
            values = column.values.copy()
            for start, length in zip(column.starts[is_repeated].tolist(), column.lengths[is_repeated].tolist(), strict=True):
                values[start : start + length] = LABEL_PADDING
            changed[name] = dataclasses.replace(column, values=values)
    return changed
