"""Histograms of row lengths: exact up to 128 tokens, within 1 % above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from seqstream.arrays import Lengths

_EXACT_BITS = 7


def count_lengths(lengths: Lengths) -> dict[int, int]:
    """Return how many rows there are of each length, ``{length: rows}``, shortest first; long ones are rounded up by under 1 %.

    >>> count_lengths(np.array([2, 3, 2, 1001]))
    {2: 2, 3: 1, 1008: 1}
    """
    step = 1 << np.maximum(0, np.frexp(lengths)[1].astype(np.int64) - _EXACT_BITS)
    found, counts = np.unique(-(-lengths // step) * step, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def add_counts(*histograms: Mapping[int, int]) -> dict[int, int]:
    """Return the sum of histograms, shortest length first."""
    total: Counter[int] = Counter()
    for each in histograms:
        total.update(each)
    return dict(sorted(total.items()))
