"""How much sooner does an LSTM learn, and does it learn as much from a token?

Two models are trained from the same initial weights, on steps of random rows and on steps of seqstream with the same mean
number of tokens. What they learn from a token is compared after equal tokens: accuracy and loss of the classifier of
`examples/train_lstm.py`, with its clipping of gradients, with one learning rate for all ways and with the best rate of each;
and if ``SEQSTREAM_DATA`` has them, the loss of a language model on five sources, one after the other. Here the rows of each
step, random ones too, are computed in parts of similar lengths, which gives the same sum of gradients in less time.

How much sooner they learn is measured in normal use, with random rows padded: with reading and tokenising, without evaluation.
Accuracies after equal time are those after the seconds that half an epoch of seqstream takes.

Means are over seeds, with standard errors; a difference is the mean of the differences of each seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

import seqstream as ss
from benchmarks.harness import corpora, learning, orders, peers
from benchmarks.harness.corpora import DOCSTRINGS, SOURCES
from benchmarks.harness.learning import RATE, Rows, Task
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings

SEEDS = (0, 1, 2, 3, 4)
OTHER_RATE = 2e-2
CLIPPED_AT = 0.5
MEAN_TOKENS = 3_900
"""Real tokens of a step of `BUCKET`, and the mean number of those of a step of random rows."""

SPEED_TARGET = 2.0
TIME_TARGET = Target(">=", 5)
LOSS_TARGET = Target("<=", 0.02)
NOISE = 2
"""Means that differ by at most this many standard errors are equal within the noise of seeds."""

POINTS = (0.25, 0.5, 1.0, 2.0)
"""Epochs after which the classifier is tested."""

_NO_TARGET = POINTS[0]
"""Gradients are so large there that the number of rows in a step decides all."""

_LESS_BYTES = 300_000
"""Bytes of a corpus if corpora are cut."""

RANDOM, BUCKET, STEPS = "random rows", "Bucket(4096)", "4 x Bucket(1024)"


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to make steps of rows: batches of a spec, and how many of them a step has."""

    spec: ss.Bucket | ss.Unbucketed
    accumulate: int = 1

    def loader(self, task: Task, seed: int, epochs: int | None = None) -> ss.Loader:
        """Return a loader of the rows to train on."""
        return ss.Loader(task.source, *task.stages, self.spec, accumulate=self.accumulate, seed=seed, epochs=epochs)


WAYS = {BUCKET: Way(ss.Bucket(4_096)), STEPS: Way(ss.Bucket(1_024), accumulate=4)}


@dataclasses.dataclass(frozen=True)
class Point:
    """Loss and accuracy of a model on held-out rows, after a number of tokens."""

    loss: float
    accuracy: float


Curves = dict[tuple[str, float, int], dict[float, Point]]
"""Results by way, learning rate and seed, and then by number of epochs."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """A training in normal use: seconds, real tokens, the share of padding, and the accuracy at its end."""

    seconds: float
    tokens: int
    waste: float
    accuracy: float


def measure(settings: Settings) -> Iterator[Record]:
    """Train all ways on both tasks."""
    if settings.max_bytes is not None:
        settings = dataclasses.replace(settings, max_bytes=min(settings.max_bytes, _LESS_BYTES))
    seeds = SEEDS if settings.max_bytes is None else SEEDS[: settings.repeats]
    with learning.one_thread():
        task = learning.load(DOCSTRINGS, settings)
        yield from _times(task, seeds, settings)
        yield from _classifier(task, seeds, settings)
        if SOURCES in corpora.grouped():
            yield from _language_model(learning.load(SOURCES, settings), seeds, settings)


# As it is used


def _times(task: Task, seeds: Sequence[int], settings: Settings) -> Iterator[Record]:
    record = Recording(DOCSTRINGS)
    random_way = Way(ss.Unbucketed(_mean_rows(task)))
    half, runs = int(task.lengths.sum()) // 2, dict[str, list[Timed]]()
    for seed in seeds:
        settings.show_progress(f"as it is used, seed {seed}")
        ours = [_train_timed(task, way, seed, tokens=half) for way in WAYS.values()]
        other = _train_timed(task, random_way, seed, seconds=ours[-1].seconds)
        for name, run in zip((*WAYS, RANDOM), (*ours, other), strict=True):
            runs.setdefault(name, []).append(run)
    slow = record.value(f"{RANDOM} padded, real tokens", _median(runs[RANDOM], _speed), "tokens/s")
    yield slow
    for name in WAYS:
        yield record.value(f"{name}, real tokens", _median(runs[name], _speed), "tokens/s").against(slow, ">=", SPEED_TARGET)
    for name, of_way in runs.items():
        yield record.value(f"{name}, padding", _median(of_way, lambda run: 100 * run.waste), "%")
    reached = {name: [100 * run.accuracy for run in of_way] for name, of_way in runs.items()}
    for name in (RANDOM, STEPS):
        yield record.mean(f"{name}, accuracy after equal time", reached[name], "%")
    yield record.mean(f"lead of {STEPS} after equal time", _differences(reached[STEPS], reached[RANDOM]), "%", TIME_TARGET)


def _train_timed(task: Task, way: Way, seed: int, *, tokens: float = np.inf, seconds: float = np.inf) -> Timed:
    """Train on the batches of a loader, for a number of tokens or seconds."""
    network = task.network(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    loader, mean_rows = way.loader(task, seed), _mean_rows(task)
    begun = time.perf_counter()
    for batch in loader:
        losses = network.losses(batch.input_ids, batch.lengths, batch["label"])
        # Divided by a constant, every row weighs the same, in steps of many rows and of few.
        (losses.sum() / mean_rows).backward()
        if batch.is_step_end:
            nn.utils.clip_grad_norm_(network.parameters(), CLIPPED_AT)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if loader.stats.tokens >= tokens or time.perf_counter() - begun >= seconds:
            break
    spent = time.perf_counter() - begun
    return Timed(spent, loader.stats.tokens, loader.stats.padding, task.test(network)[1])


def _speed(run: Timed) -> float:
    return run.tokens / run.seconds


def _median(runs: Sequence[Timed], value: Callable[[Timed], float]) -> float:
    return statistics.median(map(value, runs))


# By tokens


def _classifier(task: Task, seeds: Sequence[int], settings: Settings) -> Iterator[Record]:
    record, curves = Recording(DOCSTRINGS), Curves()
    names = (RANDOM, STEPS)
    for seed, (rate, points) in itertools.product(seeds, {RATE: POINTS, OTHER_RATE: POINTS[:3]}.items()):
        for name in names:
            settings.show_progress(f"{name}, learning rate {rate}, seed {seed}")
            curves[name, rate, seed] = _learn(task, name, rate, seed, points=points, clip=CLIPPED_AT)
    for point in POINTS:
        what = f"after {point:g} epochs, rate {RATE}"
        losses, accuracies = _of(curves, names, RATE, point)
        for name in names:
            yield record.mean(f"{name}, accuracy {what}", accuracies[name], "%")
            yield record.mean(f"{name}, loss {what}", losses[name], "nats")
        yield _lead(record, what, accuracies, no_target=point == _NO_TARGET)
    best = {name: _best(curves, name, POINTS[2]) for name in names}
    for name, (rate, accuracies) in best.items():
        yield record.mean(f"{name}, accuracy after {POINTS[2]:g} epochs, its best rate {rate}", accuracies, "%")
    yield _lead(record, f"after {POINTS[2]:g} epochs, best rate of each", {name: best[name][1] for name in names})


def _language_model(task: Task, seeds: Sequence[int], settings: Settings) -> Iterator[Record]:
    record, curves = Recording(SOURCES), Curves()
    points, names = POINTS[:2], (RANDOM, *WAYS)
    for seed, name in itertools.product(seeds, names):
        settings.show_progress(f"language model, {name}, seed {seed}")
        curves[name, RATE, seed] = _learn(task, name, RATE, seed, points=points, clip=None)
    for point in points:
        losses, _ = _of(curves, names, RATE, point)
        for name in names:
            yield record.mean(f"{name}, loss a token after {point:g} epochs", losses[name], "nats")
        for name in WAYS:
            target = LOSS_TARGET if name == STEPS else None
            more = _differences(losses[name], losses[RANDOM])
            yield record.mean(f"{name}, more loss than {RANDOM} after {point:g} epochs", more, "nats", target)


def _learn(task: Task, name: str, rate: float, seed: int, *, points: Sequence[float], clip: float | None) -> dict[float, Point]:
    """Train on the steps of a way, and test after the tokens of each number of epochs."""
    network, total = task.network(seed), int(task.lengths.sum())
    epochs = int(np.ceil(points[-1]))
    steps = _random_steps(task, seed, epochs) if name == RANDOM else task.steps_of(WAYS[name].loader(task, seed, epochs))
    ends = np.cumsum([task.lengths[rows].sum() for rows in steps])
    wanted = {int(np.searchsorted(ends, point * total - 1)) + 1: point for point in points}
    found: dict[float, Point] = {}
    for number in learning.train(task, network, steps, rate=rate, clip=clip, num_steps=max(wanted)):
        if number in wanted:
            found[wanted[number]] = Point(*task.test(network))
    return found


def _random_steps(task: Task, seed: int, epochs: int) -> list[Rows]:
    """Cut random rows into steps of equally many rows, or for a language model of equally many tokens."""
    keys = [1_000 * seed + epoch for epoch in range(epochs)]
    if task.is_language_model:
        return [rows for key in keys for rows in orders.random_tokens(task.lengths, MEAN_TOKENS, key)]
    return [rows for key in keys for rows in peers.random_batches(task.lengths, batch_size=_mean_rows(task), seed=key)]


def _mean_rows(task: Task) -> int:
    return max(1, round(MEAN_TOKENS / task.lengths.mean()))


# Means over seeds

Values = dict[str, list[float]]
"""By way, for each seed."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Makes records of a corpus."""

    corpus: str

    def value(self, what: str, value: float, unit: str, target: Target | None = None, error: float | None = None) -> Record:
        """Return the record of one number."""
        return Record(benchmark="lstm", corpus=self.corpus, what=what, value=value, unit=unit, target=target, error=error)

    def mean(self, what: str, values: Sequence[float], unit: str, target: Target | None = None) -> Record:
        """Return the record of a mean."""
        return self.value(what, statistics.mean(values), unit, target, _error(values))


def _of(curves: Curves, names: Sequence[str], rate: float, point: float) -> tuple[Values, Values]:
    """Return losses, and accuracies in percent, of all seeds."""
    points = {name: [curve[point] for (of, at, _), curve in curves.items() if (of, at) == (name, rate)] for name in names}
    losses = {name: [point.loss for point in found] for name, found in points.items()}
    return losses, {name: [100 * point.accuracy for point in found] for name, found in points.items()}


def _best(curves: Curves, name: str, point: float) -> tuple[float, list[float]]:
    """Return the rate with the best mean accuracy, and the accuracies of all seeds with it."""
    found = {rate: _of(curves, [name], rate, point)[1][name] for rate in sorted({rate for _, rate, _ in curves})}
    return max(found.items(), key=lambda pair: statistics.mean(pair[1]))


def _lead(record: Recording, what: str, accuracies: Values, *, no_target: bool = False) -> Record:
    """Return the lead of seqstream, with the target that it is not behind by more than noise."""
    differences = _differences(accuracies[STEPS], accuracies[RANDOM])
    target = None if no_target else Target(">=", -NOISE * round(_error(differences) or 0.0, 2))
    return record.mean(f"lead of {STEPS} {what}", differences, "%", target)


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ours, theirs, strict=True)]


def _error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
