"""Tokens and labels of all ranks in each optimiser step, known before its first batch is served, to divide losses by.

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
from seqstream.records import ids_columns
from seqstream.stages.label_filter import LabelRule
from seqstream.windows.collectives import WindowCollectives
from seqstream.windows.columns import Column, Ragged
from seqstream.windows.label_counts import count_labels, count_labels_of
from seqstream.windows.window import Window

Totals = npt.NDArray[np.int64]
"""Real tokens and labels, ``int64 (..., 2)``; -1 labels where they are not known before a batch is built."""

_NOTHING = np.zeros(2, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """The rows of a window that this rank has processed, before ranks exchange them.

    Attributes:
        columns: Their columns.
        sequence: The column whose lengths are those of the rows; ``None`` where every row has one step.
        global_order: The order of all rows by length, with the numbers of these.
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
    own = np.array([window.slices.num_tokens, count_labels(window, rule)], dtype=np.int64).T
    before = _NOTHING if begun is None else begun
    of_all = collectives.add_step_totals(np.vstack([before, own]))
    before, totals = of_all[0], of_all[1:]
    steps = totals if is_whole else _of_steps(totals, np.array(window.step_numbers), before)
    return dataclasses.replace(window, totals=None if collectives.world_size == 1 else totals, step_totals=steps)


def _of_steps(totals: Totals, numbers: Index, begun: Totals) -> Totals:
    """Return the totals of the step that each batch belongs to, ``int64 (T, 2)``.

    Args:
        totals: ``int64 (T, 2)``, of each batch.
        numbers: ``int64 (T,)``, the step of each, ascending.
        begun: ``int64 (2,)``, of what was served of the first step before.
    """
    if not len(numbers):
        return totals
    step = numbers - numbers[0]
    sums = np.stack([np.bincount(step, weights=totals[:, side]) for side in (0, 1)], axis=1).astype(np.int64)
    sums[0] += begun
    unknown = np.unique(step[totals[:, 1] < 0])
    sums[unknown, 1] = -1
    if begun[1] < 0:
        sums[0, 1] = -1
    of_batches: Totals = sums[step]
    return of_batches


def count_begun(own: OwnRows, global_plan: GlobalPlan, places: Index, spec: BatchSpec, rule: LabelRule | None) -> Totals:
    """Return the totals of this rank's rows that were served before in the optimiser step under way, ``int64 (2,)``.

    Args:
        own: The rows of this rank.
        global_plan: The plan of the window.
        places: ``int64 (P,)``, the slots of the plan that were served.
        spec: How rows are batched.
        rule: Which labels a batch has; ``None`` where that is not known before the batch is built.
    """
    if not len(own.global_order.numbers):
        return np.array([0, -1 if rule is None or rule.is_drawn else 0])
    rows, begins, lengths = global_plan.own_items(own.global_order.numbers, places)
    rows = own.global_order.rows[rows].astype(np.int64)
    names = [own.sequence, *ids_columns(spec.columns or ())[1:]]
    tokens = 0
    for column in (own.columns.get(name or "") for name in names):
        whole = column.lengths[rows] if isinstance(column, Ragged) else np.ones(len(rows), dtype=np.int64)
        tokens += int(np.minimum(whole - begins, lengths).sum())
    return np.array([tokens, count_labels_of(own.columns, spec, rule, rows=rows, begins=begins, lengths=lengths)])
