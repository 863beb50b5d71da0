"""An order in which any few consecutive units are a fair sample: herding, in whole numbers, the same on every machine.

Legend: ``U`` units, each of which is served as a whole; ``F`` features; ``C`` features of one kind.
"""

from __future__ import annotations

import math

import numpy as np

from seqstream.arrays import Index
from seqstream.shuffling import EvenOrder

CANDIDATES = 16
"""More make features more even, and lengths, and everything that is not in the features, less even."""

PARTS = 8
"""Any eight consecutive units are one of each eighth by length, plus or minus one."""

_UNIT = 1 << 16
"""The standard deviation of scaled features, as a whole number, so that sums do not depend on the order of addition."""

_BITS = 18
"""Number of leading bits of a count that are used; the sum of 2^27 squares of such numbers is exact."""


def balanced_turns(features: Index, key: tuple[object, ...], candidates: int = CANDIDATES, parts: int = PARTS) -> Index:
    """Order units so that the mean of the features of the first ``n`` units is near the mean of all, for every ``n``.

    An even order, seeded by the key, gives about the length of each next unit. The candidates are the remaining units of the
    same part by length that are nearest to this length. Of these, the unit is next that brings the sum of features nearest to
    its mean (herding: Welling, "Herding Dynamical Weights to Learn", 2009). So lengths alternate as they would without
    features, and everything that is not in the features is random.

    Args:
        features: ``int64 (U, F)``, such as those of `scaled`, of units in order of their lengths; larger values count more.
        key: Seeds the order.
        candidates: Number of candidates for each turn. More follow the mean of the features more closely, and lengths less.
        parts: Number of equal parts by length; more keep lengths more even.

    Returns:
        ``int64 (U,)``, each unit once.
    """
    num = len(features)
    centred = features - (2 * features.sum(axis=0) + num) // max(1, 2 * num)
    vectors = np.column_stack([2 * centred, (centred**2).sum(axis=1)])
    remaining = np.split(np.arange(num), -(-np.arange(1, parts) * num // parts))
    found = np.empty(num, dtype=np.int64)
    total = np.zeros(vectors.shape[1], dtype=np.int64)
    total[-1], sums = 1, total[:-1]
    for turn, about in enumerate(EvenOrder(num, *key, rotated=False).between(0, num).tolist()):
        part = about * parts // num
        units = remaining[part]
        first = max(0, min(int(units.searchsorted(about)) - candidates // 2, len(units) - candidates))
        nearest = units[first : first + candidates]
        at = first + int((vectors.take(nearest, axis=0) @ total).argmin())
        found[turn] = unit = units[at]
        sums += centred[unit]
        remaining[part] = np.concatenate([units[:at], units[at + 1 :]])
    return found


def scaled(counts: Index) -> Index:
    """Centre and scale counts of one kind, so that together they vary as much as those of any other kind.

    The variances of all columns add up to ``_UNIT`` squared, or to 0 where all units have the same counts.

    Args:
        counts: ``int64 (U, C)``.

    Returns:
        ``int64 (U, C)``.
    """
    centred: Index = counts * len(counts) - counts.sum(axis=0)
    largest = int(np.abs(centred).max(initial=0))
    centred >>= max(0, largest.bit_length() - _BITS)
    squares = int((centred**2).sum())  # exact, and the root is rounded exactly: the result is the same on every machine
    if not squares:
        return centred
    found: Index = np.rint(centred * (_UNIT * math.sqrt(len(counts) / squares))).astype(np.int64)
    return found
