"""The batches of one rank: which rows of a window go together, and in which order batches are served."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.records import Counts

MADE_UP = -1
"""Stands in a plan for a made-up row, which fills up a batch: one padding token of weight 0, from no record."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The batches of one rank: ``N`` rows in ``K`` batches.

    Attributes:
        order: ``int64 (N,)``, rows of the window, batch after batch; `MADE_UP` rows are at the end of their batch.
        cuts: ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.
        turns: ``int64 (K,)``, the batch of each turn: the order in which batches are served.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (K,)``, padded length of all columns of each batch; ``None`` where each column is padded to its longest
            row.
        counts: Counts by outcome of the rows that are not in the plan unchanged.
    """

    order: Index
    cuts: Cuts
    turns: Index
    multiple_of: int = 1
    widths: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.turns)

    def rows(self, turn: int) -> Index:
        """Return the rows of the batch of a turn, without made-up rows."""
        batch = self.turns[turn]
        return self.order[self.cuts[batch] : self.cuts[batch + 1] - self.num_made_up[batch]]

    @functools.cached_property
    def num_made_up(self) -> list[int]:
        """Number of made-up rows of each of the K batches."""
        before = np.append(0, np.cumsum(self.order == MADE_UP))
        counts: list[int] = np.diff(before[self.cuts]).tolist()
        return counts

    def padded(self, lengths: Lengths) -> Lengths:
        """Return the padded length of each batch, ``int64 (K,)``, from the lengths of the rows of the window."""
        if self.widths is not None or not len(self):
            return np.empty(0, dtype=np.int64) if self.widths is None else self.widths
        longest = np.maximum.reduceat(np.where(self.order == MADE_UP, 0, lengths[self.order]), self.cuts[:-1])
        return -(-longest // self.multiple_of) * self.multiple_of

    def width(self, batch: int, longest: int) -> int:
        """Return the padded length of a column in a batch, from the length of its longest row there."""
        if self.widths is not None:
            return int(self.widths[batch])
        return -(-longest // self.multiple_of) * self.multiple_of


def fill_up(order: Index, cuts: Cuts, heights: Index) -> tuple[Index, Cuts]:
    """Return the order and the cuts of batches that are filled up with `MADE_UP` rows at their ends.

    Args:
        order: ``int64 (N,)``, rows, batch after batch.
        cuts: ``int64 (K + 1,)``.
        heights: ``int64 (K,)``, the number of rows that each batch must have.
    """
    missing = heights - np.diff(cuts)
    if not missing.any():
        return order, cuts
    filled = np.insert(order, np.repeat(cuts[1:], missing), MADE_UP)
    return filled, np.append(0, np.cumsum(heights))
