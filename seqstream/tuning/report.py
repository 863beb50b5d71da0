"""Plans a corpus with many budgets and windows from the lengths of its rows, and recommends one setting.

Everything here returns data, which `seqstream.tuning.printing` prints. Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqstream.arrays import Lengths
from seqstream.loading.stage_lists import DataStage, tokenizer_of
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.records import Json
from seqstream.sources.source import Source
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning.comparison import OnProgress, compare, default_window, fitting_budgets, recommend
from seqstream.tuning.distribution import LIMITS, Distribution, describe
from seqstream.tuning.loader_code import write_loader
from seqstream.tuning.planned_epoch import Setting, Spec
from seqstream.tuning.row_limit import MOST_LOST, RowLimit
from seqstream.tuning.speed import measure_speed, num_measured_bytes, take_sample
from seqstream.tuning.survey import Survey, take_survey


@dataclasses.dataclass(frozen=True)
class Report:
    """A corpus, the settings that were compared, and the recommended one.

    Attributes:
        survey: Lengths of whole records, and record counts.
        distribution: The distribution of these lengths.
        limit: The longest row in all settings, and what becomes of longer records.
        settings: Settings by budget: first random rows, then buckets by growing window.
        measured_tokens: Number of tokens on which the speed of each setting was measured; 0 if it was not.
        best: The recommended setting.
        reason: Why it is recommended.
        code: Python code of a loader with this setting.
        packed_code: Python code of a loader that packs long documents of a language model; ``None`` where rows are short.
        advice: Sentences on what to change.
    """

    survey: Survey
    distribution: Distribution
    limit: RowLimit
    settings: tuple[Setting, ...]
    measured_tokens: int
    best: Setting
    reason: str
    code: str
    packed_code: str | None = None
    advice: tuple[str, ...] = ()

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest row in all settings; ``None`` where ids are given and nothing is cut."""
        return self.limit.max_length

    @property
    def too_long(self) -> int:
        """Number of records that are longer than ``max_length``."""
        return 0 if self.max_length is None else int(np.count_nonzero(self.survey.lengths > self.max_length))

    @property
    def truncated(self) -> int:
        """Number of rows that are truncated."""
        return self.too_long if self.limit.overflow == "truncate" else 0

    def to_json(self) -> dict[str, Json]:
        """Return all but the lengths themselves, as JSON."""
        return {
            "records": self.survey.records,
            "empty": self.survey.empty,
            "is_whole": self.survey.is_whole,
            "engine": self.survey.engine,
            "max_length": self.max_length,
            "overflow": self.limit.overflow,
            "too_long": self.too_long,
            "truncated": self.truncated,
            "lengths": dataclasses.asdict(self.distribution),
            "settings": [setting.to_json() for setting in self.settings],
            "measured_tokens": self.measured_tokens,
            "recommended": {**self.best.to_json(), "reason": self.reason, "code": self.code, "packed_code": self.packed_code},
            "advice": list(self.advice),
        }


def make_report(
    source: Source,
    stages: Tokenize | Sequence[DataStage],
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
        stages: The stages of its records. Where a `Tokenize` has no ``max_length``, rows are as long as the smallest budget at
            most.
        budgets: Values of ``Bucket(max_tokens=...)``.
        windows: Values of ``Bucket(window_batches=...)``.
        seed: Seed of the order.
        limit: Read about this many tokens; ``None`` reads the whole corpus.
        on_progress: Receives the progress of each task.

    Raises:
        ValueError: ``max_length`` is larger than a budget, or the corpus has no rows.
    """
    stages = (stages,) if isinstance(stages, Tokenize) else tuple(stages)
    check_budgets(stages, budgets)
    total = source.approx_blocks()
    survey = take_survey(
        source,
        whole_rows(stages),
        seed=seed,
        limit=limit,
        on_blocks=lambda done: on_progress("tokenising", done, total),
    )
    return summarise(survey, source, stages, budgets, windows, seed=seed, on_progress=on_progress)


def check_budgets(stages: Sequence[DataStage], budgets: Sequence[int]) -> None:
    """Raise `ValueError` if the longest row of the stages does not fit the smallest budget."""
    max_length = getattr(tokenizer_of(stages), "max_length", None)
    if max_length is not None and max_length > min(budgets):
        raise ValueError(f"budgets must be at least max_length={max_length}, got {min(budgets)}; lower max_length")


def whole_rows(stages: Sequence[DataStage]) -> tuple[DataStage, ...]:
    """Return the stages without a limit of the length of a row."""
    return tuple(
        dataclasses.replace(stage, max_length=None, overflow="truncate") if isinstance(stage, Tokenize) else stage
        for stage in stages
    )


def summarise(
    survey: Survey,
    source: Source,
    stages: Sequence[DataStage],
    budgets: Sequence[int],
    windows: Sequence[int],
    *,
    seed: int = 0,
    longest: int | None = None,
    given: Spec | None = None,
    options: Mapping[str, Any] = types.MappingProxyType({}),
    is_measured: bool = True,
    on_progress: OnProgress = lambda *_: None,
) -> Report:
    """Plan a corpus with every budget and window, and recommend one.

    Args:
        survey: Lengths of whole records.
        source: The corpus.
        stages: The stages of its records.
        budgets: Values of ``Bucket(max_tokens=...)``; those that the longest row does not fit are left out.
        windows: Values of ``Bucket(window_batches=...)``.
        seed: Seed of the order.
        longest: Longest row where a `Tokenize` has no ``max_length``, by default the smallest budget.
        given: The batch spec of the loader that is looked at, whose options the code keeps.
        options: Options of this loader, which the code keeps.
        is_measured: Whether the speed of each setting is measured on a part of the corpus.
        on_progress: Receives the progress of each task.
    """
    tokenize, whole = tokenizer_of(stages), survey.lengths.astype(np.int64)
    limit = RowLimit.of(tokenize, whole, longest or min(budgets))
    lengths = limit.apply(whole)
    smallest, budgets = min(budgets), fitting_budgets(budgets, int(lengths.max()))
    planned = compare(lengths, budgets, windows, num_bytes=survey.num_bytes, scale=survey.scale, on_progress=on_progress)
    cut = tuple(
        dataclasses.replace(stage, max_length=limit.max_length, overflow=limit.overflow) if stage is tokenize else stage
        for stage in stages
    )
    measured, measured_tokens = planned, 0
    if is_measured:
        measured, measured_tokens = measure(planned, survey, source, cut, seed=seed, on_progress=on_progress)
    best, reason = recommend(measured)
    distribution = describe(survey.lengths, sorted({*LIMITS, limit.max_length or LIMITS[0]}), survey.scale)
    code = write_loader(source, *cut, with_options(default_window(best), given), **options)
    row_length = min(limit.max_length or smallest, best.max_tokens)
    packed_code = None
    if limit.overflow == "split" or RowLimit(row_length).lost(whole) > MOST_LOST:
        pack = Pack(row_length, rows=max(1, best.max_tokens // row_length), overflow="split")
        packed_code = write_loader(source, *whole_rows(stages), pack, **options)
    advice = advise(limit, whole, row_length)
    return Report(survey, distribution, limit, tuple(measured), measured_tokens, best, reason, code, packed_code, advice)


def with_options(best: Spec, given: Spec | None) -> Spec:
    """Return the recommended spec, with the options of the one that was given; that itself if its shapes are fixed."""
    if not isinstance(given, Bucket) or not isinstance(best, Bucket) or given.max_tokens is None:
        return best
    if given.shapes is not None and not isinstance(given.shapes, int):
        return given
    sizes = {name: getattr(best, name) for name in ("max_tokens", "window_batches", "window_bytes")}
    return dataclasses.replace(given, **sizes)


def advise(limit: RowLimit, lengths: Lengths, row_length: int) -> tuple[str, ...]:
    """Return what to change about rows that are too long.

    Args:
        limit: The longest row.
        lengths: ``int64 (N,)``, tokens of whole records.
        row_length: Slots of a packed row.
    """
    if limit.max_length is None and RowLimit(row_length).lost(lengths) > MOST_LOST:
        over = float(np.count_nonzero(lengths > row_length) / len(lengths))
        remedy = "for a language model Pack(overflow='split') fills shorter rows with them"
        return (f"{over:.1%} of the rows are longer than {row_length:,} tokens, and a batch must hold the longest; {remedy}",)
    share = float(np.count_nonzero(lengths > (limit.max_length or 0)) / len(lengths))
    lost = limit.lost(lengths)
    if limit.overflow == "split" and share:
        cut = RowLimit(limit.max_length).lost(lengths)
        long = f"{share:.1%} of the records are longer than {limit.max_length:,} tokens, and truncated there they would lose"
        remedy = "so overflow='split' makes pieces of them; for a language model Pack fills rows with them"
        return (f"{long} {cut:.0%} of all tokens, {remedy}",)
    if lost > MOST_LOST:
        remedy = "overflow='split' keeps them in pieces, and so does Pack(overflow='split') for a language model"
        return (f"max_length={limit.max_length} loses {lost:.0%} of all tokens; {remedy}",)
    return ()


def measure(
    planned: Sequence[Setting],
    survey: Survey,
    source: Source,
    stages: Sequence[DataStage],
    *,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> tuple[list[Setting], int]:
    """Return the settings with their speed, measured on a part of the corpus, and the number of its tokens."""
    sample = take_sample(source, num_measured_bytes(survey, len(planned)), seed=seed)
    measured, tokens = [], 0
    for number, setting in enumerate(planned):
        on_progress("measuring", number, len(planned))
        speed = measure_speed(sample, stages, setting.spec, seed=seed)
        tokens = speed.tokens
        measured.append(dataclasses.replace(setting, tokens_per_second=speed.tokens / speed.seconds))
    return measured, tokens
