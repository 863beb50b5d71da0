"""Orders of an epoch, as lists of arrays of rows, one for each batch: present and former ones of seqstream, and other ways.

All are pure functions of lengths, of the shards of rows, and of a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import seqstream as ss
from seqstream.planning.batch_spec import turns_of
from seqstream.planning.bucket_cuts import plan_batches
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.tie_order import longest_first
from seqstream.shuffling import EvenOrder

Rows: TypeAlias = "npt.NDArray[np.int64]"
Turns: TypeAlias = Callable[[int, int], Rows]
"""A function of a number of groups, longest first, and a seed that returns the order of serving."""

GOLDEN = (math.sqrt(5) - 1) / 2
UNCORRELATED = (3 - math.sqrt(3)) / 6
"""With strides of this share of the groups, successive lengths do not correlate: ``1 - 6 * a * (1 - a) = 0``."""


# Groups of a window, in turn


def shuffled_turns(num: int, seed: int) -> Rows:
    """Serve groups in random order."""
    return np.random.default_rng((seed, 1)).permutation(num)


def even_turns(num: int, seed: int) -> Rows:
    """Serve long and short groups in turn, at every scale, as `Bucket` does."""
    return turns_of(num, (seed,))


def strided_turns(share: float) -> Turns:
    """Return an order that proceeds by a share of the groups, from a random group, up or down."""

    def turns(num: int, seed: int) -> Rows:
        draw = np.random.default_rng((seed, 2))
        strides = sorted(range(1, max(num, 2)), key=lambda stride: abs(stride - share * num))
        stride = next(stride for stride in strides if math.gcd(stride, num) == 1)
        return (draw.choice([-1, 1]) * stride * np.arange(num) + draw.integers(num)) % num

    return turns


# Shards, and windows of them


def random_shards(num: int, seed: int) -> Rows:
    """Visit shards in random order."""
    return np.random.default_rng((seed, 3)).permutation(num)


def even_shards(num: int, seed: int) -> Rows:
    """Visit shards as a loader does: halves of the source in turn, at every scale."""
    return EvenOrder(num, seed, "shards").between(0, num)


def windows_of(shards: Rows, visited: Rows, num_windows: int) -> list[Rows]:
    """Return the rows of each window: equal parts of the shards in visiting order.

    Args:
        shards: The shard of each row, ascending.
        visited: All shards, in order.
        num_windows: Number of windows of an epoch.
    """
    starts = np.searchsorted(shards, np.arange(len(visited) + 1))
    parts = np.array_split(visited, num_windows)
    return [np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in part]) for part in parts]


def grouped(lengths: Rows, windows: Sequence[Rows], max_tokens: int, turns: Turns, seed: int) -> list[Rows]:
    """Cut each window as `Bucket` does, and serve its groups in turn."""
    found: list[Rows] = []
    for number, window in enumerate(windows):
        order = window[longest_first(lengths[window], (seed, number))]
        groups = np.split(order, plan_batches(lengths[order], max_tokens=max_tokens)[1:-1])
        found += [groups[turn] for turn in turns(len(groups), seed * 1_000 + number)]
    return found


def arranged(
    lengths: Rows, windows: Sequence[Rows], spec: ss.Bucket, seed: int, *, world_size: int = 1, accumulate: int = 1
) -> list[Rows]:
    """Return the steps of windows as a loader makes them, each with the rows of all batches of all ranks."""
    found: list[Rows] = []
    for number, window in enumerate(windows):
        keys = spec.sort_keys(lengths[window])
        global_plan = spec.plan_global(LengthCounts.of(keys), key=(seed, number), world_size=world_size, accumulate=accumulate)
        order = window[sorted_order(keys)[global_plan.row_numbers(np.arange(len(window)))]]
        groups = np.split(order, global_plan.cuts[1:-1])
        found += steps_of([groups[turn] for turn in global_plan.turns], global_plan.batches_per_step)
    return found


def steps_of(batches: Sequence[Rows], num: int) -> list[Rows]:
    """Join every ``num`` consecutive batches to a step; the last step may have fewer."""
    return [np.concatenate(batches[start : start + num]) for start in range(0, len(batches), num)]


# What others do


def random_tokens(lengths: Rows, tokens: float, seed: int) -> list[Rows]:
    """Cut random rows into batches of about equally many tokens."""
    order = np.random.default_rng((seed, 5)).permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    cuts = np.searchsorted(ends, np.arange(tokens, ends[-1], tokens))
    return [rows for rows in np.split(order, cuts) if len(rows)]


def rebalanced(lengths: Rows, batch_size: int, accumulate: int, seed: int) -> list[Rows]:
    """Choose the rows of each step as `BatchRebalanceSampler` of transformers does on one rank."""
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    sampler = BatchRebalanceSampler(lengths.tolist(), batch_size, 1, accumulate, seed=seed)
    return steps_of([np.array(rows) for rows in sampler], accumulate)
