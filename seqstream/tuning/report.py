"""Plans a corpus with many budgets and windows from the lengths of its rows, and recommends one setting.

Everything here returns data, which `seqstream.tuning.printing` prints. Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import ID_BYTES, WindowSize
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import Json
from seqstream.sources.source import Source
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning.loader_code import write_loader
from seqstream.tuning.speed import measure_speed, num_measured_bytes, take_sample
from seqstream.tuning.survey import Survey, take_survey
from seqstream.windows.collecting import LAST
from seqstream.windows.settings import MAX_BYTES

OnProgress: TypeAlias = Callable[[str, float, float | None], None]
"""A callback that receives the name of the current task, how much of it is done, and the total, ``None`` if unknown."""

PERCENTILES = (50, 90, 95, 99)
LIMITS = (128, 256, 512, 1024, 2048, 4096)

ENOUGH_ROWS = 16
"""The least mean number of rows a batch for a recommended budget: with fewer, steps are uneven."""

NEAR_LEAST = 0.005
"""A larger window that saves at most this share of the slots is not worth its memory."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """The number of rows of ``low`` to ``high`` tokens, both included, and the number of their tokens."""

    low: int
    high: int
    rows: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The distribution of row lengths.

    Attributes:
        rows: Number of rows.
        tokens: Number of tokens of all rows.
        mean: Mean length of a row, in tokens.
        percentiles: Percentiles of the length, by per cent: 50, 90, ...
        longest: Length of the longest row, in tokens.
        over: Share of the rows above a limit, for each limit below the longest row.
        bins: Rows by length, each bin twice as wide as the one before.
    """

    rows: int
    tokens: int
    mean: float
    percentiles: dict[int, int]
    longest: int
    over: dict[int, float]
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way of batching a corpus, and what an epoch of it would be.

    Attributes:
        spec: The batch spec.
        max_tokens: Its budget; for random rows the budget of the `Bucket` with which they are compared.
        batches: Number of batches of an epoch.
        rows: Mean number of rows of a batch.
        padding: Share of the slots that is padding, 0 to 1.
        tokens_per_second: Measured real tokens a second of a loader; ``None`` if not measured.
    """

    spec: Bucket | Unbucketed
    max_tokens: int
    batches: int
    rows: float
    padding: float
    tokens_per_second: float | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as JSON, with the kind and the arguments of ``spec``."""
        return {**dataclasses.asdict(self), "spec": self.spec.fingerprint()}


@dataclasses.dataclass(frozen=True)
class Report:
    """A corpus, the settings that were compared, and the recommended one.

    Attributes:
        survey: Lengths of the rows, and record counts.
        distribution: The distribution of these lengths.
        max_length: Length to which longer rows are truncated, in all settings.
        settings: Settings by budget: first random rows, then buckets by growing window.
        measured_tokens: Number of tokens on which the speed of each setting was measured.
        best: The recommended setting.
        reason: Why it is recommended.
        code: Python code of a loader with this setting.
    """

    survey: Survey
    distribution: Distribution
    max_length: int
    settings: tuple[Setting, ...]
    measured_tokens: int
    best: Setting
    reason: str
    code: str

    @property
    def truncated(self) -> int:
        """Number of rows that are truncated."""
        return int(np.count_nonzero(self.survey.lengths > self.max_length))

    def to_json(self) -> dict[str, Json]:
        """Return all but the lengths themselves, as JSON."""
        return {
            "records": self.survey.records,
            "empty": self.survey.empty,
            "is_whole": self.survey.is_whole,
            "engine": self.survey.engine,
            "max_length": self.max_length,
            "truncated": self.truncated,
            "lengths": dataclasses.asdict(self.distribution),
            "settings": [setting.to_json() for setting in self.settings],
            "measured_tokens": self.measured_tokens,
            "recommended": {**self.best.to_json(), "reason": self.reason, "code": self.code},
        }


def make_report(
    source: Source,
    tokenize: Tokenize,
    budgets: Sequence[int],
    windows: Sequence[int],
    *,
    seed: int = 0,
    limit: int | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Report:
    """Read a corpus once, plan it with every budget and window, and measure each setting on a part of it.

    Args:
        source: The corpus.
        tokenize: How it is tokenised. Without ``max_length`` rows are truncated to the smallest budget.
        budgets: Values of ``Bucket(max_tokens=...)``.
        windows: Values of ``Bucket(window_batches=...)``.
        seed: Seed of the order.
        limit: Read about this many tokens; ``None`` reads the whole corpus.
        on_progress: Receives the progress of each task.

    Raises:
        ValueError: ``max_length`` is larger than a budget, or the corpus has no rows.
    """
    max_length = tokenize.max_length or min(budgets)
    if max_length > min(budgets):
        raise ValueError(f"budgets must be at least max_length={max_length}, got {min(budgets)}; lower max_length")
    total = source.approx_blocks()
    whole, tokenize = (dataclasses.replace(tokenize, max_length=length) for length in (None, max_length))
    survey = take_survey(source, whole, seed=seed, limit=limit, on_blocks=lambda done: on_progress("tokenising", done, total))
    planned = compare(survey, max_length, budgets, windows, on_progress=on_progress)
    sample = take_sample(source, num_measured_bytes(survey), seed=seed)
    measured = []
    for number, setting in enumerate(planned):
        on_progress("measuring", number, len(planned))
        speed = measure_speed(sample, tokenize, setting.spec, survey.engine, seed=seed)
        measured.append(dataclasses.replace(setting, tokens_per_second=speed.tokens / speed.seconds))
    best, reason = recommend(measured)
    distribution = describe(survey.lengths, sorted({*LIMITS, max_length}))
    # A smaller window mixes less and saves memory that few need, so the code names a window only if the default is too small.
    size = WindowSize()
    is_larger = best.max_tokens * (best.spec.window_batches or 0) > (size.num_bytes or 0) / ID_BYTES
    spec = best.spec if is_larger else dataclasses.replace(best.spec, window_batches=None)
    code = write_loader(source, tokenize, spec)
    return Report(survey, distribution, max_length, tuple(measured), speed.tokens, best, reason, code)


def describe(lengths: npt.NDArray[np.integer], limits: Sequence[int] = LIMITS) -> Distribution:
    """Return the distribution of positive lengths, ``(N,)`` with at least one row."""
    total = int(lengths.sum(dtype=np.int64))
    exponents = np.frexp(lengths - 0.5)[1]  # 1 -> 0, 2 -> 1, 3 and 4 -> 2, ...: a power of two ends a bin
    rows, tokens = np.bincount(exponents), np.bincount(exponents, lengths)
    bins = (Bin(2**e // 2 + 1 if e else 1, 2**e, int(rows[e]), int(tokens[e])) for e in range(exponents.min(), len(rows)))
    return Distribution(
        rows=len(lengths),
        tokens=total,
        mean=total / len(lengths),
        percentiles={each: int(np.percentile(lengths, each, method="higher")) for each in PERCENTILES},
        longest=int(lengths.max()),
        over={limit: float(np.count_nonzero(lengths > limit) / len(lengths)) for limit in limits if limit < lengths.max()},
        bins=tuple(bins),
    )


def compare(
    survey: Survey,
    max_length: int,
    budgets: Sequence[int],
    windows: Sequence[int],
    *,
    on_progress: OnProgress = lambda *_: None,
) -> list[Setting]:
    """Plan a corpus with every budget and window, and with random rows in batches of the same mean size.

    Of the windows that hold the whole corpus only the smallest is planned: larger ones give the same batches.

    Args:
        survey: Lengths of the corpus.
        max_length: Length to which longer rows are truncated; at most the smallest budget.
        budgets: Values of ``Bucket(max_tokens=...)``.
        windows: Values of ``Bucket(window_batches=...)``.
        on_progress: Called before each budget.
    """
    lengths = np.minimum(survey.lengths, max_length).astype(np.int64)
    total = int(lengths.sum())
    bytes_per_token = survey.num_bytes / total
    settings = []
    for number, budget in enumerate(sorted(set(budgets))):
        on_progress("planning", number, len(set(budgets)))
        buckets = [Bucket(budget, window_batches=window) for window in sorted(set(windows))]
        num_smaller = sum(1 for bucket in buckets if budget * (bucket.window_batches or 0) < total)
        planned = [plan_epoch(lengths, bucket, bytes_per_token) for bucket in buckets[: num_smaller + 1]]
        random = Unbucketed(max(1, round(planned[-1].rows)))
        settings += [dataclasses.replace(plan_epoch(lengths, random, bytes_per_token), max_tokens=budget), *planned]
    return settings


def plan_epoch(lengths: Lengths, spec: Bucket | Unbucketed, bytes_per_token: float = 0.0) -> Setting:
    """Plan an epoch of full windows, as a loader with ``shuffle=True`` does.

    Args:
        lengths: ``int64 (N,)``, tokens of each row in the order of an epoch, none over the budget.
        spec: The batch spec.
        bytes_per_token: Bytes of records in memory for each token: they limit a window here as in a loader.
    """
    budget = spec.max_tokens if isinstance(spec, Bucket) else None
    batch_tokens = budget or lengths.mean() * (spec.batch_size or 1)
    size = spec.window_size(shuffle=True)
    window_tokens = max(batch_tokens * (size.batches or 0), (size.num_bytes or 0) / ID_BYTES)
    window_tokens = min(window_tokens, MAX_BYTES / bytes_per_token if bytes_per_token else math.inf)
    batches = slots = 0
    for number, rows in enumerate(np.split(lengths, cut_windows(lengths, window_tokens))):
        plan = spec.plan(rows, key=(number,))
        batches += len(plan)
        slots += int(np.dot(np.diff(plan.cuts), plan.padded(rows)))
    return Setting(spec, budget or 0, batches, len(lengths) / batches, 1 - int(lengths.sum()) / slots)


def cut_windows(lengths: Lengths, window_tokens: float) -> npt.NDArray[np.int64]:
    """Return the rows at which all windows but the first begin; each has ``window_tokens``, the last up to a quarter more."""
    ends = np.cumsum(lengths)
    marks = window_tokens * np.arange(1, math.ceil(ends[-1] / window_tokens - (LAST - 1)))
    cuts = np.unique(np.searchsorted(ends, marks) + 1)
    return cuts[cuts < len(lengths)]


def recommend(settings: Sequence[Setting]) -> tuple[Setting, str]:
    """Return the recommended setting and the reason.

    The budget is the smallest whose batches hold `ENOUGH_ROWS` rows on average, else the largest. The window is the smallest
    whose padding is within `NEAR_LEAST` of the least.
    """
    buckets = [setting for setting in settings if isinstance(setting.spec, Bucket)]
    enough = [setting.max_tokens for setting in buckets if setting.rows >= ENOUGH_ROWS]
    budget = min(enough) if enough else max(setting.max_tokens for setting in buckets)
    at_budget = [setting for setting in buckets if setting.max_tokens == budget]
    least = min(setting.padding for setting in at_budget)
    best = next(setting for setting in at_budget if setting.padding <= least + NEAR_LEAST)
    random = next(setting for setting in settings if setting.max_tokens == budget and setting not in buckets)
    why = f"smallest budget with {ENOUGH_ROWS} rows a batch or more" if enough else "largest budget, for more rows a batch"
    saved = (1 - best.padding) / (1 - random.padding)
    return best, (
        f"{why} ({best.rows:,.0f}), and the smallest window within {NEAR_LEAST:.1%} of the least padding; "
        f"random batches of this size compute {saved:.1f} times the slots"
    )
