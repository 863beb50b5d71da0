"""How much sooner does an LSTM learn?

The classifier of `examples/train_lstm.py` is trained with random padded batches and with `Bucket`, for each learning rate
of one grid and each seed, one way after the other. Steps of both hold as many rows, and so as many real tokens, on average.
Seconds are those of training, reading and tokenising included, evaluation left out. Accuracies are means over the seeds,
with the learning rate that is best for that way and that accuracy: after equal tokens, and after equal time, the seconds
that the bucketed run took for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import seqstream as ss
from benchmarks.corpus import DOCSTRINGS
from benchmarks.records import Record, Target
from benchmarks.settings import Settings
from examples import corpus
from seqstream.sources.protocol import Source

SEEDS = (0, 1, 2)
RATES = (5e-3, 1e-2, 2e-2)
MAX_TOKENS = 4_096
MAX_LENGTH = 256
TOKENS = 800_000

SPEED_TARGET = 2.0
NOISE = 2
"""Means that differ by less than so many standard errors are equal within seed noise."""

_BYTES_PER_TOKEN_OF_LESS = 20
"""Where corpora are cut to so many bytes, training is cut to so many tokens."""

RANDOM, BUCKET = "random padded batches", "Bucket"


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, and how it is batched.

    Attributes:
        example: The module of `examples/train_lstm.py`: model and test.
        source: Training records, labels as numbers after ``stages``.
        stages: What makes rows of them.
        test: Batches to test on.
        specs: Both ways of batching.
        mean_rows: Rows of a batch, on average.
    """

    example: Any
    source: Source
    stages: tuple[ss.Map, ss.Tokenize]
    test: list[ss.Batch]
    specs: dict[str, ss.InOrder | ss.Bucket]
    mean_rows: int


@dataclasses.dataclass(frozen=True)
class Training:
    """One run.

    Attributes:
        seconds: How long it trained.
        tokens: Real tokens that it trained on.
        waste: Share of padding in its batches.
        accuracy: Share of the test rows that it has right at its end.
        early_accuracy: The same after the seconds that were asked for.
    """

    seconds: float
    tokens: int
    waste: float
    accuracy: float
    early_accuracy: float


Runs = dict[tuple[str, float, int], Training]
"""By way, learning rate and seed."""


def measure(settings: Settings) -> Iterator[Record]:
    """Train both ways."""
    whole = settings.max_bytes is None
    rates, seeds = (RATES, SEEDS) if whole else (RATES[-1:], SEEDS[: settings.repeats])
    tokens = settings.max_bytes // _BYTES_PER_TOKEN_OF_LESS if settings.max_bytes else TOKENS
    task, runs = _task(), Runs()
    for rate, seed in itertools.product(rates, seeds):
        settings.say(f"learning rate {rate}, seed {seed}")
        with _one_thread():
            bucketed = runs[BUCKET, rate, seed] = _train(task, BUCKET, rate, seed, tokens=tokens, early=math.inf)
            runs[RANDOM, rate, seed] = _train(task, RANDOM, rate, seed, tokens=tokens, early=bucketed.seconds)
    yield from _records(runs)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute on one thread: two of a model so small wait for each other, which takes ages if a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _records(runs: Runs) -> Iterator[Record]:
    def record(what: str, value: float, unit: str, target: Target | None = None) -> Record:
        return Record(benchmark="lstm", corpus=DOCSTRINGS, what=what, value=value, unit=unit, target=target)

    slow, fast = (
        record(f"{way}, real tokens", _median(runs, way, lambda run: run.tokens / run.seconds), "tokens/s")
        for way in (RANDOM, BUCKET)
    )
    yield slow
    yield fast.against(slow, ">=", SPEED_TARGET)
    for way in (RANDOM, BUCKET):
        yield record(f"{way}, padding", _median(runs, way, lambda run: 100 * run.waste), "%")
    early = {RANDOM: lambda run: run.early_accuracy, BUCKET: lambda run: run.accuracy}
    final = {RANDOM: lambda run: run.accuracy, BUCKET: lambda run: run.accuracy}
    for what, accuracies, noise in (("after equal tokens", final, NOISE), ("after equal time", early, 0)):
        ours, theirs = _best(runs, BUCKET, accuracies[BUCKET]), _best(runs, RANDOM, accuracies[RANDOM])
        for way, values in ((RANDOM, theirs), (BUCKET, ours)):
            yield record(f"{way}, accuracy {what}", 100 * statistics.mean(values), "%")
        lead = 100 * (statistics.mean(ours) - statistics.mean(theirs))
        spread = 100 * math.sqrt((_variance(ours) + _variance(theirs)) / len(ours))
        target = Target(">=", -noise * round(spread, 2))
        yield record(f"lead of {BUCKET} {what}, standard error {spread:.2f}", lead, "%", target)


def _median(runs: Runs, way: str, value: Callable[[Training], float]) -> float:
    return statistics.median(value(run) for (of, _, _), run in runs.items() if of == way)


def _best(runs: Runs, way: str, value: Callable[[Training], float]) -> list[float]:
    """Return the values of all seeds for the learning rate with the best mean."""
    rates = {rate for _, rate, _ in runs}
    found = [[value(run) for (of, at, _), run in runs.items() if (of, at) == (way, rate)] for rate in rates]
    return max(found, key=statistics.mean)


def _variance(values: list[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else 0.0


def _task() -> Task:
    example = _example()
    training, testing = ss.JsonLines(str(corpus.docstrings())).split(valid=0.1, seed=0)
    stages = (ss.Map(example.number_labels), ss.Tokenize(str(corpus.tokenizer()), max_length=MAX_LENGTH))
    bucket = ss.Bucket(max_tokens=MAX_TOKENS)
    probe = ss.Loader(training, *stages, bucket)
    for _ in probe:
        pass
    mean_rows = round(probe.stats.rows / probe.stats.batches)
    specs: dict[str, ss.InOrder | ss.Bucket] = {BUCKET: bucket, RANDOM: ss.InOrder(mean_rows)}
    return Task(example, training, stages, list(ss.Loader(testing, *stages, bucket)), specs, mean_rows)


def _train(task: Task, way: str, rate: float, seed: int, *, tokens: int, early: float) -> Training:
    """Train on so many real tokens, and look at the accuracy when ``early`` seconds are over as well."""
    torch.manual_seed(seed)
    model: nn.Module = task.example.Classifier()
    loader = ss.Loader(task.source, *task.stages, task.specs[way], epochs=None, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    early_accuracy: float | None = None
    tested, begun = 0.0, time.perf_counter()
    for batch in loader:
        logits = model(batch.input_ids, batch.lengths)
        # Divided by a constant, every row weighs the same, in a batch of many and in one of few.
        loss = nn.functional.cross_entropy(logits, batch.label, reduction="sum") / task.mean_rows
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if early_accuracy is None and time.perf_counter() - begun - tested >= early:
            asked = time.perf_counter()
            early_accuracy = task.example.accuracy(model, task.test)
            tested += time.perf_counter() - asked
        if loader.stats.tokens >= tokens:
            break
    seconds = time.perf_counter() - begun - tested
    accuracy = task.example.accuracy(model, task.test)
    if early_accuracy is None:
        early_accuracy = accuracy
    return Training(seconds, loader.stats.tokens, loader.stats.waste, accuracy, early_accuracy)


def _example() -> Any:
    """Return the module of the example, which finds its neighbours as it does when it is run."""
    folder = str(Path(__file__).parent.parent / "examples")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("train_lstm")
    finally:
        sys.path.remove(folder)
