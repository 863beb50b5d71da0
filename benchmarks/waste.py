"""How much is padding, in how many batches, and do long batches follow long ones?

Every corpus in the order in which it came, in the second epoch, whose windows are full. Each number is a mean over seeds,
of which a small corpus gets more. Beside ours stand, for the same rows: batches of random rows and those of transformers'
`LengthGroupedSampler`, as many rows a batch as ours have on average; and greedy filling, longest first, of each of our
windows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

import seqstream as ss
from benchmarks import corpus, peers
from benchmarks.proven import Proven, prove
from benchmarks.records import Record, Target
from benchmarks.settings import Settings
from seqstream.planning.batches import Lengths, fill_greedily, fitting_rows

MAX_TOKENS = 4_096
EPOCH = 1

WASTE_TARGET = Target("<=", 1.5)
WASTE_CORPORA = ("peps", "gsm8k", "movie_reviews", "gutenberg")
BATCHES_TARGET = 1.05
SAMPLER_TARGET = 2.0
CORRELATION_TARGETS = {"tatoeba": 0.15}
CORRELATION_TARGET = 0.05

_BATCHES_PER_SEED = 500
"""A corpus of fewer batches gets more seeds: the correlation of 40 numbers in random order is as likely 0.16 as not."""

_SMALLEST_BUDGET = 0.9
_BUDGETS = 100
"""Greedy filling with smaller budgets, down to this share in so many steps, has plans of as many batches as ours."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of one seed.

    Attributes:
        batches: Lengths of the rows of each batch, in the order served.
        windows: The window of each batch.
    """

    batches: list[Lengths]
    windows: list[int]

    @property
    def lengths(self) -> Lengths:
        """Lengths of all rows, ``int64 (N,)``."""
        return np.concatenate(self.batches)

    def window_plans(self) -> list[list[Lengths]]:
        """Return the batches of each window."""
        groups = itertools.groupby(zip(self.windows, self.batches, strict=True), key=lambda pair: pair[0])
        return [[batch for _, batch in group] for _, group in groups]


def measure(settings: Settings) -> Iterator[Record]:
    """Measure each corpus."""
    proven = prove(corpus.tokenizer())
    for name in corpus.names():
        text = settings.text(name)
        epochs: list[Epoch] = []
        while len(epochs) < settings.seeds or sum(len(epoch.batches) for epoch in epochs) < _BATCHES_PER_SEED * settings.seeds:
            settings.say(f"{name}, seed {len(epochs)}")
            epochs.append(_epoch(proven, text, seed=len(epochs)))
        yield from _records(name, epochs)


def _epoch(proven: Proven, text: Path, seed: int) -> Epoch:
    loader = proven.loader(ss.TextFiles(str(text)), ss.Bucket(max_tokens=MAX_TOKENS), seed=seed)
    loader.set_epoch(EPOCH)
    served = [(batch.lengths.numpy(), batch.window) for batch in loader]
    return Epoch([lengths for lengths, _ in served], [window for _, window in served])


def _records(name: str, epochs: Sequence[Epoch]) -> Iterator[Record]:
    def record(what: str, values: Sequence[float], unit: str) -> Record:
        return Record(benchmark="waste", corpus=name, what=what, value=float(np.mean(values)), unit=unit)

    greedy = [[_greedy(plan) for plan in epoch.window_plans()] for epoch in epochs]
    ours = record("padding, seqstream", [_percent(epoch.batches) for epoch in epochs], "%")
    sampler = record("padding, LengthGroupedSampler", [_sampler_padding(*pair) for pair in enumerate(epochs)], "%")
    if name in WASTE_CORPORA:
        ours = dataclasses.replace(ours, target=WASTE_TARGET)
    yield ours
    yield record("padding, greedy windows", [_percent(itertools.chain(*plans)) for plans in greedy], "%")
    yield sampler.against(ours, ">=", SAMPLER_TARGET)
    yield record("padding, random batches", [_random_padding(*pair) for pair in enumerate(epochs)], "%")
    fewest = record("batches, greedy windows", [sum(map(len, plans)) for plans in greedy], "")
    yield fewest
    yield record("batches, seqstream", [len(epoch.batches) for epoch in epochs], "").against(fewest, "<=", BATCHES_TARGET)
    excess = [_excess(plan) for epoch in epochs for plan in epoch.window_plans()]
    more = record(f"padding over greedy of as many batches, worst of {len(excess)} windows", [max(excess)], "%")
    yield dataclasses.replace(more, target=Target("<=", 0))
    following = abs(float(np.mean([_lag_one([int(lengths[0]) for lengths in epoch.batches]) for epoch in epochs])))
    apart = record(f"|correlation| of a batch's length with the next, mean of {len(epochs)} seeds", [following], "")
    yield dataclasses.replace(apart, target=Target("<=", CORRELATION_TARGETS.get(name, CORRELATION_TARGET)))


def _excess(plan: Sequence[Lengths]) -> float:
    """Return how much more of a window is padding, in percent, than with the best greedy filling of no more batches."""
    lengths = _longest_first(plan)
    budgets = np.linspace(_SMALLEST_BUDGET * MAX_TOKENS, MAX_TOKENS, _BUDGETS).astype(int)
    fillings = [_fill(lengths, int(budget)) for budget in budgets if budget >= lengths[0]]
    return _percent(plan) - min(_percent(filling) for filling in fillings if len(filling) <= len(plan))


def _greedy(plan: Sequence[Lengths]) -> list[Lengths]:
    return _fill(_longest_first(plan), MAX_TOKENS)


def _longest_first(plan: Sequence[Lengths]) -> Lengths:
    return -np.sort(-np.concatenate(plan))


def _fill(lengths: Lengths, max_tokens: int) -> list[Lengths]:
    cuts = fill_greedily(fitting_rows(lengths, max_tokens, None))
    return np.split(lengths, cuts[1:-1])


def _sampler_padding(seed: int, epoch: Epoch) -> float:
    return _percent_of(epoch, peers.length_grouped_batches(epoch.lengths, batch_size=_mean_rows(epoch), seed=seed))


def _random_padding(seed: int, epoch: Epoch) -> float:
    return _percent_of(epoch, peers.random_batches(epoch.lengths, batch_size=_mean_rows(epoch), seed=seed))


def _mean_rows(epoch: Epoch) -> int:
    return round(len(epoch.lengths) / len(epoch.batches))


def _percent_of(epoch: Epoch, batches: Sequence[peers.Rows]) -> float:
    lengths = epoch.lengths
    return _percent([lengths[rows] for rows in batches])


def _percent(batches: Iterable[Lengths]) -> float:
    """Return the share of padding, in percent, of batches given by the lengths of their rows."""
    sizes = np.array([(lengths.sum(), len(lengths) * lengths.max()) for lengths in batches])
    tokens, slots = sizes.sum(0)
    return float(100 * (1 - tokens / slots))


def _lag_one(values: Sequence[int]) -> float:
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])
