"""The order of groups where each rank takes one of its own: different lengths and like costs at each step. Pure functions.

Legend: ``G`` groups, ``R`` ranks, ``S`` groups of an optimiser step, ``T`` steps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index
from seqstream.shuffling import EvenOrder, hash_index

_NOISE = 0.03
"""Groups that differ less than this in cost come in random order."""

_STRATA = 16
"""Steps of fewer groups are made several at a time, so that as many groups that follow each other are of as many lengths."""


def mixed_turns(
    costs: npt.NDArray[np.int64], *, batches_per_step: int, world_size: int, key: tuple[object, ...] | None
) -> Index:
    """Return the order in which groups are served, rank after rank and step after step.

    Groups are cut by length into as many strata as a step has groups, and each step takes one of each: so it holds lengths as
    the window does. From all strata it takes the one that comes at the same place by cost: so its groups cost about the same.

    Args:
        costs: ``int64 (G,)``, what each group costs; groups are longest first.
        batches_per_step: Groups of an optimiser step, a multiple of ``world_size``.
        world_size: Number of ranks.
        key: What chance depends on; ``None`` leaves groups as they are.

    Returns:
        ``int64 (G,)``: rank ``r`` takes the group at ``r``, ``r + R`` and so on. Groups that do not fill a step come last.
    """
    num_steps = len(costs) // batches_per_step
    if key is None or not num_steps:
        return np.arange(len(costs))
    noise = hash_index(np.arange(len(costs)), *key, "costs").astype(np.float64) / 2**64
    noisy = costs * (1 + _NOISE * noise)
    at_once = min(num_steps, -(-_STRATA // batches_per_step))
    most, fewer = _evenly_apart(num_steps * batches_per_step, num_steps % at_once * batches_per_step)
    found = [_steps_of(most, noisy, batches_per_step, at_once, key)]
    if len(fewer):
        found.append(_steps_of(fewer, noisy, batches_per_step, len(fewer) // batches_per_step, (*key, "last")))
    steps = np.concatenate([_to_ranks(steps, noisy, world_size, (*key, number)) for number, steps in enumerate(found)])
    return np.concatenate([steps.ravel(), np.arange(num_steps * batches_per_step, len(costs))])


def _evenly_apart(size: int, num: int) -> tuple[Index, Index]:
    """Return ``range(size)`` without some numbers, evenly apart, and those."""
    chosen = np.zeros(size, dtype=np.bool_)
    chosen[(2 * np.arange(num) + 1) * size // (2 * num or 1)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _steps_of(
    groups: Index, costs: npt.NDArray[np.float64], batches_per_step: int, at_once: int, key: tuple[object, ...]
) -> Index:
    """Return steps of groups, ``int64 (T, S)``, so many of which that follow each other have a group of as many strata.

    Args:
        groups: ``int64 (n,)``, longest first; ``n`` is a multiple of ``step_groups * at_once``.
        costs: ``float64 (G,)``.
        batches_per_step: Groups of a step.
        at_once: How many steps are made at a time.
        key: Seeds the order of steps.
    """
    strata = groups.reshape(batches_per_step, at_once, -1)
    for axis in (2, 1):
        strata = np.take_along_axis(strata, np.argsort(costs[strata], axis=axis, kind="stable"), axis=axis)
    several = strata.transpose(2, 1, 0)
    several = several[EvenOrder(len(several), *key, "steps", turned=False).between(0, len(several))]
    return np.take_along_axis(several, _random(several.shape[:2], (*key, "at once"))[:, :, None], axis=1).reshape(
        -1, batches_per_step
    )


def _to_ranks(steps: Index, costs: npt.NDArray[np.float64], world_size: int, key: tuple[object, ...]) -> Index:
    """Order the groups of each step, ``int64 (T, S)``: ranks take at once those that are next to each other in cost."""
    by_cost = np.take_along_axis(steps, np.argsort(costs[steps], axis=1, kind="stable"), axis=1)
    at_once = by_cost.reshape(-1, world_size)
    at_once = np.take_along_axis(at_once, _random(at_once.shape, (*key, "ranks")), axis=1)
    in_step = at_once.reshape(len(steps), -1, world_size)
    order = _random(in_step.shape[:2], (*key, "in step"))
    return np.take_along_axis(in_step, order[:, :, None], axis=1).reshape(steps.shape)


def _random(shape: tuple[int, ...], key: tuple[object, ...]) -> Index:
    """Return a random order of each row of that shape."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.argsort(hash_index(places, *key), axis=1, kind="stable")
