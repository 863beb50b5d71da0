"""All sections of the page as data, computed from the lengths of the rows.

Legend: ``N`` rows of an epoch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Index
from seqstream.loading.expected_run import ExpectedRun
from seqstream.planning.bucket import Bucket
from seqstream.planning.length_counts import LengthCounts
from seqstream.reporting.classes import Classes, mix_classes
from seqstream.reporting.corpus import Corpus
from seqstream.reporting.drawn_batches import DrawnSection, draw_batches
from seqstream.reporting.epoch_steps import StepSection, describe_steps
from seqstream.reporting.fixed_lengths import PackSection, ShapeSection, choose_shapes, fill_rows
from seqstream.reporting.lengths import LengthSection, describe_lengths
from seqstream.reporting.mixture_shares import MixtureSection, describe_mixture, mix_rows
from seqstream.reporting.padding_curves import PaddingPoint, padding_points
from seqstream.reporting.samples import SampleSection
from seqstream.reporting.served_batches import Prediction, predict_epoch, serve_first_window
from seqstream.reporting.stragglers import Straggling, straggle
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.tuning.comparison import OnProgress
from seqstream.tuning.planned_epoch import Spec, budget_of
from seqstream.tuning.report import Report
from seqstream.tuning.survey import Survey


@dataclasses.dataclass(frozen=True, eq=False)
class EpochRows:
    """The rows of an epoch in its order, before they are cut.

    Attributes:
        survey: Their lengths, and counts of all sources.
        sources: ``int64 (N,)``, number of the source of each row; ``None`` for one source.
        names: Names of the sources.
        classes: The class of each row; ``None`` if there is none.
        mixture: The shares of a mixture; ``None`` for one source.
    """

    survey: Survey
    sources: Index | None = None
    names: tuple[str, ...] = ()
    classes: Classes | None = None
    mixture: MixtureSection | None = None


def epoch_rows(source: Source, corpora: Sequence[Corpus]) -> EpochRows:
    """Return the rows of an epoch, of a source or of a mixture."""
    if not isinstance(source, Mixture):
        return EpochRows(corpora[0].survey, classes=corpora[0].classes)
    surveys = [corpus.survey for corpus in corpora]
    lengths = [survey.lengths.astype(np.int64) for survey in surveys]
    tokens = np.array([float(survey.tokens) for survey in surveys])
    section = describe_mixture(source, lengths)
    run = ExpectedRun.of(source, tokens)
    wanted = tokens if run is None else run.shares * run.tokens
    mixed, sources, numbers = mix_rows(lengths, wanted.tolist())
    survey = Survey(
        mixed.astype(np.int32),
        sum(each.records for each in surveys),
        sum(each.empty for each in surveys),
        round(sum(each.num_bytes * want / size for each, want, size in zip(surveys, wanted, tokens, strict=True))),
        all(each.is_whole for each in surveys),
        " and ".join(sorted({each.engine for each in surveys})),
        sum(each.seconds for each in surveys),
    )
    classes = mix_classes([corpus.classes for corpus in corpora], sources, numbers)
    return EpochRows(survey, sources, tuple(source.names), classes, section)


@dataclasses.dataclass(frozen=True, eq=False)
class Sections:
    """The sections of the page; each is described where it is made.

    Attributes:
        prediction: What an epoch of the recommended, or of the given, loader will be.
        random: What an epoch of random batches of the same size would be.
        lengths: How long rows are.
        drawn: Batches drawn.
        padding: Padding by budget and window.
        steps: What steps meet.
        shapes: Fixed shapes.
        packing: Packed rows.
        ranks: Ranks that wait for each other.
        mixture: Shares of a mixture; ``None`` for one source.
        samples: Rows as text, by source; none where no row was read.
    """

    prediction: Prediction
    random: Prediction
    lengths: LengthSection
    drawn: DrawnSection
    padding: tuple[PaddingPoint, ...]
    steps: StepSection
    shapes: ShapeSection
    packing: PackSection
    ranks: tuple[Straggling, ...]
    mixture: MixtureSection | None
    samples: dict[str, SampleSection]


def make_sections(
    rows: EpochRows,
    corpora: Sequence[Corpus],
    summary: Report,
    spec: Spec,
    *,
    batches_per_step: int = 1,
    is_cut_by_spec: bool = False,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
) -> Sections:
    """Compute all sections.

    Args:
        rows: The rows of an epoch.
        corpora: The sources that were read.
        summary: The settings that were compared.
        spec: The batch spec of the loader that is shown.
        batches_per_step: Batches of an optimiser step, of all ranks.
        is_cut_by_spec: Whether the spec gets whole rows, and cuts them itself, as a `Pack` may.
        seed: Seed of orders.
        on_progress: Receives the progress.
    """
    whole = rows.survey.lengths.astype(np.int64)
    lengths = summary.limit.apply(whole)
    bucket = spec if isinstance(spec, Bucket) and spec.max_tokens else summary.best.spec
    max_tokens = budget_of(bucket) or summary.best.max_tokens
    bytes_per_token = rows.survey.num_bytes / max(1, int(whole.sum()))
    others = [each for each in summary.settings if not isinstance(each.spec, Bucket)]
    random = min(others, key=lambda each: abs(each.max_tokens - max_tokens))
    on_progress("looking at steps", 0, 3)
    packing = fill_rows(whole, seed=seed)
    drawn, steps = _steps(rows, summary, bucket, max(packing.best.row_length, int(lengths.max())), seed)
    on_progress("simulating ranks", 1, 3)
    ranks = straggle(lengths, max_tokens, seed=seed)
    on_progress("comparing", 2, 3)
    predict = functools.partial(
        predict_epoch, bytes_per_token=bytes_per_token, batches_per_step=batches_per_step, scale=rows.survey.scale
    )
    return Sections(
        predict(whole if is_cut_by_spec else lengths, spec),
        predict(lengths, random.spec),
        describe_lengths(LengthCounts.of(whole)),
        drawn,
        tuple(padding_points(lengths, summary.settings, seed=seed)),
        steps,
        choose_shapes(lengths, max_tokens),
        packing,
        tuple(ranks),
        rows.mixture,
        {corpus.name: corpus.samples for corpus in corpora if corpus.samples is not None},
    )


def _steps(rows: EpochRows, summary: Report, bucket: Spec, row_length: int, seed: int) -> tuple[DrawnSection, StepSection]:
    """Return the sections that look at the batches of the first window.

    Args:
        rows: The rows of an epoch.
        summary: The settings that were compared.
        bucket: How rows are batched.
        row_length: Slots of a packed row, at most the budget.
        seed: Seed of random batches.
    """
    whole = rows.survey.lengths.astype(np.int64)
    lengths, origins = summary.limit.apply(whole), summary.limit.origins(whole)
    bytes_per_token = rows.survey.num_bytes / max(1, int(whole.sum()))
    max_tokens = budget_of(bucket) or summary.best.max_tokens
    sources = None if rows.sources is None else rows.sources[origins]
    classes = rows.classes and dataclasses.replace(rows.classes, codes=rows.classes.codes[origins])
    served = serve_first_window(lengths, bucket, bytes_per_token, sources)
    balanced = serve_first_window(lengths, bucket, bytes_per_token, classes.codes) if classes else None
    named = None if sources is None else (sources, rows.names)
    steps = describe_steps(lengths, served, balanced, sources=named, classes=classes or None, seed=seed)
    return draw_batches(lengths, served, max_tokens, min(max_tokens, row_length)), steps
