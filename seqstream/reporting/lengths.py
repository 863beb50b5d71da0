"""The section on lengths: how many rows and tokens there are of each length, and what a limit would cut off.

Legend: ``D`` distinct lengths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Index, Lengths
from seqstream.planning.length_counts import LengthCounts

BINS_PER_OCTAVE = 4
"""Bins of the histogram between a length and its double."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LIMITS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)


@dataclasses.dataclass(frozen=True)
class LengthBin:
    """Rows of ``low`` to ``high`` tokens, both included: their share of all rows, and of all tokens."""

    low: int
    high: int
    rows: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class Quantile:
    """A share of the rows has at most ``by_rows`` tokens; that share of the tokens is in rows of at most ``by_tokens``."""

    share: float
    by_rows: int
    by_tokens: int


@dataclasses.dataclass(frozen=True)
class LengthCut:
    """What ``max_length`` would cut: the share of rows that are longer, and the share of tokens that would be lost."""

    max_length: int
    rows: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class LengthSection:
    """The lengths of a corpus.

    Attributes:
        shortest: Tokens of the shortest row.
        longest: Tokens of the longest row.
        mean: Mean tokens of a row.
        bins: The histogram; bins without rows are left out.
        quantiles: Quantiles by rows and by tokens.
        cuts: What limits below the longest row would cut.
    """

    shortest: int
    longest: int
    mean: float
    bins: tuple[LengthBin, ...]
    quantiles: tuple[Quantile, ...]
    cuts: tuple[LengthCut, ...]


def describe_lengths(counts: LengthCounts) -> LengthSection:
    """Describe lengths, of at least one row.

    Rows of 1, 1, 2 and 4 tokens have a median of 1 token, and half of the tokens is in rows of at most 2 tokens;
    ``max_length=2`` would cut a quarter of the rows and a quarter of the tokens.

    Args:
        counts: The rows by length.
    """
    lengths, rows = counts.lengths[::-1], counts.counts[::-1]
    return LengthSection(
        int(lengths[0]),
        int(lengths[-1]),
        counts.num_tokens / counts.num_rows,
        _bins(lengths, rows),
        _quantiles(lengths, rows, QUANTILES),
        tuple(_cut(lengths, rows, limit) for limit in LIMITS if lengths[0] <= limit < lengths[-1]),
    )


def _bins(lengths: Lengths, rows: Index) -> tuple[LengthBin, ...]:
    """Return the histogram of lengths, ascending ``int64 (D,)``."""
    steps = range(1 + math.ceil(BINS_PER_OCTAVE * math.log2(int(lengths[-1]) + 1)))
    edges = np.unique([math.ceil(2 ** (step / BINS_PER_OCTAVE)) for step in steps])
    number = np.searchsorted(edges, lengths, side="right") - 1
    of_rows, of_tokens = np.bincount(number, rows), np.bincount(number, rows * lengths)
    edges = np.append(edges, 2 * edges[-1])
    return tuple(
        LengthBin(int(edges[at]), int(edges[at + 1]) - 1, of_rows[at] / of_rows.sum(), of_tokens[at] / of_tokens.sum())
        for at in np.flatnonzero(of_rows).tolist()
    )


def _quantiles(lengths: Lengths, rows: Index, shares: Sequence[float]) -> tuple[Quantile, ...]:
    by_rows, by_tokens = (lengths[_positions(values, shares)].tolist() for values in (rows, rows * lengths))
    return tuple(map(Quantile, shares, by_rows, by_tokens))


def _positions(values: Index, shares: Sequence[float]) -> Index:
    """Return where the sum of values first reaches each share of the whole."""
    ends = np.cumsum(values)
    found: Index = np.searchsorted(ends, np.ceil(np.array(shares) * ends[-1]))
    return found


def _cut(lengths: Lengths, rows: Index, limit: int) -> LengthCut:
    over = np.maximum(lengths - limit, 0) * rows
    return LengthCut(limit, float(rows[lengths > limit].sum() / rows.sum()), float(over.sum() / (lengths * rows).sum()))
