"""The section on batches drawn: the same rows as random padded batches, as those of seqstream, and packed.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths
from seqstream.planning.best_fit import pack_rows
from seqstream.planning.plan import MADE_UP
from seqstream.reporting.served_batches import ServedBatches, serve_random, take_batches
from seqstream.tuning.row_limit import RowLimit

NUM_BATCHES = 8
"""Any eight consecutive batches are one of each eighth of a window by length, so their rows are a fair sample of it."""

_MOST_STEPS = 48
"""Corners of the outline of a batch that are drawn; rows between them are averaged."""


@dataclasses.dataclass(frozen=True)
class DrawnBatch:
    """A batch as a box, with the outline of its real tokens.

    Attributes:
        rows: Number of rows.
        width: Slots of a row.
        tokens: Real tokens.
        outline: Pairs of a number of rows and the share of their slots that is real, from the first row to the last.
    """

    rows: int
    width: int
    tokens: int
    outline: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class DrawnWay:
    """The batches of one way, and the share of their slots that is padding, 0 to 1."""

    name: str
    padding: float
    slots: int
    batches: tuple[DrawnBatch, ...]


@dataclasses.dataclass(frozen=True)
class DrawnSection:
    """The same rows in several ways.

    Attributes:
        rows: Number of rows.
        tokens: Their tokens.
        ways: Random, seqstream's, packed.
    """

    rows: int
    tokens: int
    ways: tuple[DrawnWay, ...]


def draw_batches(lengths: Lengths, served: ServedBatches, max_tokens: int, row_length: int) -> DrawnSection:
    """Draw the first batches of a window, and their rows in random batches and packed.

    Args:
        lengths: ``int64``, tokens of each row of the epoch.
        served: The batches of the window, padded.
        max_tokens: Slots of a batch of packed rows.
        row_length: Slots of a packed row; longer rows are split.
    """
    own = take_batches(served, min(NUM_BATCHES, len(served)))
    rows = own.rows[own.rows != MADE_UP]
    ways = (
        _way("random rows", serve_random(lengths, own)),
        _way("similar lengths", own),
        draw_packed(lengths[rows], row_length, max(1, max_tokens // row_length)),
    )
    return DrawnSection(len(rows), int(lengths[rows].sum()), ways)


def _way(name: str, batches: ServedBatches) -> DrawnWay:
    cuts, slots = batches.cuts.tolist(), batches.slots.tolist()
    drawn = []
    for first, end, size in zip(cuts, cuts[1:], slots, strict=False):
        own = np.where(batches.rows[first:end] == MADE_UP, 0, batches.lengths[first:end])
        width = size // (end - first)
        drawn.append(DrawnBatch(end - first, width, int(own.sum()), outline(own / width)))
    return _summed(name, drawn)


def draw_packed(lengths: Lengths, row_length: int, rows: int) -> DrawnWay:
    """Pack rows and draw batches of them; the last batch has only the rows that are filled.

    Args:
        lengths: ``int64 (N,)``, tokens of each row.
        row_length: Slots of a packed row.
        rows: Packed rows of a batch.
    """
    ordered = -np.sort(-RowLimit(row_length, "split").apply(lengths))
    order, cuts = pack_rows(ordered, row_length)
    fill = np.add.reduceat(ordered[order], cuts[:-1])
    drawn = []
    for first in range(0, len(fill), rows):
        own = -np.sort(-fill[first : first + rows])
        drawn.append(DrawnBatch(len(own), row_length, int(own.sum()), outline(own / row_length)))
    return _summed("packed rows", drawn)


def outline(shares: np.typing.NDArray[np.float64], most: int = _MOST_STEPS) -> tuple[tuple[int, float], ...]:
    """Return runs of rows and their mean share.

    >>> outline(np.array([1.0, 1.0, 0.5]))
    ((2, 1.0), (1, 0.5))

    Args:
        shares: ``float64 (N,)``, share of the slots of each row that is real, descending.
        most: Most runs; rows of different shares are averaged where there would be more.
    """
    starts = np.flatnonzero(np.diff(shares, prepend=-1.0))
    if len(starts) > most:
        starts = np.unique(np.linspace(0, len(shares), most, endpoint=False).astype(np.int64))
    counts = np.diff(starts, append=len(shares))
    means = np.add.reduceat(shares, starts) / counts
    return tuple(zip(counts.tolist(), means.tolist(), strict=True))


def _summed(name: str, drawn: list[DrawnBatch]) -> DrawnWay:
    slots = sum(batch.rows * batch.width for batch in drawn)
    return DrawnWay(name, 1 - sum(batch.tokens for batch in drawn) / slots, slots, tuple(drawn))
