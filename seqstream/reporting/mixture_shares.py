"""The section on mixtures: the share of each source, and how often it is read in a run of some length.

Legend: ``S`` sources, ``N`` rows of an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Index, Lengths
from seqstream.loading.expected_run import ExpectedRun
from seqstream.sources.mixture import Mixture

RUNS = (1, 2, 4, 8, 16)
"""Lengths of runs, in epochs of the loader, for which the epochs of each source are computed."""


@dataclasses.dataclass(frozen=True)
class SourceShare:
    """A source of a mixture.

    Attributes:
        name: Its name.
        rows: Its rows.
        tokens: Its tokens.
        asked: Share that its weight asks for, 0 to 1.
        given: Share of the tokens of an epoch that it gives.
        epochs: How often it is read in runs of `RUNS` epochs of the loader.
    """

    name: str
    rows: int
    tokens: int
    asked: float
    given: float
    epochs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class MixtureSection:
    """The sources of a mixture.

    Attributes:
        tokens: Tokens of an epoch of the loader.
        run_tokens: Tokens of the runs for which the epochs of each source are computed.
        sources: The sources.
    """

    tokens: int
    run_tokens: tuple[int, ...]
    sources: tuple[SourceShare, ...]


def describe_mixture(mixture: Mixture, lengths: Sequence[Lengths]) -> MixtureSection:
    """Describe a mixture whose sources have been read.

    Args:
        mixture: The mixture.
        lengths: For each source the tokens of its rows, ``int64``.
    """
    tokens = np.array([float(each.sum()) for each in lengths])
    weights = np.array(mixture.schedule.points[0][1], dtype=np.float64)
    asked = weights / weights.sum()
    run = ExpectedRun.of(mixture, tokens)
    given = asked * tokens.sum() if run is None else run.shares * run.tokens
    total = float(given.sum())
    sources = tuple(
        SourceShare(
            name,
            len(own),
            int(size),
            float(asked[number]),
            float(given[number] / total),
            tuple(float(given[number] / size * times) for times in RUNS),
        )
        for number, (name, own, size) in enumerate(zip(mixture.names, lengths, tokens.tolist(), strict=True))
    )
    return MixtureSection(round(total), tuple(round(total * times) for times in RUNS), sources)


def mix_rows(lengths: Sequence[Lengths], tokens: Sequence[float]) -> tuple[Lengths, Index, Index]:
    """Return the rows of an epoch of a mixture, in an order in which each stretch has the share of each source.

    Sources are read again, or in part, to give their tokens: with ``lengths=[[2, 2], [4]]`` and ``tokens=[4, 8]`` the second
    source is read twice.

    Args:
        lengths: For each source the tokens of its rows, ``int64``.
        tokens: Tokens that each source gives.

    Returns:
        Tokens of each row, ``int64 (N,)``, the number of its source, and its number in the source.
    """
    parts = []
    for number, (own, wanted) in enumerate(zip(lengths, tokens, strict=True)):
        passes = wanted / max(1, int(own.sum()))
        rows = np.tile(np.arange(len(own)), int(np.ceil(passes)))
        ends = np.cumsum(own[rows])
        rows = rows[: int(np.searchsorted(ends, wanted - 0.5)) + 1] if wanted > 0 else rows[:0]
        at = ends[: len(rows)] / max(wanted, 1.0)
        parts.append((at, own[rows], np.full(len(rows), number), rows))
    at, mixed, sources, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    return mixed[order], sources[order], rows[order]
