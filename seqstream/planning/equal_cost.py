"""Group packed rows into batches and batches into turns, so that all ranks have equal costs: pure functions of costs.

Legend: ``N`` packed rows, ``R`` ranks, ``T`` turns, ``K`` batches, ``H`` packed rows of a batch, ``I`` sequences.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.shuffling import hash_index, shuffled

Costs: TypeAlias = npt.NDArray[np.int64]

TOKEN_COST = 6 * 768
"""Cost of a token in a transformer besides attention, in pairs of tokens: six times the smallest width in use.

In a narrow transformer attention has its greatest share of the cost. In a wider one tokens have more, and packed rows have
about equally many.
"""


def row_costs(lengths: Lengths, cuts: Cuts) -> Costs:
    """Return the cost of each row for a transformer: the sum of ``length * (TOKEN_COST + length)``, ``int64 (N,)``.

    Args:
        lengths: ``int64 (I,)``, tokens of each sequence, row after row.
        cuts: ``int64 (N + 1,)``: row ``n`` holds sequences ``cuts[n]`` to ``cuts[n + 1]``, at least one.
    """
    return np.add.reduceat(lengths * (TOKEN_COST + lengths), cuts[:-1]) if len(cuts) > 1 else np.empty(0, dtype=np.int64)


def equal_cost_order(costs: Costs, *, rows: int, world_size: int, key: tuple[object, ...]) -> Index:
    """Order rows so that ranks that take them in turn have the same cost at each turn.

    Every row appears once. Of each ``rows * world_size`` rows in the order, rank ``r`` takes those at ``r``,
    ``r + world_size`` and so on. The costliest batch of a turn exceeds the cheapest, summed over all full turns, by no more
    than the costliest row exceeds the cheapest. The rows of the last turn are random, and each rank has the same number of
    them, plus or minus one.

    Args:
        costs: ``int64 (N,)``, cost of each row, all positive.
        rows: Rows of a batch. With more rows, batches are more equal; with one, only the rows of the same turn are.
        world_size: Number of ranks.
        key: Seeds which rows of equal cost share a batch, the order of turns, and which batch of a turn each rank takes.

    Returns:
        ``int64 (N,)``, rows in their new order.
    """
    mixed = shuffled(len(costs), *key, "rows")
    full, rest = np.split(mixed, [len(costs) // (rows * world_size) * rows * world_size])
    batches = _batches(costs[full], rows)
    turns = _turns(costs[full[batches]].sum(axis=0), world_size, key)
    return np.concatenate([full[batches[:, turns].swapaxes(0, 1).ravel()], rest[_last_turn(costs[rest], world_size)]])


def _batches(costs: Costs, rows: int) -> Index:
    """Return batches that cost about the same, ``int64 (H, K)``, one in each column, its rows ascending.

    Each layer gives one row to each batch, the costliest layer first, and of a layer the costliest row to the batch with the
    least cost so far. So batches never differ by more than the rows of some layer do.
    """
    layers = np.argsort(-costs, kind="stable").reshape(rows, -1)
    sums = np.zeros(layers.shape[1], dtype=np.int64)
    for number, layer in enumerate(layers):
        batches = np.argsort(sums, kind="stable")
        sums[batches] += costs[layer]
        layers[number, batches] = layer.copy()
    return np.sort(layers, axis=0)


def _turns(costs: Costs, world_size: int, key: tuple[object, ...]) -> Index:
    """Return the batches of turns, ``int64 (T, R)``: neighbours by cost share a turn; turns and ranks are in random order."""
    turns = np.argsort(costs, kind="stable").reshape(-1, world_size)
    ranks = np.argsort(hash_index(np.arange(len(costs)).reshape(turns.shape), *key, "ranks"), axis=1, kind="stable")
    return np.take_along_axis(turns, ranks, axis=1)[shuffled(len(turns), *key, "steps")]


def _last_turn(costs: Costs, world_size: int) -> Index:
    """Order rows that are too few for a full turn, ``int64 (N,)``; the ranks that get one row less are last."""
    num_missing = -len(costs) % world_size
    batches = _batches(np.append(costs, np.zeros(num_missing, dtype=np.int64)), max(1, -(-len(costs) // world_size)))
    is_lacking = batches[-1] >= len(costs)
    return batches[:, np.argsort(is_lacking, kind="stable")].ravel()[: len(costs)]
