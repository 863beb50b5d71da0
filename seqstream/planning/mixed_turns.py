"""The order of global batches in a mixed plan: different lengths in each optimiser step, similar costs at each turn.

Pure functions. Legend: ``G`` global batches, ``R`` ranks, ``S`` global batches of an optimiser step, ``T`` steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.shuffling import EvenOrder, hash_index

_NOISE = 0.03
"""Global batches whose costs differ by less than this share of them are in random order."""

_STRATA = 16
"""Steps of fewer global batches are chosen several at a time, so that this many consecutive ones have as many lengths."""


def mixed_turns(
    costs: npt.NDArray[np.int64], *, batches_per_step: int, world_size: int, key: tuple[object, ...] | None
) -> Index:
    """Return the order in which global batches are served, step after step, and turn after turn.

    Global batches are divided by length into as many strata as a step has global batches, and each step takes one of each
    stratum, so it has the lengths of the window. Within each stratum they are sorted by cost, and a step takes the one at the
    same position of every stratum, so its global batches cost about the same.

    Args:
        costs: ``int64 (G,)``, costs of global batches, which are longest first.
        batches_per_step: Global batches of an optimiser step, a multiple of ``world_size``.
        world_size: Number of ranks.
        key: Seeds the order; ``None`` leaves global batches as they are.

    Returns:
        ``int64 (G,)``, global batches: rank ``r`` takes those at ``r``, ``r + R`` and so on. Those that do not fill a step are
        last.
    """
    num_steps = len(costs) // batches_per_step
    if key is None or not num_steps:
        return np.arange(len(costs))
    noise = hash_index(np.arange(len(costs)), *key, "costs").astype(np.float64) / 2**64
    noisy = costs * (1 + _NOISE * noise)
    at_once = min(num_steps, -(-_STRATA // batches_per_step))
    most, rest = _split_evenly(num_steps * batches_per_step, num_steps % at_once * batches_per_step)
    found = [_steps_of(most, noisy, batches_per_step, at_once, key)]
    if len(rest):
        found.append(_steps_of(rest, noisy, batches_per_step, len(rest) // batches_per_step, (*key, "last")))
    steps = np.concatenate([_to_ranks(steps, noisy, world_size, (*key, number)) for number, steps in enumerate(found)])
    return np.concatenate([steps.ravel(), np.arange(num_steps * batches_per_step, len(costs))])


def _split_evenly(size: int, num: int) -> tuple[Index, Index]:
    """Return ``range(size)`` without ``num`` evenly spaced numbers, and these numbers."""
    chosen = np.zeros(size, dtype=np.bool_)
    chosen[(2 * np.arange(num) + 1) * size // (2 * num or 1)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _steps_of(
    global_batches: Index, costs: npt.NDArray[np.float64], batches_per_step: int, at_once: int, key: tuple[object, ...]
) -> Index:
    """Return the global batches of steps, ``int64 (T, S)``; each ``at_once`` steps have one of each of ``S * at_once`` strata.

    Args:
        global_batches: ``int64 (n,)``, longest first; ``n`` is a multiple of ``batches_per_step * at_once``.
        costs: ``float64 (G,)``.
        batches_per_step: Global batches of a step.
        at_once: Number of steps that are chosen together.
        key: Seeds the order of steps.
    """
    strata = global_batches.reshape(batches_per_step, at_once, -1)
    for axis in (2, 1):
        strata = np.take_along_axis(strata, np.argsort(costs[strata], axis=axis, kind="stable"), axis=axis)
    several = strata.transpose(2, 1, 0)
    several = several[EvenOrder(len(several), *key, "steps", rotated=False).between(0, len(several))]
    return np.take_along_axis(several, _random(several.shape[:2], (*key, "at once"))[:, :, None], axis=1).reshape(
        -1, batches_per_step
    )


def _to_ranks(steps: Index, costs: npt.NDArray[np.float64], world_size: int, key: tuple[object, ...]) -> Index:
    """Order the global batches of each step, ``int64 (T, S)``, so that those of a turn are neighbours by cost."""
    by_cost = np.take_along_axis(steps, np.argsort(costs[steps], axis=1, kind="stable"), axis=1)
    at_once = by_cost.reshape(-1, world_size)
    at_once = np.take_along_axis(at_once, _random(at_once.shape, (*key, "ranks")), axis=1)
    in_step = at_once.reshape(len(steps), -1, world_size)
    order = _random(in_step.shape[:2], (*key, "in step"))
    return np.take_along_axis(in_step, order[:, :, None], axis=1).reshape(steps.shape)


def _random(shape: tuple[int, ...], key: tuple[object, ...]) -> Index:
    """Return a random permutation for each row, ``int64`` of this shape."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.argsort(hash_index(cells, *key), axis=1, kind="stable")
