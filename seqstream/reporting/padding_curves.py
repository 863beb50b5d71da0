"""The section on padding: how much there is with each budget and window, for several ways of batching.

Legend: ``N`` rows, ``K`` batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Cuts, Lengths
from seqstream.planning.bucket import Bucket
from seqstream.planning.bucket_cuts import fill_greedily, fitting_rows
from seqstream.planning.length_counts import LengthCounts, sorted_within
from seqstream.tuning.planned_epoch import Setting

RANDOM, GROUPED, GREEDY, OURS = "random", "length_grouped", "greedy", "seqstream"
WAYS = {RANDOM: "random rows", GROUPED: "length-grouped", GREEDY: "cut greedily", OURS: "seqstream"}

_MEGABATCHES = 50
"""`LengthGroupedSampler` of transformers sorts this many batches together, or fewer if there would be under four such parts."""

_MOST_ROWS = 400_000
"""The other ways are planned with at most this many rows, the first ones."""


@dataclasses.dataclass(frozen=True)
class PaddingPoint:
    """The padding of one way of batching.

    Attributes:
        way: A key of `WAYS`.
        max_tokens: Budget of a batch; of random and grouped rows that of the batches with equally many rows.
        window_batches: Batches planned together; ``None`` where that does not apply.
        padding: Share of the slots that is padding, 0 to 1.
        tokens_per_second: Measured speed of a loader; ``None`` if not measured.
    """

    way: str
    max_tokens: int
    window_batches: int | None
    padding: float
    tokens_per_second: float | None = None


def padding_points(lengths: Lengths, settings: Sequence[Setting], *, seed: int = 0) -> list[PaddingPoint]:
    """Return the padding of each setting, and of `LengthGroupedSampler` and greedy filling with batches of the same size.

    Args:
        lengths: ``int64 (N,)``, tokens of each row in the order of an epoch.
        settings: The settings of `seqstream.tuning.comparison.compare`.
        seed: Seed of the other ways.
    """
    points, rows = [], lengths[:_MOST_ROWS]
    for setting in settings:
        if isinstance(setting.spec, Bucket):
            way, window = OURS, setting.spec.window_batches
        else:
            way, window = RANDOM, None
            for other, cuts in (
                (GROUPED, length_grouped(rows, getattr(setting.spec, "batch_size", 1), seed)),
                (GREEDY, greedy(rows, setting.max_tokens)),
            ):
                points.append(PaddingPoint(other, setting.max_tokens, None, padding_of(*cuts)))
        points.append(PaddingPoint(way, setting.max_tokens, window, setting.padding, setting.tokens_per_second))
    return points


def length_grouped(lengths: Lengths, batch_size: int, seed: int = 0) -> tuple[Lengths, Cuts]:
    """Return lengths in the order of `LengthGroupedSampler`, and the cuts of its batches.

    Rows are shuffled, and sorted within parts of 50 batches, or of a quarter of all rows where that is less.

    Args:
        lengths: ``int64 (N,)``.
        batch_size: Rows of a batch.
        seed: Seed of the order.
    """
    parts = min(max(1, len(lengths) // (batch_size * 4)), _MEGABATCHES)
    order = np.random.default_rng(seed).permutation(len(lengths))
    part = np.arange(len(lengths)) // (parts * batch_size)
    shuffled = lengths[order]
    ordered = shuffled[sorted_within(part, shuffled)]
    return ordered, np.append(np.arange(0, len(lengths), batch_size), len(lengths))


def greedy(lengths: Lengths, max_tokens: int) -> tuple[Lengths, Cuts]:
    """Return lengths, longest first, and the cuts of batches that are filled as far as a budget allows.

    ``greedy(np.array([1, 4, 2]), 8)`` has the batches ``[4, 2]`` and ``[1]``.
    """
    ordered = LengthCounts.of(lengths).every(1)
    return ordered, fill_greedily(fitting_rows(ordered, max_tokens, None))


def padding_of(lengths: Lengths, cuts: Cuts) -> float:
    """Return the share of the slots of batches that is padding.

    Batches of 4 and 2 tokens and of 1 token pad 2 of 9 slots: ``padding_of(np.array([4, 2, 1]), np.array([0, 2, 3]))`` is 2/9.

    Args:
        lengths: ``int64 (N,)``, tokens of each row, batch after batch.
        cuts: ``int64 (K + 1,)``, the batches.
    """
    slots = int((np.maximum.reduceat(lengths, cuts[:-1]) * np.diff(cuts)).sum())
    return 1 - int(lengths.sum()) / slots
