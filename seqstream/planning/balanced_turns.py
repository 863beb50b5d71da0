"""An order in which every stretch is a fair sample: herding, a pure function of whole numbers, the same on every machine.

Legend: ``U`` units, each of which is served as one; ``F`` features; ``C`` of them that are of one kind.
"""

from __future__ import annotations

import math

import numpy as np

from seqstream.arrays import Index
from seqstream.shuffling import EvenOrder

CANDIDATES = 16
"""With more, features are more even, and lengths and all that features do not say are less so."""

PARTS = 8
"""Any eight units that follow each other are one of each eighth by length, give or take one."""

_UNIT = 1 << 16
"""What features that vary by 1 are as whole numbers, so that sums are the same however they are added up."""

_BITS = 18
"""So many bits of a count matter; the sum of 2^27 squares of such numbers is exact."""


def balanced_turns(features: Index, key: tuple[object, ...], candidates: int = CANDIDATES, parts: int = PARTS) -> Index:
    """Order units so that the sum of the features of any first few of them is near so many times the mean.

    An even order, drawn by the key, says about how long the next unit is. Of those left that are nearest to it in length, in
    the same part of them all, the one comes that brings the sum nearest (herding: Welling, "Herding Dynamical Weights to
    Learn", 2009). So each part by length comes when it does without features, and what features do not say is left to chance.

    Args:
        features: ``int64 (U, F)``, such as `scaled` gives, of units in order of their lengths; larger numbers count more.
        key: What chance depends on.
        candidates: Of how many units one is chosen. More follow the mean of the features more closely and lengths less.
        parts: How many parts by length, of as many units; more keep lengths more even.

    Returns:
        ``int64 (U,)``, each unit once.
    """
    num = len(features)
    centred = features - (2 * features.sum(axis=0) + num) // max(1, 2 * num)
    sizes, doubled = (centred**2).sum(axis=1), 2 * centred
    left = np.split(np.arange(num), -(-np.arange(1, parts) * num // parts))
    found = np.empty(num, dtype=np.int64)
    total = np.zeros(features.shape[1], dtype=np.int64)
    for turn, wanted in enumerate(EvenOrder(num, *key, turned=False).between(0, num).tolist()):
        part = wanted * parts // num
        own = left[part]
        first = max(0, min(int(own.searchsorted(wanted)) - candidates // 2, len(own) - candidates))
        units = own[first : first + candidates]
        at = first + int((sizes.take(units) + doubled.take(units, axis=0) @ total).argmin())
        found[turn] = own[at]
        total += centred[own[at]]
        left[part] = np.concatenate([own[:at], own[at + 1 :]])
    return found


def scaled(counts: Index) -> Index:
    """Centre counts of one kind and scale them, so that together they vary as those of any other kind do.

    The variances of all columns add up to ``_UNIT`` squared; or to 0, where all units have the same counts.

    Args:
        counts: ``int64 (U, C)``.

    Returns:
        ``int64 (U, C)``.
    """
    centred: Index = counts * len(counts) - counts.sum(axis=0)
    largest = int(np.abs(centred).max(initial=0))
    centred >>= max(0, largest.bit_length() - _BITS)
    squares = int((centred**2).sum())  # exact, and so is the root rounded: every machine finds the same
    if not squares:
        return centred
    found: Index = np.rint(centred * (_UNIT * math.sqrt(len(counts) / squares))).astype(np.int64)
    return found
