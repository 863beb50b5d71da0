"""Which packed rows make a batch, and which batches a step, so that all ranks have as much to do: pure functions of costs.

Legend: ``N`` rows, ``W`` ranks, ``T`` steps, ``K`` batches, ``H`` rows of a batch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.shuffling import hash_index, shuffled

Costs: TypeAlias = npt.NDArray[np.int64]

TOKEN_COST = 6 * 768
"""What a token costs a transformer besides attention, in pairs of tokens: six times its width, the smallest in use.

There attention weighs most. In a wider one the costs of two batches differ by tokens besides, and packed rows have as many.
"""


def row_costs(lengths: Lengths, cuts: Cuts) -> Costs:
    """Return what each row is to a transformer: ``length * (TOKEN_COST + length)`` of its sequences, ``int64 (N,)``.

    Args:
        lengths: ``int64 (I,)``, tokens of each sequence, row after row.
        cuts: ``int64 (N + 1,)``: row ``n`` holds sequences ``cuts[n]`` to ``cuts[n + 1]``, one at least.
    """
    return np.add.reduceat(lengths * (TOKEN_COST + lengths), cuts[:-1]) if len(cuts) > 1 else np.empty(0, dtype=np.int64)


def deal_equally(costs: Costs, *, rows: int, world_size: int, key: tuple[object, ...]) -> Index:
    """Order rows so that ranks, dealt to as cards are, have the same to do at each step.

    Every row appears once. Of each ``rows * world_size`` in the order, rank ``r`` takes those at ``r``, ``r + world_size`` and
    so on. What the costliest batch of a step is above the cheapest is, for all full steps together, no more than what the
    costliest row is above the cheapest. Which rows are left over for the last step is left to chance; each rank has as many of
    them, give or take one.

    Args:
        costs: ``int64 (N,)``, what each row costs, all positive.
        rows: Rows of a batch. With more of them batches are more alike; with one the rows of a step are, and steps are not.
        world_size: Number of ranks.
        key: Seeds which rows of equal cost go together, the order of steps, and which batch of a step each rank takes.

    Returns:
        ``int64 (N,)``, rows in their new order.
    """
    mixed = shuffled(len(costs), *key, "rows")
    full, rest = np.split(mixed, [len(costs) // (rows * world_size) * rows * world_size])
    batches = _batches(costs[full], rows)
    steps = _steps(costs[full[batches]].sum(axis=0), world_size, key)
    return np.concatenate([full[batches[:, steps].swapaxes(0, 1).ravel()], rest[_last_step(costs[rest], world_size)]])


def _batches(costs: Costs, rows: int) -> Index:
    """Make batches that cost about the same, ``int64 (H, K)``, one in each column, its rows in the order given.

    Layers of as many rows as there are batches are laid on each other, the costliest layer first, and of a layer the costliest
    row on the batch that has cost least so far. So batches never differ by more than the rows of some layer do.
    """
    layers = np.argsort(-costs, kind="stable").reshape(rows, -1)
    sums = np.zeros(layers.shape[1], dtype=np.int64)
    for number, layer in enumerate(layers):
        batches = np.argsort(sums, kind="stable")
        sums[batches] += costs[layer]
        layers[number, batches] = layer.copy()
    return np.sort(layers, axis=0)


def _steps(costs: Costs, world_size: int, key: tuple[object, ...]) -> Index:
    """Put batches that are next to each other in cost into one step, ``int64 (T, W)``; steps and ranks come in any order."""
    steps = np.argsort(costs, kind="stable").reshape(-1, world_size)
    ranks = np.argsort(hash_index(np.arange(len(costs)).reshape(steps.shape), *key, "ranks"), axis=1, kind="stable")
    return np.take_along_axis(steps, ranks, axis=1)[shuffled(len(steps), *key, "steps")]


def _last_step(costs: Costs, world_size: int) -> Index:
    """Order rows that are too few for a step, ``int64 (N,)``: the ranks that get one less come last."""
    lacking = -len(costs) % world_size
    batches = _batches(np.append(costs, np.zeros(lacking, dtype=np.int64)), max(1, -(-len(costs) // world_size)))
    lack = batches[-1] >= len(costs)
    return batches[:, np.argsort(lack, kind="stable")].ravel()[: len(costs)]
