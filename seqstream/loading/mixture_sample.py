"""Rows that stand for those of an epoch, of one source or of a mixture, to estimate its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Lengths
from seqstream.loading.expected_run import ExpectedRun
from seqstream.planning.length_counts import LengthCounts
from seqstream.sources.mixture import Mixture


@dataclasses.dataclass(frozen=True)
class SampledRows:
    """Rows that stand for those of an epoch.

    Attributes:
        lengths: ``int64 (N,)`` or ``(N, S)``, what they are planned by.
        num_bytes: Bytes of the records as read that gave them; 0 for a mixture, whose windows do not depend on them.
        scale: Number of rows of the epoch for each of these.
    """

    lengths: Lengths
    num_bytes: int
    scale: float


@dataclasses.dataclass(frozen=True)
class SourceSample:
    """Rows from all over a source of a mixture.

    Attributes:
        lengths: ``int64 (n,)`` or ``(n, S)``, what they are planned by.
        num_tokens: Tokens of all of them.
        scale: Number of rows of a pass for each of these.
    """

    lengths: Lengths
    num_tokens: int
    scale: float


def mix_samples(mixture: Mixture, samples: Sequence[SourceSample | None], most_rows: int) -> SampledRows | None:
    """Return rows that stand for those of an epoch of a mixture; ``None`` where the length of the epoch cannot be known.

    Args:
        mixture: The mixture.
        samples: Of each source; ``None`` for a source without a weight.
        most_rows: About the largest number of rows to return.

    Raises:
        ValueError: The sources do not have as many tokens as ``Mixture(tokens=...)`` asks for.
    """
    sizes = np.array([each.num_tokens * each.scale if each else 0.0 for each in samples])
    run = ExpectedRun.of(mixture, np.where(sizes > 0, sizes, np.nan))
    if run is None:
        return None
    found = [
        (LengthCounts.of(each.lengths), share * run.tokens / each.num_tokens)
        for each, share in zip(samples, run.shares.tolist(), strict=True)
        if each and each.num_tokens
    ]
    scale = max(1.0, sum(rows.num_rows * factor for rows, factor in found) / most_rows)
    lengths = [rows.scaled(factor / scale).every(1) for rows, factor in found]
    return SampledRows(np.concatenate(lengths or [np.empty(0, dtype=np.int64)]), 0, scale)
