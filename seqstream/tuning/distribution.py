"""The distribution of the lengths of rows.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PERCENTILES = (50, 90, 95, 99)
LIMITS = (128, 256, 512, 1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Bin:
    """The number of rows of ``low`` to ``high`` tokens, both included, and the number of their tokens."""

    low: int
    high: int
    rows: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The distribution of row lengths.

    Attributes:
        rows: Number of rows.
        tokens: Number of tokens of all rows.
        mean: Mean length of a row, in tokens.
        percentiles: Percentiles of the length, by per cent: 50, 90, ...
        longest: Length of the longest row, in tokens.
        over: Share of the rows above a limit, for each limit below the longest row.
        bins: Rows by length, each bin twice as wide as the one before.
    """

    rows: int
    tokens: int
    mean: float
    percentiles: dict[int, int]
    longest: int
    over: dict[int, float]
    bins: tuple[Bin, ...]


def describe(lengths: npt.NDArray[np.integer], limits: Sequence[int] = LIMITS, scale: float = 1.0) -> Distribution:
    """Return the distribution of positive lengths, ``(N,)`` with at least one row, each of which stands for ``scale`` rows."""
    total = int(lengths.sum(dtype=np.int64))
    exponents = np.frexp(lengths - 0.5)[1]  # 1 -> 0, 2 -> 1, 3 and 4 -> 2, ...: a power of two ends a bin
    rows, tokens = np.bincount(exponents), np.bincount(exponents, lengths)
    bins = (
        Bin(2**e // 2 + 1 if e else 1, 2**e, round(rows[e] * scale), round(tokens[e] * scale))
        for e in range(exponents.min(), len(rows))
    )
    return Distribution(
        rows=round(len(lengths) * scale),
        tokens=round(total * scale),
        mean=total / len(lengths),
        percentiles={each: int(np.percentile(lengths, each, method="higher")) for each in PERCENTILES},
        longest=int(lengths.max()),
        over={limit: float(np.count_nonzero(lengths > limit) / len(lengths)) for limit in limits if limit < lengths.max()},
        bins=tuple(bins),
    )
