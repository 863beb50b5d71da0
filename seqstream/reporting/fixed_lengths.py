"""The sections on fixed shapes and on packed rows: what a few padded lengths, or rows of one length, cost.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Lengths
from seqstream.planning.best_fit import num_packed_rows
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.shape_choice import choose_lengths, shape_of
from seqstream.tuning.row_limit import RowLimit

NUM_SHAPES = (1, 2, 3, 4, 6, 8, 12, 16)
ROW_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)

FEW_PERCENT = 0.05
"""The recommended number of shapes is the smallest that pads at most this much more than the largest number."""

_MOST_ROWS = 200_000
"""A sample of this many rows is packed."""


@dataclasses.dataclass(frozen=True)
class ShapeChoice:
    """The shapes ``(rows, length)`` of at most ``num_shapes``, and the share of the slots that is padding, 0 to 1."""

    num_shapes: int
    padding: float
    shapes: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class ShapeSection:
    """The padding of several numbers of shapes, and the recommended one."""

    choices: tuple[ShapeChoice, ...]
    best: ShapeChoice


def choose_shapes(lengths: Lengths, max_tokens: int, numbers: Sequence[int] = NUM_SHAPES) -> ShapeSection:
    """Choose the shapes that pad least, for several numbers of shapes.

    With one shape, rows of 1, 1 and 4 tokens fill 6 of 12 slots; with two, all of them.

    Args:
        lengths: ``int64 (N,)``, tokens of each row.
        max_tokens: Budget of a batch.
        numbers: Numbers of shapes.
    """
    counts, total = np.bincount(lengths), int(lengths.sum())
    choices = []
    for number in numbers:
        chosen = choose_lengths(counts, number)
        of_length = chosen[shape_of(np.arange(1, len(counts)), chosen)]
        padding = 1 - total / int((of_length * counts[1:]).sum())
        shapes = tuple((max_tokens // length, length) for length in chosen.tolist())
        choices.append(ShapeChoice(number, padding, shapes))
    best = next(choice for choice in choices if choice.padding <= choices[-1].padding + FEW_PERCENT)
    return ShapeSection(tuple(choices), best)


@dataclasses.dataclass(frozen=True)
class PackedFill:
    """Rows of ``row_length`` slots, how full they are, 0 to 1, and the share of the sequences that must be split for them."""

    row_length: int
    fill: float
    split: float


@dataclasses.dataclass(frozen=True)
class PackSection:
    """How full packed rows of several lengths are, and the recommended one: the shortest that splits few sequences."""

    fills: tuple[PackedFill, ...]
    best: PackedFill


def fill_rows(lengths: Lengths, row_lengths: Sequence[int] = ROW_LENGTHS, *, seed: int = 0) -> PackSection:
    """Pack rows into several lengths.

    Sequences of 3, 3 and 2 tokens fill rows of 5 slots to 8 of 10: 3 + 2, and 3.

    Args:
        lengths: ``int64 (N,)``, tokens of each sequence; longer ones than a row are split.
        row_lengths: Slots of a row.
        seed: Seed of the sample that is packed.
    """
    sample = lengths
    if len(lengths) > _MOST_ROWS:
        sample = np.random.default_rng(seed).choice(lengths, _MOST_ROWS, replace=False)
    counts = LengthCounts.of(sample)
    longest = int(counts.lengths[0])
    useful = [each for each in row_lengths if each < 2 * longest] or [min(row_lengths)]
    fills = tuple(_fill(counts, each) for each in useful)
    best = next((each for each in fills if each.split <= FEW_PERCENT and each.fill >= 1 - FEW_PERCENT), fills[-1])
    return PackSection(fills, best)


def _fill(counts: LengthCounts, row_length: int) -> PackedFill:
    limit = RowLimit(row_length, "split")
    of_length = np.bincount(limit.apply(counts.lengths), counts.counts[limit.origins(counts.lengths)]).astype(np.int64)
    lengths = np.flatnonzero(of_length)[::-1]
    num_rows = num_packed_rows(lengths, of_length[lengths], row_length)
    split = int(counts.counts[counts.lengths > row_length].sum()) / counts.num_rows
    return PackedFill(row_length, counts.num_tokens / (num_rows * row_length), split)
