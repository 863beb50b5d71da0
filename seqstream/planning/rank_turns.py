"""The order of groups where each rank takes one of its own: equal costs and different lengths at each step. Pure functions.

Legend: ``G`` groups, ``R`` ranks, ``S`` steps of one group a rank.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from seqstream.order import EvenOrder, hash_index
from seqstream.planning.plan import Index

_SPREAD = 0.03
"""Groups of a step cost alike, up to this share; so the slowest takes about half of that longer than the mean."""


def mixed_turns(costs: npt.NDArray[np.int64], world_size: int, key: tuple[object, ...] | None) -> Index:
    """Return the order in which groups are served, rank after rank and step after step.

    Groups that cost about the same are a class. A class is cut by length into as many parts as there are ranks, and each of its
    steps takes one group of each part, at random: so a step is as long and as short as its class. Steps of all classes are
    served in an even order.

    Args:
        costs: ``int64 (G,)``, what each group costs; groups are longest first.
        world_size: Number of ranks, ``R``.
        key: What chance depends on; ``None`` leaves groups as they are.

    Returns:
        ``int64 (G,)``: rank ``r`` takes the group at ``r``, ``r + R`` and so on. Of groups that do not fill a step the cheapest
        are the last.
    """
    if key is None or world_size == 1 or len(costs) < world_size:
        return np.arange(len(costs))
    by_cost = np.argsort(-costs, kind="stable")
    bounds = _classes(costs[by_cost], world_size)
    steps = [
        _mixed_steps(np.sort(by_cost[first:stop]), world_size, (*key, number))
        for number, (first, stop) in enumerate(itertools.pairwise(bounds))
    ]
    dealt = np.concatenate(steps)
    dealt = np.take_along_axis(dealt, _random(dealt.shape, (*key, "ranks")), axis=1)
    in_turn = dealt[EvenOrder(len(dealt), *key, "steps", turned=False).between(0, len(dealt))]
    return np.concatenate([in_turn.ravel(), by_cost[bounds[-1] :]])


def _classes(costs: npt.NDArray[np.int64], world_size: int) -> list[int]:
    """Return where classes begin and the last one ends; each has whole steps, of groups that cost alike as far as there are.

    Args:
        costs: ``int64 (G,)``, descending.
        world_size: Number of ranks.
    """
    bounds, last = [0], len(costs) // world_size * world_size
    while (first := bounds[-1]) < last:
        alike = int(np.searchsorted(-costs[first:], -costs[first] * (1 - _SPREAD), side="right"))
        bounds.append(min(last, first + max(1, alike // world_size) * world_size))
    return bounds


def _mixed_steps(groups: Index, world_size: int, key: tuple[object, ...]) -> Index:
    """Return the steps of a class, ``int64 (S, R)``, each with a group of every part by length."""
    parts = groups.reshape(world_size, -1)
    return np.take_along_axis(parts, _random(parts.shape, key), axis=1).T


def _random(shape: tuple[int, ...], key: tuple[object, ...]) -> Index:
    """Return a random order of each row of that shape."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.argsort(hash_index(places, *key), axis=1, kind="stable")
