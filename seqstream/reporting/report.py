"""`report`: what users call to see a corpus, and the object that it returns."""

from __future__ import annotations

import dataclasses
import functools
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from seqstream.arrays import Lengths
from seqstream.planning.bucket import SAMPLE_BATCHES, Bucket
from seqstream.records import Json
from seqstream.reporting.corpus import Corpus, Reading, read_corpora
from seqstream.reporting.progress import progress_bar
from seqstream.reporting.request import WINDOWS, Data, Request, read_request
from seqstream.reporting.sections import EpochRows, Sections, epoch_rows, make_sections
from seqstream.sources.mixture import Mixture
from seqstream.tuning.comparison import default_window
from seqstream.tuning.planned_epoch import Spec, budget_of
from seqstream.tuning.printing import print_report
from seqstream.tuning.report import Report, check_budgets, summarise


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CorpusReport:
    """A corpus in numbers and pictures; it prints as text, and shows itself as a page in a notebook.

    Attributes:
        title: Name of the data.
        summary: Lengths, the settings that were compared, and the recommended one.
        spec: The batch spec of the loader that is shown: the one that was given, else the recommended one.
    """

    title: str
    summary: Report
    spec: Spec
    _request: Request
    _rows: EpochRows
    _corpora: Sequence[Corpus]
    _reading: Reading

    @property
    def is_given(self) -> bool:
        """Whether the batch spec was given, and not recommended."""
        return self._request.spec is not None

    @functools.cached_property
    def sections(self) -> Sections:
        """The sections of the page as data; computed when they are first needed."""
        return make_sections(
            self._rows,
            self._corpora,
            self.summary,
            self.spec,
            batches_per_step=self._request.batches_per_step,
            is_cut_by_spec=self._request.is_cut_by_spec,
            seed=self._reading.seed,
            on_progress=self._reading.on_progress,
        )

    def to_dict(self) -> dict[str, Json]:
        """Return all numbers as JSON."""
        sections = _plain(dataclasses.asdict(self.sections))
        return {"title": self.title, **self.summary.to_json(), "spec": self.spec.fingerprint(), "sections": sections}

    def to_html(self) -> str:
        """Return the page: one file that needs no other, and no network.

        Raises:
            ModuleNotFoundError: jinja2 or matplotlib is missing.
        """
        from seqstream.reporting.page import render_page

        return render_page(self.title, self.summary, self.sections, is_given=self.is_given)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file.

        Args:
            path: Where it goes, such as ``report.html``.

        Raises:
            ModuleNotFoundError: jinja2 or matplotlib is missing.
        """
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        frame = "width:100%;height:80vh;border:0;border-radius:12px"
        return f'<iframe title="seqstream report" style="{frame}" srcdoc="{html.escape(self.to_html())}"></iframe>'

    def __str__(self) -> str:
        text = io.StringIO()
        print_report(self.summary, Console(file=text, width=88, highlight=False, markup=False, emoji=False, no_color=True))
        return text.getvalue()

    def __repr__(self) -> str:
        return f"<report of {self.title}: {self.summary.survey.rows:,} rows, {self.summary.survey.tokens:,} tokens>"


def report(
    data: Data,
    *stages: Any,
    budgets: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    label: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    is_measured: bool = True,
    progress: bool = False,
) -> CorpusReport:
    """Look at a corpus before training: lengths, padding, steps, ranks and samples, and the loader that suits it.

    It reads and tokenises the corpus once, and keeps a few numbers of each row. A folder of `write_tokens` is not read at all.

    Args:
        data: A `Loader`; or a source; or paths, globs or URLs of files; or a folder of tokens.
        *stages: The stages of a source or of files, such as ``Tokenize("tokenizer.json")``. The last may be a batch spec.
        budgets: Values of ``Bucket(max_tokens=...)`` to compare; by default around that of the loader.
        windows: Values of ``Bucket(window_batches=...)`` to compare.
        label: Column of classes; by default the one that looks most like it.
        limit: Read about this many tokens of each source; ``None`` reads all.
        seed: Seed of the order.
        is_measured: Whether the speed of loaders is measured, which takes two or three seconds.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: ``data`` or a stage has the wrong type.
        ValueError: The corpus has no rows, or a row does not fit a budget.
    """
    with progress_bar(is_shown=progress) as bar:
        reading = Reading(label, seed, limit, bar)
        return look_at(read_request(data, stages), budgets=budgets, windows=windows, reading=reading, is_measured=is_measured)


def look_at(
    request: Request,
    *,
    budgets: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    reading: Reading | None = None,
    is_measured: bool = True,
) -> CorpusReport:
    """Return the report of what is asked for; the other arguments are those of `report`."""
    reading = reading or Reading()
    budgets = sorted(set(budgets or request.budgets))
    own = None if request.spec is None else budget_of(request.spec)
    check_budgets(request.stages, budgets if own is None else [own])
    corpora = read_corpora(request.source, request.stages, reading)
    rows = epoch_rows(request.source, corpora)
    can_measure = rows.survey.seconds > 0 and request.source.can_repeat and not isinstance(request.source, Mixture)
    summary = summarise(
        rows.survey,
        request.source,
        request.stages,
        budgets,
        windows,
        seed=reading.seed,
        longest=own,
        given=request.spec,
        options=request.options,
        is_measured=is_measured and can_measure,
        on_progress=reading.on_progress,
    )
    lengths = summary.limit.apply(rows.survey.lengths.astype(np.int64))
    spec = (
        default_window(summary.best) if request.spec is None else fitted_spec(request.spec, lengths, summary.limit.max_length)
    )
    return CorpusReport(request.title, summary, spec, request, rows, corpora, reading)


def fitted_spec(spec: Spec, lengths: Lengths, max_length: int | None) -> Spec:
    """Return a spec with the shapes that a loader chooses, for rows whose lengths are those of all their columns.

    Args:
        spec: The spec that was given.
        lengths: ``int64 (N,)``, tokens of each row in the order of an epoch.
        max_length: Longest row that there can be; ``None`` if that is not known.
    """
    if isinstance(spec, Bucket):
        sample = lengths[: int(np.searchsorted(np.cumsum(lengths), SAMPLE_BATCHES * (spec.max_tokens or 0))) + 1]
        spec = dataclasses.replace(spec, columns=None).fitted(sample, max_length or int(lengths.max()))
    return spec


def _plain(value: Any) -> Json:
    """Return a value as JSON has it: tuples as lists."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
