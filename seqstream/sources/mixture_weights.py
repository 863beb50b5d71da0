"""The weights of a mixture: constant, or a function of the tokens that were served."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class WeightSchedule:
    """Weights at some numbers of tokens, constant from each to the next, or linear between them.

    Attributes:
        points: Tokens served, ascending from 0, and the weights there, which add up to 1.
        is_linear: Whether weights change linearly between points; after the last they are constant.
    """

    points: tuple[tuple[int, tuple[float, ...]], ...]
    is_linear: bool = False

    def mean(self, start: int, stop: int) -> Weights:
        """Return the mean weights over the tokens from ``start`` to ``stop``, ``float64 (S,)``.

        >>> WeightSchedule(((0, (1.0, 0.0)), (100, (0.5, 0.5)))).mean(50, 150).tolist()
        [0.75, 0.25]
        """
        inner = [tokens for tokens, _ in self.points if start < tokens < stop]
        edges = [start, *inner, max(stop, start + 1)]
        total = sum(
            (after - before) * (self._at(before) + self._at(after, is_end=True)) / 2
            for before, after in itertools.pairwise(edges)
        )
        mean: Weights = np.asarray(total, dtype=np.float64) / (edges[-1] - start)
        return mean

    def next_point(self, tokens: int) -> int | None:
        """Return the number of tokens at which constant weights change next; ``None`` if they do not."""
        return None if self.is_linear else next((point for point, _ in self.points if point > tokens), None)

    def _at(self, tokens: int, *, is_end: bool = False) -> Weights:
        """Return the weights at a number of tokens, or just before it."""
        tokens_at = [point for point, _ in self.points]
        number = int(np.searchsorted(tokens_at, tokens, side="left" if is_end and not self.is_linear else "right")) - 1
        own: Weights = np.array(self.points[max(number, 0)][1])
        if not self.is_linear or number + 1 == len(self.points):
            return own
        first, last = tokens_at[number], tokens_at[number + 1]
        moved: Weights = own + (np.array(self.points[number + 1][1]) - own) * ((tokens - first) / (last - first))
        return moved


def check_weights(given: Mapping[str, float], names: Sequence[str], what: str = "weights") -> tuple[float, ...]:
    """Return weights in the order of names, which add up to 1.

    Raises:
        TypeError: They are not numbers by name.
        ValueError: A name is missing or unknown, a weight is negative or no number, or all are 0.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict of numbers by name of source, got {given!r:.80}")
    check_names(given, names, what)
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{what} must have one for each source, got none for {_listed(missing)}; 0 leaves a source out")
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
            raise TypeError(f"{what} must be numbers, got {weight!r:.80} for {name!r}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{what} must be numbers from 0 up, got {weight} for {name!r}")
    total = math.fsum(given.values())
    if not total:
        raise ValueError(f"{what} must have one above 0, got 0 for every source")
    return tuple(float(given[name]) / total for name in names)


def check_names(given: Mapping[str, object], names: Sequence[str], what: str) -> None:
    """Raise unless a mapping has names of sources only.

    Raises:
        ValueError: A name is unknown.
    """
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"{what} must name sources of the mixture, which are {_listed(list(names))}, got {_listed(unknown)}")


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def check_schedule(given: Any, names: Sequence[str], *, is_linear: bool) -> WeightSchedule:
    """Return the schedule of constant weights, or of pairs of tokens and weights.

    Raises:
        TypeError: It has another form.
        ValueError: Tokens do not ascend from 0, or weights are none.
    """
    if isinstance(given, Mapping):
        return WeightSchedule(((0, check_weights(given, names)),), is_linear)
    is_pairs = isinstance(given, list | tuple) and given and all(isinstance(p, list | tuple) and len(p) == 2 for p in given)
    if not is_pairs:
        raise TypeError(
            "weights must be a dict of shares by name, 'proportional', or pairs of tokens served and such a dict, "
            f"got {given!r:.80}"
        )
    tokens = [point for point, _ in given]
    ascend = all(isinstance(each, int) and not isinstance(each, bool) for each in tokens) and tokens == sorted(set(tokens))
    if not ascend or tokens[0] != 0:
        raise ValueError(f"weights must begin at 0 tokens served and then ascend in whole numbers, got {tokens!r:.80}")
    points = ((point, check_weights(weights, names, f"weights at {point:,} tokens")) for point, weights in given)
    return WeightSchedule(tuple(points), is_linear)
