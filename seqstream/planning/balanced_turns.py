"""An order in which every stretch is a fair sample: herding, a pure function of whole numbers, the same on every machine.

Legend: ``U`` units, each of which is served as one; ``F`` features; ``C`` of them that are of one kind.
"""

from __future__ import annotations

import math

import numpy as np

from seqstream.order import hash_index, shuffled
from seqstream.planning.plan import Index

CANDIDATES = 16
"""With more, features are more even and all that they do not say is less so; with fewer, features are less even."""

_UNIT = 1 << 16
"""What features that vary by 1 are as whole numbers, so that sums are the same however they are added up."""

_BITS = 18
"""So many bits of a count matter; the sum of 2^27 squares of such numbers is exact."""


def balanced_turns(features: Index, key: tuple[object, ...], candidates: int = CANDIDATES) -> Index:
    """Order units so that the sum of the features of any first few of them is near so many times the mean.

    Next comes the one that brings it nearest, of a few drawn among those that are left (herding: Welling, "Herding Dynamical
    Weights to Learn", 2009). As they are drawn, what features do not say is left to chance.

    Args:
        features: ``int64 (U, F)``, such as `scaled` gives; those with larger numbers count more.
        key: What chance depends on.
        candidates: How many are drawn each time. More follow the mean more closely and leave less to chance.

    Returns:
        ``int64 (U,)``, each unit once.
    """
    num = len(features)
    centred = features - (2 * features.sum(axis=0) + num) // max(1, 2 * num)
    sizes = (centred**2).sum(axis=1)
    left, drawn = shuffled(num, *key, "left"), _draw(num, candidates, key)
    total = np.zeros(features.shape[1], dtype=np.int64)
    for turn in range(num):
        last = num - 1 - turn
        places = drawn[turn] if last >= candidates else np.arange(last + 1)
        units = left[places]
        best = np.argmin(sizes[units] + 2 * (centred[units] @ total))
        total += centred[units[best]]
        left[places[best]], left[last] = left[last], units[best]
    found: Index = left[::-1].copy()
    return found


def _draw(num: int, candidates: int, key: tuple[object, ...]) -> Index:
    """Draw places among those of the units that are left at each turn, ``int64 (U, candidates)``; some may come twice."""
    places = np.arange(num * candidates).reshape(num, candidates)
    left = np.arange(num, 0, -1, dtype=np.uint64)
    drawn: Index = (hash_index(places, *key, "drawn") % left[:, None]).astype(np.int64)
    return drawn


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
