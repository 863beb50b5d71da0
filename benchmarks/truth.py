"""Is a step a fair sample? How much farther its gradient is from that of the corpus than random rows' would be.

The design effect of ``K`` steps is ``E |g - G|^2`` of so many in a row, over the same of as many random rows, of as many tokens
on average: 1 for random batches, 2 where it takes twice as many steps to know as much. It is the mean of two states of a model,
after a tenth of a training on random rows and at its end, and stands beside that of first weights, where gradients of rows are
much alike and what differs is how many rows a step has. All are means over seeds of the order, with standard errors.

Orders are ours as they were and as they are, and those of transformers' samplers. Windows are halves of an epoch, as if corpora
were larger than a window is; in the first epoch of a loader they are what they are. Where a corpus is grouped by label or by
source, the labels of windows are compared with those of as many random rows, by the order of their shards alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

import seqstream as ss
from benchmarks.harness import corpora, learning, orders, peers
from benchmarks.harness.design_effect import Gradients
from benchmarks.harness.learning import Task
from benchmarks.harness.orders import (
    GOLDEN,
    UNCORRELATED,
    Rows,
    Turns,
    even_shards,
    even_turns,
    random_shards,
    shuffled_turns,
    strided_turns,
)
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.harness.sketches import sketch_rows

NUMS = (1, 4, 16, 64)
MAX_TOKENS = 4_096
MEAN_TOKENS = 3_950
"""Real tokens of a batch, by which the batches of others are as large as ours on average."""

NUM_WINDOWS = 2
NUM_STEPS = 640
"""How long models are trained."""

FOUR, EIGHT, LARGE = "4 x Bucket(1024)", "8 x Bucket(512)", "8 x Bucket(4096)"
RANKS = "8 ranks of Bucket(4096)"

TARGETS = {(FOUR, 1): 1.15, (EIGHT, 1): 1.05, (LARGE, 1): 1.25, (FOUR, 64): 1.3, (RANKS, 1): 1.3}
"""How near to random rows the steps of some orders have to be, so many in a row."""

WINDOW_TARGETS = {512: 2.0, 128: 4.0}
"""How many times as far from the corpus as random rows' the labels of windows may be, by the number of a file's blocks."""

WINDOW_PARTS = (2, 4, 8)
WINDOW_ORDERS = {"random shards": random_shards, "even shards": even_shards}

_WINDOW_SEEDS = 10
"""Orders of shards for each seed of the other measurements."""

_LESS_BYTES = 300_000
"""Where corpora are cut, they are cut to so many."""

Make: TypeAlias = Callable[[Task, int], list[Rows]]
"""From a task and a seed to the steps of an epoch, each the rows of all its batches and ranks."""


def as_it_was(turns: Turns, shards: Turns = random_shards) -> Make:
    """Return an order of a group a step, in some turns, of windows of shards in some order."""

    def make(task: Task, seed: int) -> list[Rows]:
        return orders.grouped(task.lengths, _windows_of(task, shards, seed), MAX_TOKENS, turns, seed)

    return make


def as_it_is(max_tokens: int, *, step: Literal["mixed", "alike"] = "mixed", **counts: int) -> Make:
    """Return our order of steps, of so many ranks and batches."""
    spec = ss.Bucket(max_tokens, step=step)

    def make(task: Task, seed: int) -> list[Rows]:
        return orders.arranged(task.lengths, _windows_of(task, even_shards, seed), spec, seed, **counts)

    return make


def as_loaded(task: Task, seed: int) -> list[Rows]:
    """Take the steps of a loader's first epoch, whose first windows are small."""
    loader = ss.Loader(task.source, *task.stages, ss.Bucket(1_024), accumulate=4, seed=seed)
    return task.steps_of(loader)


def _windows_of(task: Task, shards: Turns, seed: int) -> list[Rows]:
    return orders.windows_of(task.shards, shards(int(task.shards.max()) + 1, seed), NUM_WINDOWS)


def random_rows(task: Task, seed: int) -> list[Rows]:
    """Make steps of random rows that have as many tokens each."""
    return orders.random_tokens(task.lengths, MEAN_TOKENS, seed)


def length_grouped(task: Task, seed: int) -> list[Rows]:
    """Make steps of a batch each as `LengthGroupedSampler` does."""
    return peers.length_grouped_batches(task.lengths, batch_size=_mean_rows(task), seed=seed)


def rebalanced(task: Task, seed: int) -> list[Rows]:
    """Make steps of four batches each as `BatchRebalanceSampler` does."""
    return orders.rebalanced(task.lengths, _mean_rows(task), 4, seed)


ORDERS: dict[str, Make] = {
    "random rows": random_rows,
    "LengthGroupedSampler": length_grouped,
    "BatchRebalanceSampler, 4 batches": rebalanced,
    "shuffled turns": as_it_was(shuffled_turns),
    "golden turns": as_it_was(strided_turns(GOLDEN)),
    "uncorrelated turns": as_it_was(strided_turns(UNCORRELATED)),
    "even turns": as_it_was(even_turns),
    "golden turns, even shards": as_it_was(strided_turns(GOLDEN), even_shards),
    "Bucket(4096): even turns, even shards": as_it_is(MAX_TOKENS),
    FOUR: as_it_is(1_024, accumulate=4),
    f"{FOUR}, first epoch": as_loaded,
    EIGHT: as_it_is(512, accumulate=8),
    LARGE: as_it_is(MAX_TOKENS, accumulate=8),
    f"{RANKS}, alike": as_it_is(MAX_TOKENS, step="alike", world_size=8),
    RANKS: as_it_is(MAX_TOKENS, world_size=8),
}


def measure(settings: Settings) -> Iterator[Record]:
    """Measure each task."""
    if settings.max_bytes is not None:
        settings = dataclasses.replace(settings, max_bytes=min(settings.max_bytes, _LESS_BYTES))
    num_seeds = max(1, settings.seeds // 5)
    with learning.one_thread():
        for name in learning.names():
            settings.say(f"{name}, rows")
            task = learning.load(name, settings)
            gradients = _gradients(task, settings)
            for order, make in ORDERS.items():
                settings.say(f"{name}, {order}")
                found = [gradients.effects(make(task, seed), NUMS) for seed in range(num_seeds)]
                yield from _effects(task, order, np.array(found))
            if name != corpora.DOCSTRINGS:
                yield from _windows(task, num_seeds * _WINDOW_SEEDS)


def _gradients(task: Task, settings: Settings) -> Gradients:
    """Sketch the gradients of all rows: with first weights, after a tenth of a training, at its end."""
    network = task.network(seed=100)
    epochs = (random_rows(task, 1_000 + epoch) for epoch in itertools.count())
    num_steps = NUM_STEPS if settings.max_bytes is None else NUM_STEPS // 20
    steps = list(itertools.islice(itertools.chain.from_iterable(epochs), num_steps))
    settings.say(f"{task.name}, first weights")
    sketches = [sketch_rows(task, network)]
    for number in learning.train(task, network, steps):
        settings.say(f"{task.name}, step {number} of {len(steps)}")
        if number in (num_steps // 10, num_steps):
            sketches.append(sketch_rows(task, network))
    return Gradients(np.concatenate(sketches, axis=1), task.units, len(sketches))


def _effects(task: Task, order: str, found: npt.NDArray[np.float64]) -> Iterator[Record]:
    """Say what was found of an order, ``float64 (seeds, nums, states)``; nothing where an epoch has too few steps."""
    if np.isfinite(found[:, 0]).all():
        yield _mean_of(task, f"{order}: a step, first weights", found[:, 0, 0])
    for at, num in enumerate(NUMS):
        if np.isfinite(found[:, at]).all():
            what = f"{order}: {'a step' if num == 1 else f'{num} steps'}"
            bound = TARGETS.get((order, num))
            yield _mean_of(task, what, found[:, at, 1:].mean(1), None if bound is None else Target("<=", bound))


def _windows(task: Task, num_seeds: int) -> Iterator[Record]:
    for blocks, bound in WINDOW_TARGETS.items():
        table = _labels_of_blocks(task, blocks)
        for parts in WINDOW_PARTS:
            rows = _mean_of(task, "random rows", _random_distances(table.sum(0), parts, num_seeds))
            for name, order in WINDOW_ORDERS.items():
                found = np.concatenate([_distances(table[order(blocks, seed)], parts) for seed in range(num_seeds)])
                mean = _mean_of(task, f"labels of 1/{parts} of an epoch from the corpus', {blocks} blocks, {name}", found)
                yield mean.against(rows, "<=", bound) if order is even_shards else mean.against(rows)


def _labels_of_blocks(task: Task, num_blocks: int) -> Rows:
    """Count the rows of each label in parts of equally many tokens, ``int64 (num_blocks, labels)``."""
    before = np.cumsum(task.lengths) - task.lengths
    block = before * num_blocks // task.lengths.sum()
    num_labels = int(task.labels.max()) + 1
    return np.bincount(block * num_labels + task.labels, minlength=num_blocks * num_labels).reshape(num_blocks, num_labels)


def _distances(table: Rows, num_windows: int) -> npt.NDArray[np.float64]:
    """Return the total variation of the labels of each window from those of all, blocks being as they are visited."""
    return _variation(np.array([part.sum(0) for part in np.array_split(table, num_windows)]), table.sum(0))


def _random_distances(counts: Rows, num_windows: int, num_seeds: int) -> npt.NDArray[np.float64]:
    draw = np.random.default_rng(0)
    return _variation(draw.multivariate_hypergeometric(counts, counts.sum() // num_windows, size=100 * num_seeds), counts)


def _variation(windows: Rows, counts: Rows) -> npt.NDArray[np.float64]:
    shares = windows / windows.sum(1, keepdims=True)
    return np.abs(shares - counts / counts.sum()).sum(1) / 2


def _mean_rows(task: Task) -> int:
    return max(1, round(MEAN_TOKENS / task.lengths.mean()))


def _mean_of(task: Task, what: str, values: npt.NDArray[np.float64], target: Target | None = None) -> Record:
    return Record(
        benchmark="truth",
        corpus=task.name,
        what=what,
        value=float(values.mean()),
        error=float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        unit="",
        target=target,
    )
