"""How much is padding, in how many batches, and do consecutive batches have all lengths?

Every corpus is read in the order of its file, in the second epoch, whose windows are full. Each number is a mean over seeds,
and a small corpus has more of them. seqstream is compared, on the same rows, with batches of random rows and of
`LengthGroupedSampler` of transformers, with the same mean number of rows; and with greedy filling, longest first, of each
window of seqstream.

A corpus of at most 64 MiB of ids is one window, in the first epoch too. The first epoch of a larger corpus begins with a small
window. What that costs is measured with windows of a sixth of the corpus, and of a half: the padding of the first epoch over
that of the second.

Any 16 consecutive batches of a window must be a fair sample of it. The deviation is the share of their tokens in each octile of
the window by length, less the share of the window, in absolute values summed over octiles: 0 for a perfect sample, about 0.5
for 16 random batches. The worst of thousands of runs must deviate no more than random ones on average. A fixed bound would not
suit all corpora: with few batches a window the edges of octiles cut through them, and with few different lengths batches of one
length are on both sides of an edge. Windows of less than 64 batches are too coarse for octiles, and are left out. The
correlation of the length of a batch with that of the next has no bound: a long batch follows a short one on purpose, which
makes it about -0.6.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import ID_BYTES
from seqstream.planning.bucket_cuts import fill_greedily, fitting_rows
from seqstream.planning.run_shares import RUN, run_deviations
from seqstream.testing.laws import FEWEST_BATCHES

MAX_TOKENS = 4_096
EPOCH = 1

WASTE_TARGET = Target("<=", 1.5)
WASTE_CORPORA = ("peps", "gsm8k", "movie_reviews", "gutenberg")
BATCHES_TARGET = 1.05
SAMPLER_TARGET = 2.0
MEAN_TARGET = Target("<=", 0.15)
WORST_TARGET = 1.0

GROWTH_TARGETS = {6: 1.3, 2: 2.0}
"""Bound of the padding of the first epoch over that of the second, by the number of windows of the corpus."""

GROWTH_TARGET_OF_MANY = {"tatoeba": 1.5}
"""The same for corpora with few lengths, where less than a hundredth is padding and a single batch matters."""

_PARTS = {6: "sixth", 2: "half"}

_BATCHES_PER_SEED = 500
"""Smaller corpora have more seeds, until there are this many batches for each of the usual ones."""

_SMALLEST_BUDGET = 0.9
_BUDGETS = 100
"""Greedy filling also tries budgets down to this share, in `_BUDGETS` steps, to have as many batches as seqstream."""


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
    proven = prove(corpora.tokenizer())
    for name in corpora.names():
        text = settings.text(name)
        epochs: list[Epoch] = []
        while len(epochs) < settings.seeds or sum(len(epoch.batches) for epoch in epochs) < _BATCHES_PER_SEED * settings.seeds:
            settings.show_progress(f"{name}, seed {len(epochs)}")
            epochs.append(_epoch(proven, text, seed=len(epochs)))
        yield from _records(name, epochs)
        yield from _composition(name, epochs)
        settings.show_progress(f"{name}, the first epoch")
        yield from _growth(name, proven, text, int(epochs[0].lengths.sum()), max(1, settings.seeds // 2))


def _epoch(proven: Proven, text: Path, seed: int) -> Epoch:
    loader = proven.loader(ss.TextFiles(str(text)), ss.Bucket(max_tokens=MAX_TOKENS), seed=seed)
    loader.set_epoch(EPOCH)
    return _served(loader)


def _served(loader: ss.Loader) -> Epoch:
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


def _composition(name: str, epochs: Sequence[Epoch]) -> Iterator[Record]:
    """Yield the deviation of consecutive batches from their window, and that of a random order."""
    windows = [plan for epoch in epochs for plan in epoch.window_plans() if len(plan) >= FEWEST_BATCHES]
    if not windows:
        return
    draw = np.random.default_rng(0)
    served = np.concatenate([_deviations(plan, range(len(plan))) for plan in windows])
    shuffled = np.concatenate([_deviations(plan, draw.permutation(len(plan))) for plan in windows])

    def record(how: str, value: float, target: Target | None = None) -> Record:
        return Record(
            benchmark="waste", corpus=name, what=f"{RUN} batches off their window, {how}", value=value, unit="", target=target
        )

    at_random = record(f"shuffled, mean of {len(shuffled):,}", float(shuffled.mean()))
    yield record(f"mean of {len(served):,}", float(served.mean()), MEAN_TARGET)
    yield at_random
    yield record("worst", float(served.max())).against(at_random, "<=", WORST_TARGET)
    yield record("shuffled, worst", float(shuffled.max()))


def _deviations(plan: Sequence[Lengths], order: Iterable[int]) -> npt.NDArray[np.float64]:
    """Return the deviation of each run of batches in an order from the window, summed over octiles."""
    batches = np.array([(plan[number].max(), plan[number].sum()) for number in order], dtype=np.float64)
    off: npt.NDArray[np.float64] = run_deviations(*batches.T).sum(axis=1)
    return off


def _growth(name: str, proven: Proven, text: Path, num_tokens: int, num_seeds: int) -> Iterator[Record]:
    """Compare the padding of the first epoch with that of the second, for corpora of several windows and of one."""
    for num_windows in (None, *GROWTH_TARGETS):
        num_bytes = None if num_windows is None else ID_BYTES * num_tokens // num_windows
        spec = ss.Bucket(MAX_TOKENS, window_bytes=num_bytes)
        loaders = [proven.loader(ss.TextFiles(str(text)), spec, seed=seed) for seed in range(num_seeds)]
        first, second = ([_served(loader) for loader in loaders] for _ in range(2))
        limit = 1.0 if num_windows is None else GROWTH_TARGETS[num_windows]
        if num_windows == max(GROWTH_TARGETS):
            limit = GROWTH_TARGET_OF_MANY.get(name, limit)
        of = "default windows" if num_windows is None else f"windows of a {_PARTS[num_windows]}"
        later, sooner = (
            Record(
                benchmark="waste",
                corpus=name,
                what=f"padding, {which} epoch, {of}: {_how_many(epochs)}",
                value=float(np.mean([_percent(epoch.batches) for epoch in epochs])),
                unit="%",
            )
            for which, epochs in (("second", second), ("first", first))
        )
        yield later
        yield sooner.against(later, "<=", limit)


def _how_many(epochs: Sequence[Epoch]) -> str:
    """Return a text for the number of windows of epochs."""
    counts = sorted({len(set(epoch.windows)) for epoch in epochs})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _excess(plan: Sequence[Lengths]) -> float:
    """Return the padding of a window, in percent, less that of the best greedy filling with at most as many batches."""
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
