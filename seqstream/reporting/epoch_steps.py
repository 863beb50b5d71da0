"""The section on steps: which lengths they meet, and how well any few of them represent the corpus.

Legend: ``K`` batches of the first window.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Lengths
from seqstream.planning.run_shares import RUN, run_shares
from seqstream.reporting.classes import Classes
from seqstream.reporting.design_effect import label_effect
from seqstream.reporting.served_batches import ServedBatches, serve_random

NUMS = (1, 4, 8, 16)
"""Numbers of consecutive batches of which the design effect is computed: those of an optimiser step."""

_MOST_SHOWN = 160
"""Batches whose lengths are shown."""

_MOST_CLASSES = 256
"""Classes after the most frequent ones are counted as one."""


@dataclasses.dataclass(frozen=True)
class Composition:
    """How the tokens of any 16 consecutive batches divide into parts, such as octiles by length.

    Attributes:
        parts: Names of the parts.
        whole: Share of each part in the window.
        shares: Shares of each part in runs of 16 batches, from the first to the last, evenly spaced.
        mean_off: Mean over all runs of the sum of the absolute differences from the whole.
        random_off: The same of batches of random rows.
    """

    parts: tuple[str, ...]
    whole: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    mean_off: float
    random_off: float


@dataclasses.dataclass(frozen=True)
class LabelEffect:
    """The design effect of the classes of ``batches`` consecutive batches: 1.0 for random rows.

    Attributes:
        batches: Number of batches, those of an optimiser step.
        effect: Its design effect as batches are.
        balanced: That with ``Bucket(balance=)``.
    """

    batches: int
    effect: float
    balanced: float


@dataclasses.dataclass(frozen=True)
class StepSection:
    """The steps of the first window.

    Attributes:
        lengths: Padded lengths of the first batches, in the order served.
        tokens: Their real tokens.
        random_lengths: Padded lengths of batches of random rows.
        by_length: Composition by octiles of length, shortest first; ``None`` with too few batches.
        by_source: Composition by source; ``None`` for one source, or with too few batches.
        label: Column of classes; ``None`` if there is none.
        num_classes: Number of classes.
        label_effects: The design effect of the classes.
    """

    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    random_lengths: tuple[int, ...]
    by_length: Composition | None
    by_source: Composition | None
    label: str | None
    num_classes: int
    label_effects: tuple[LabelEffect, ...]


def describe_steps(
    lengths: Lengths,
    served: ServedBatches,
    balanced: ServedBatches | None = None,
    *,
    sources: tuple[Index, Sequence[str]] | None = None,
    classes: Classes | None = None,
    seed: int = 0,
) -> StepSection:
    """Describe the steps of a window.

    Args:
        lengths: ``int64``, tokens of each row of the epoch.
        served: The batches of its first window.
        balanced: The same in the order that ``Bucket(balance=)`` gives them, where classes are known.
        sources: Number of the source of each row of the epoch, ``int64``, and the names of the sources.
        classes: The class of each row of the epoch.
        seed: Seed of the random batches.
    """
    random = serve_random(lengths, served, seed)
    octiles = token_octiles(lengths[: int(served.rows.max()) + 1])
    ours, others = (each.count(octiles, len(OCTILES), each.lengths) for each in (served, random))
    by_length = composition(ours, OCTILES, others)
    by_source = None
    if sources is not None and len(sources[1]) > 1:
        codes, names = sources
        ours, others = (each.count(codes, len(names), each.lengths) for each in (served, random))
        by_source = composition(ours, names, others)
    effects: tuple[LabelEffect, ...] = ()
    if classes is not None:
        counts = [each.count(*_merged(classes)).astype(np.int64) for each in (served, balanced or served)]
        found = (LabelEffect(num, *(label_effect(each, num) for each in counts)) for num in NUMS)
        effects = tuple(each for each in found if math.isfinite(each.effect))
    return StepSection(
        tuple(served.longest[:_MOST_SHOWN].tolist()),
        tuple(served.tokens[:_MOST_SHOWN].tolist()),
        tuple(random.longest[:_MOST_SHOWN].tolist()),
        by_length,
        by_source,
        classes.column if effects and classes is not None else None,
        len(classes.names) if effects and classes is not None else 0,
        effects,
    )


OCTILES = ("1st eighth", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
"""Parts of the tokens by length, the shortest rows first; rows of one length are in one of them, and others may be empty."""


def token_octiles(lengths: Lengths) -> Index:
    """Return the octile of each row by length, 0 to 7, each with about an eighth of the tokens.

    ``token_octiles(np.array([8, 1, 1, 1, 1, 1, 1, 1, 1]))`` is 4 for the first row, as half of the tokens are in shorter ones,
    and 0 for all others, of which none is shorter.

    Args:
        lengths: ``int64 (N,)``.
    """
    tokens = np.bincount(lengths) * np.arange(int(lengths.max()) + 1)
    shorter = np.cumsum(tokens) - tokens
    octile: Index = shorter * len(OCTILES) // int(tokens.sum())
    return octile[lengths]


def composition(
    tokens: npt.NDArray[np.float64], parts: Sequence[str], random: npt.NDArray[np.float64], num: int = RUN, shown: int = 64
) -> Composition | None:
    """Return the composition of any ``num`` consecutive batches; ``None`` if there are fewer than four times as many.

    Args:
        tokens: ``float64 (K, C)``, tokens of each part in each batch, in the order served.
        parts: Names of the parts.
        random: The same of batches of random rows.
        num: Number of consecutive batches.
        shown: Most runs whose shares are returned.
    """
    if len(tokens) < 4 * num or len(random) < 4 * num:
        return None
    runs, others = run_shares(tokens, num), run_shares(random, num)
    used = np.flatnonzero(tokens.sum(axis=0))
    runs, others, parts = runs[:, used], others[:, used], [parts[number] for number in used.tolist()]
    whole = tokens[:, used].sum(axis=0) / tokens.sum()
    random_whole = random[:, used].sum(axis=0) / random.sum()
    at = np.unique(np.linspace(0, len(runs) - 1, min(shown, len(runs))).astype(np.int64))
    return Composition(
        tuple(parts),
        tuple(whole.tolist()),
        tuple(map(tuple, runs[at].tolist())),
        float(np.abs(runs - whole).sum(axis=1).mean()),
        float(np.abs(others - random_whole).sum(axis=1).mean()),
    )


def _merged(classes: Classes) -> tuple[Index, int]:
    """Return the class of each row and the number of classes, the rare ones counted as one."""
    if len(classes.names) <= _MOST_CLASSES:
        return classes.codes, len(classes.names)
    number = np.minimum(np.argsort(np.argsort(-classes.counts, kind="stable")), _MOST_CLASSES - 1)
    return np.where(classes.codes < 0, -1, number[classes.codes]), _MOST_CLASSES
