"""Karmarkar and Karp's largest differencing method for parts of as many rows each, in plain Python: a peer to compare with."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

Part: TypeAlias = tuple[int, list[int]]
"""What some rows cost, and the rows."""

Tuple: TypeAlias = tuple[int, int, list[Part]]
"""Minus what the costliest part is above the cheapest, a number that tells it from others, and the parts, costliest first."""


def karmarkar_karp(costs: Sequence[int], num_parts: int) -> list[list[int]]:
    """Divide rows into parts of as many rows each, about equal in cost.

    The rows are cut, costliest first, into tuples of a row for each part. Of the two that are most uneven, time and again, the
    costliest part of one is joined with the cheapest of the other, and so on.

    Args:
        costs: What each row costs; as many rows as a multiple of ``num_parts``.
        num_parts: How many parts.
    """
    rows = sorted(range(len(costs)), key=costs.__getitem__, reverse=True)
    starts = range(0, len(rows), num_parts)
    heap = [_of([(costs[row], [row]) for row in rows[start : start + num_parts]], start) for start in starts]
    heapq.heapify(heap)
    while len(heap) > 1:
        _, number, one = heapq.heappop(heap)
        other = heap[0][2]
        joined = [(cost + more, few + rest) for (cost, few), (more, rest) in zip(one, reversed(other), strict=True)]
        heapq.heapreplace(heap, _of(sorted(joined, reverse=True), number))
    return [part for _, part in heap[0][2]]


def _of(parts: list[Part], number: int) -> Tuple:
    return parts[-1][0] - parts[0][0], number, parts
