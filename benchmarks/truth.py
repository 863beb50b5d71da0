"""Is a step a fair sample? How far its gradient is from that of the corpus, compared with random rows.

The design effect of ``K`` steps is ``E |g - G|^2`` of ``K`` consecutive steps, divided by that of equally many random rows,
with the same mean number of tokens: 1 for random batches, 2 if it takes twice as many steps to know as much. It is the mean of
two states of a model, after a tenth of a training on random rows and at its end. Beside it is that of the initial weights,
where the gradients of all rows are much alike and only the number of rows of a step differs. All are means over seeds of the
order, with standard errors.

The orders are present and former ones of seqstream, and those of transformers' samplers. Windows are halves of an epoch, as if
corpora were larger than a window; those of a first epoch are those of a loader. If a corpus is grouped by label or by source,
the labels of windows are also compared with those of equally many random rows, by the order of shards alone.
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
"""Real tokens of a batch: the mean number for batches of every way."""

NUM_WINDOWS = 2
NUM_STEPS = 640
"""Number of training steps."""

FOUR, EIGHT, LARGE = "4 x Bucket(1024)", "8 x Bucket(512)", "8 x Bucket(4096)"
RANKS = "8 ranks of Bucket(4096)"

TARGETS = {(FOUR, 1): 1.15, (EIGHT, 1): 1.05, (LARGE, 1): 1.25, (FOUR, 64): 1.3, (RANKS, 1): 1.3}
"""Bound of the design effect of some orders, by the number of consecutive steps."""

WINDOW_TARGETS = {512: 2.0, 128: 4.0}
"""Bound of the distance of window labels from the corpus, over that of random rows, by the number of blocks of a file."""

WINDOW_PARTS = (2, 4, 8)
WINDOW_ORDERS = {"random shards": random_shards, "even shards": even_shards}

_WINDOW_SEEDS = 10
"""Orders of shards for each seed of the other measurements."""

_LESS_BYTES = 300_000
"""Bytes of a corpus if corpora are cut."""

Make: TypeAlias = Callable[[Task, int], list[Rows]]
"""A function of a task and a seed that returns the steps of an epoch: the rows of all batches and ranks of each step."""


def former_order(turns: Turns, shards: Turns = random_shards) -> Make:
    """Return an order with one group a step, for orders of the groups of a window and of shards."""

    def make(task: Task, seed: int) -> list[Rows]:
        return orders.grouped(task.lengths, _windows_of(task, shards, seed), MAX_TOKENS, turns, seed)

    return make


def as_it_is(max_tokens: int, *, step: Literal["mixed", "alike"] = "mixed", **counts: int) -> Make:
    """Return the order of seqstream, for numbers of ranks and of batches a step."""
    spec = ss.Bucket(max_tokens, step=step)

    def make(task: Task, seed: int) -> list[Rows]:
        return orders.arranged(task.lengths, _windows_of(task, even_shards, seed), spec, seed, **counts)

    return make


def as_loaded(task: Task, seed: int) -> list[Rows]:
    """Return the steps of the first epoch of a loader, whose first windows are small."""
    loader = ss.Loader(task.source, *task.stages, ss.Bucket(1_024), accumulate=4, seed=seed)
    return task.steps_of(loader)


def _windows_of(task: Task, shards: Turns, seed: int) -> list[Rows]:
    return orders.windows_of(task.shards, shards(int(task.shards.max()) + 1, seed), NUM_WINDOWS)


def random_rows(task: Task, seed: int) -> list[Rows]:
    """Return steps of random rows with about equally many tokens."""
    return orders.random_tokens(task.lengths, MEAN_TOKENS, seed)


def length_grouped(task: Task, seed: int) -> list[Rows]:
    """Return steps of one batch of `LengthGroupedSampler`."""
    return peers.length_grouped_batches(task.lengths, batch_size=_mean_rows(task), seed=seed)


def rebalanced(task: Task, seed: int) -> list[Rows]:
    """Return steps of four batches of `BatchRebalanceSampler`."""
    return orders.rebalanced(task.lengths, _mean_rows(task), 4, seed)


ORDERS: dict[str, Make] = {
    "random rows": random_rows,
    "LengthGroupedSampler": length_grouped,
    "BatchRebalanceSampler, 4 batches": rebalanced,
    "shuffled turns": former_order(shuffled_turns),
    "golden turns": former_order(strided_turns(GOLDEN)),
    "uncorrelated turns": former_order(strided_turns(UNCORRELATED)),
    "even turns": former_order(even_turns),
    "golden turns, even shards": former_order(strided_turns(GOLDEN), even_shards),
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
            settings.show_progress(f"{name}, rows")
            task = learning.load(name, settings)
            gradients = _gradients(task, settings)
            for order, make in ORDERS.items():
                settings.show_progress(f"{name}, {order}")
                found = [gradients.effects(make(task, seed), NUMS) for seed in range(num_seeds)]
                yield from _effects(task, order, np.array(found))
            if name != corpora.DOCSTRINGS:
                yield from _windows(task, num_seeds * _WINDOW_SEEDS)


def _gradients(task: Task, settings: Settings) -> Gradients:
    """Sketch the gradients of all rows: with initial weights, after a tenth of a training, and at its end."""
    network = task.network(seed=100)
    epochs = (random_rows(task, 1_000 + epoch) for epoch in itertools.count())
    num_steps = NUM_STEPS if settings.max_bytes is None else NUM_STEPS // 20
    steps = list(itertools.islice(itertools.chain.from_iterable(epochs), num_steps))
    settings.show_progress(f"{task.name}, first weights")
    sketches = [sketch_rows(task, network)]
    for number in learning.train(task, network, steps):
        settings.show_progress(f"{task.name}, step {number} of {len(steps)}")
        if number in (num_steps // 10, num_steps):
            sketches.append(sketch_rows(task, network))
    return Gradients(np.concatenate(sketches, axis=1), task.units, len(sketches))


def _effects(task: Task, order: str, found: npt.NDArray[np.float64]) -> Iterator[Record]:
    """Yield the records of an order, from ``float64 (seeds, nums, states)``; none if an epoch has too few steps."""
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
    """Count the rows of each label in blocks of equally many tokens, ``int64 (num_blocks, labels)``."""
    before = np.cumsum(task.lengths) - task.lengths
    block = before * num_blocks // task.lengths.sum()
    num_labels = int(task.labels.max()) + 1
    return np.bincount(block * num_labels + task.labels, minlength=num_blocks * num_labels).reshape(num_blocks, num_labels)


def _distances(table: Rows, num_windows: int) -> npt.NDArray[np.float64]:
    """Return the total variation distance of the labels of each window from those of all, given blocks in visiting order."""
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
