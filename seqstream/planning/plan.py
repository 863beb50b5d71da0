"""The rows of a window on one rank, batch after batch."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.records import Counts

MADE_UP = -1
"""Stands in a plan for a row that no record gives: one padding token, of weight 0, to fill a batch up."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which rows of a window go together.

    Attributes:
        order: ``int64 (N,)``, rows of the window, batch after batch; `MADE_UP` at the end of those that are filled up.
        cuts: ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.
        turns: ``int64 (K,)``, the order in which batches are served.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (K,)``, padded length of all columns of each batch; ``None`` where each column is as wide as its longest
            row.
        counts: What became of rows that are not in the plan as they were.
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
        """Return the rows of the batch that is served ``turn``-th, without those made up."""
        batch = self.turns[turn]
        return self.order[self.cuts[batch] : self.cuts[batch + 1] - self.num_made[batch]]

    @functools.cached_property
    def num_made(self) -> list[int]:
        """Rows made up in each of the K batches."""
        made = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.order == MADE_UP)])
        counts: list[int] = np.diff(made[self.cuts]).tolist()
        return counts

    def padded(self, lengths: Lengths) -> Lengths:
        """Return the padded length of each of the K batches, the rows of the window having ``lengths``."""
        if self.widths is not None or not len(self):
            return np.empty(0, dtype=np.int64) if self.widths is None else self.widths
        longest = np.maximum.reduceat(np.where(self.order == MADE_UP, 0, lengths[self.order]), self.cuts[:-1])
        return -(-longest // self.multiple_of) * self.multiple_of

    def width(self, batch: int, longest: int) -> int:
        """Return the padded length of a column of a batch, of which the longest row has so many steps."""
        if self.widths is not None:
            return int(self.widths[batch])
        return -(-longest // self.multiple_of) * self.multiple_of


def fill_up(order: Index, cuts: Cuts, heights: Index) -> tuple[Index, Cuts]:
    """Put rows made up at the end of batches, up to so many rows each.

    Args:
        order: ``int64 (N,)``, rows, batch after batch.
        cuts: ``int64 (K + 1,)``.
        heights: ``int64 (K,)``, rows that each batch is to have.
    """
    missing = heights - np.diff(cuts)
    if not missing.any():
        return order, cuts
    filled = np.insert(order, np.repeat(cuts[1:], missing), MADE_UP)
    return filled, np.append(0, np.cumsum(heights))
