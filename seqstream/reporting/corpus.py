"""What a report knows of a corpus: it is read once, and of each row only numbers are kept.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from seqstream.loading.stage_lists import DataStage, lists_of, tokenizer_of
from seqstream.reporting.classes import ClassCounter, Classes
from seqstream.reporting.samples import SampleCollector, SampleSection
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.sources.token_files import TokenFiles
from seqstream.sources.tokens.arrow_store import ArrowStore
from seqstream.tuning.comparison import OnProgress
from seqstream.tuning.report import whole_rows
from seqstream.tuning.survey import Survey, columns_of_ids, survey_histogram, take_survey


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """One source of rows.

    Attributes:
        name: Its name in a mixture; else empty.
        survey: Lengths of whole rows, in the order of an epoch, and record counts.
        classes: The class of each row; ``None`` where no column has classes.
        samples: Some rows as text, and how many are suspicious; ``None`` where no row was read.
    """

    name: str
    survey: Survey
    classes: Classes | None
    samples: SampleSection | None


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a corpus is read.

    Attributes:
        label: Column of classes; ``None`` for the most likely one.
        seed: Seed of the order.
        limit: Read about this many tokens of each source; ``None`` reads all.
        on_progress: Receives the progress.
    """

    label: str | None = None
    seed: int = 0
    limit: int | None = None
    on_progress: OnProgress = lambda *_: None


def read_corpora(source: Source, stages: Sequence[DataStage], reading: Reading) -> list[Corpus]:
    """Read a source, or each source of a mixture, and tokenise it; token files are not read, as their manifest has the lengths.

    Args:
        source: The source.
        stages: The stages of its records.
        reading: How it is read.
    """
    lists, numbers = lists_of(source, tuple(stages))
    if not isinstance(source, Mixture):
        return [_read("", source, lists[0], reading)]
    return [
        _read(member.name, member.source, lists[number], reading)
        for member, number in zip(source.members, numbers, strict=True)
    ]


def histogram_of(source: Source, stages: Sequence[DataStage]) -> Survey | None:
    """Return the lengths of token files from their manifest; ``None`` where rows must be read to know them."""
    store = source._store if isinstance(source, TokenFiles) else None
    if not isinstance(store, ArrowStore) or stages or len(store.info.columns) != 1 or not store.manifest.lengths:
        return None
    return survey_histogram(store.manifest.lengths, sum(file.num_bytes for file in store.manifest.files))


def _read(name: str, source: Source, stages: Sequence[DataStage], reading: Reading) -> Corpus:
    known = histogram_of(source, stages)
    if known is not None:
        return Corpus(name, known, None, None)
    tokenize = tokenizer_of(stages)
    collector = SampleCollector(columns_of_ids(source, stages), tokenize)
    counter = ClassCounter(reading.label)

    def on_rows(records: Sequence[pa.Table], rows: Sequence[pa.Table]) -> None:
        for before, after in zip(records, rows, strict=True):
            collector.add(before, after)
            counter.add(after)

    total = source.approx_blocks()
    what = f"tokenising {name}" if name else "tokenising"
    fill = 0 if tokenize is not None and tokenize.empty == "keep" else None
    survey = take_survey(
        source,
        whole_rows(stages),
        seed=reading.seed,
        limit=reading.limit,
        fill=fill,
        on_blocks=lambda done: reading.on_progress(what, done, total),
        on_rows=on_rows,
    )
    return Corpus(name, survey, counter.chosen(), collector.section(source, survey))
