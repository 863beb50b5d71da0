"""What each source of a mixture has in each batch of a window, for statistics."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.planning.pack import PackedPlan
from seqstream.planning.plan import MADE_UP
from seqstream.windows.columns import Dense
from seqstream.windows.window import Window


@dataclasses.dataclass(frozen=True)
class SourceTotals:
    """What each of ``S`` sources has in some batches.

    Attributes:
        rows: ``int64 (S,)``; for packed rows sequences, or pieces of them.
        tokens: ``int64 (S,)``, real tokens.
        slots: ``float64 (S,)``, tokens with padding; that of a packed row is divided among its sources by their tokens.
        passes: ``float64 (S,)``, how often each source was read when they had been served.
    """

    rows: Index
    tokens: Index
    slots: npt.NDArray[np.float64]
    passes: npt.NDArray[np.float64]


def totals_of_batches(window: Window, column: str, num_sources: int) -> list[SourceTotals]:
    """Return what each source has in each batch of a window, in the order in which they are served.

    Args:
        window: The window of a mixture.
        column: Name of the column with the number of each row's source.
        num_sources: Number of sources of the mixture.
    """
    plan, slices = window.plan, window.slices
    numbers = window.columns.get(column)
    if not len(plan) or not isinstance(numbers, Dense) or window.passes is None:
        return []
    order, num_batches = plan.order, len(plan)
    is_real = order != MADE_UP
    if window.is_repeated is not None:
        is_real &= ~window.is_repeated[order]
    heights = np.diff(plan.cuts)
    batch_of = np.repeat(np.arange(num_batches), heights)
    sides = [slices.sequence, *(slices.spans[name] for name in (window.spec.columns or ())[1:])]
    tokens = np.sum([side.lengths for side in sides], axis=0)
    num_slots = np.array(slices.num_slots, dtype=np.float64)
    if isinstance(plan, PackedPlan):
        slots = tokens * (num_slots / np.maximum(np.array(slices.num_steps), 1))[batch_of]
    else:
        slots = (num_slots / np.maximum(heights, 1))[batch_of]
    at = (batch_of * num_sources + numbers.values[order])[is_real]
    rows, real, padded = (
        np.bincount(at, weights, num_batches * num_sources).reshape(num_batches, num_sources)
        for weights in (None, tokens[is_real], slots[is_real])
    )
    before, after = window.passes
    steps = zip(slices.turns, np.linspace(0, 1, num_batches + 1)[1:].tolist(), strict=True)
    return [
        SourceTotals(rows[batch], real[batch].astype(np.int64), padded[batch], before + (after - before) * share)
        for batch, share in steps
    ]
