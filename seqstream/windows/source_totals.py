"""What each source of a mixture has in each batch of a window, for statistics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqstream.planning.pack import PackedPlan
from seqstream.planning.plan import MADE_UP
from seqstream.records import ids_columns
from seqstream.windows.window import Window


def totals_of_batches(window: Window, column: str, num_sources: int) -> npt.NDArray[np.float64]:
    """Return what each source has in each batch of a window, in the order in which they are served.

    Args:
        window: The window of a mixture.
        column: Name of the column with the number of each row's source.
        num_sources: Number of sources of the mixture.

    Returns:
        ``float64 (K, 4, S)``: rows, or sequences of packed rows; real tokens; slots, tokens with padding, of which those of a
        packed row are divided among its sources by their tokens; and how often each source was read when it was served.
    """
    plan, slices = window.plan, window.slices
    numbers = slices.numbers.get(column)
    if not len(plan) or numbers is None or window.passes is None:
        return np.zeros((0, 4, num_sources))
    order, num_batches = plan.order, len(plan)
    sides = [slices.sequence, *(slices.spans[name] for name in ids_columns(window.spec.columns or ())[1:])]
    tokens = np.sum([side.lengths for side in sides], axis=0) if len(sides) > 1 else slices.sequence.lengths
    at, own = np.repeat(np.arange(num_batches) * num_sources, np.diff(plan.cuts)), tokens
    at += numbers
    if window.is_repeated is not None or any(plan.num_made_up):
        is_real = order != MADE_UP
        if window.is_repeated is not None:
            is_real &= ~window.is_repeated[order]
        at, own = at[is_real], tokens[is_real]
    totals = np.empty((num_batches, 4, num_sources))
    for number, weights in enumerate((None, own)):
        totals[:, number] = np.bincount(at, weights, num_batches * num_sources).reshape(num_batches, num_sources)
    counted = totals[:, 1 if isinstance(plan, PackedPlan) else 0]
    totals[:, 2] = counted * _scale(window)[:, None]
    before, after = window.passes
    totals = totals[slices.turns]
    totals[:, 3] = before + (after - before) * (np.arange(1, num_batches + 1) / num_batches)[:, None]
    return totals


def _scale(window: Window) -> npt.NDArray[np.float64]:
    """Return the slots of a row of each batch, or of packed rows the slots for a token, ``float64 (K,)``."""
    plan, slices = window.plan, window.slices
    if isinstance(plan, PackedPlan):
        return plan.num_rows * plan.row_length / np.maximum(np.array(slices.num_steps, dtype=np.float64), 1)
    return np.array(slices.num_slots, dtype=np.float64) / np.maximum(np.diff(plan.cuts), 1)
