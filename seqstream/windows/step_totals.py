"""What all ranks have in an optimiser step, known before its first batch is served: so losses are divided by the right number.

Legend: ``T`` batches of each rank in what is left of a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.global_plan import GlobalPlan
from seqstream.stages.row_labels import LabelRule
from seqstream.windows.collectives import WindowCollectives
from seqstream.windows.columns import Column, Ragged
from seqstream.windows.label_counts import count_labels, count_labels_of
from seqstream.windows.window import Window

Totals = npt.NDArray[np.int64]
"""Real tokens and labels, ``int64 (..., 2)``; -1 labels where nobody can know."""

_NOTHING = np.zeros(2, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """The rows of a window that this rank has made, before they go to those who take them.

    Attributes:
        columns: Their columns.
        sequence: The column that lengths are those of; ``None`` where every row has one step.
        global_order: Their numbers.
    """

    columns: Mapping[str, Column]
    sequence: str | None
    global_order: GlobalOrder


def with_step_totals(window: Window, collectives: WindowCollectives, rule: LabelRule | None, begun: Totals | None) -> Window:
    """Return the window with the totals of all ranks in each batch and in each optimiser step; all ranks call it together.

    Args:
        window: A window, with the batches of this rank.
        collectives: Adds up totals of all ranks.
        rule: Which labels a batch has; ``None`` where that is not known before the batch is built.
        begun: This rank's totals of what was served of the step under way before; ``None`` if nothing was.
    """
    is_whole = begun is None and all(window.step_ends)
    if is_whole and collectives.world_size == 1:
        return window  # a step is a batch, which knows all of this itself
    own = np.array([window.planned.num_tokens, count_labels(window, rule)], dtype=np.int64).T
    before = _NOTHING if begun is None else begun
    of_all = collectives.add_step_totals(np.vstack([before, own]))
    before, totals = of_all[0], of_all[1:]
    steps = totals if is_whole else _of_steps(totals, np.array(window.step_numbers), before)
    return dataclasses.replace(window, totals=None if collectives.world_size == 1 else totals, step_totals=steps)


def _of_steps(totals: Totals, numbers: Index, begun: Totals) -> Totals:
    """Add up the batches of each step, and tell it to each of them, ``int64 (T, 2)``."""
    if not len(numbers):
        return totals
    step = numbers - numbers[0]
    sums = np.stack([np.bincount(step, weights=totals[:, each]) for each in (0, 1)], axis=1).astype(np.int64)
    sums[0] += begun
    unknown = np.unique(step[totals[:, 1] < 0])
    sums[unknown, 1] = -1
    if begun[1] < 0:
        sums[0, 1] = -1
    of_each: Totals = sums[step]
    return of_each


def count_begun(own: OwnRows, global_plan: GlobalPlan, places: Index, spec: BatchSpec, rule: LabelRule | None) -> Totals:
    """Return what this rank has made of the optimiser step under way that was served before, ``int64 (2,)``.

    Args:
        own: The rows of this rank.
        global_plan: The window as it was planned.
        places: ``int64 (P,)``, what of the step was served.
        spec: How rows are batched.
        rule: Where labels come from.
    """
    if not len(own.global_order.numbers):
        return np.array([0, -1 if rule is None or rule.is_drawn else 0])
    rows, begins, lengths = global_plan.own_items(own.global_order.numbers, places)
    rows = own.global_order.rows[rows].astype(np.int64)
    names = [own.sequence, *(spec.columns or ())[1:]]
    tokens = 0
    for column in (own.columns.get(name or "") for name in names):
        whole = column.lengths[rows] if isinstance(column, Ragged) else np.ones(len(rows), dtype=np.int64)
        tokens += int(np.minimum(whole - begins, lengths).sum())
    return np.array([tokens, count_labels_of(own.columns, spec, rule, rows=rows, begins=begins, lengths=lengths)])
