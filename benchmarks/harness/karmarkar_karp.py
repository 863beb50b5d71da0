"""The largest differencing method of Karmarkar and Karp, with equally many rows in each part, in plain Python."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

Part: TypeAlias = tuple[int, list[int]]
"""The cost of some rows, and the rows."""

Tuple: TypeAlias = tuple[int, int, list[Part]]
"""Minus the difference of the costliest and the cheapest part, a unique number, and the parts, costliest first."""


def karmarkar_karp(costs: Sequence[int], num_parts: int) -> list[list[int]]:
    """Divide rows into parts of equally many rows and about equal cost.

    The rows are cut, costliest first, into tuples with a row for each part. Then the two most uneven tuples are joined, the
    costliest part of one with the cheapest part of the other and so on, until one tuple is left.

    Args:
        costs: The cost of each row; the number of rows is a multiple of ``num_parts``.
        num_parts: Number of parts.
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
