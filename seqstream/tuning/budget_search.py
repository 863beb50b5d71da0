"""Which budget to try next, given the steps that were tried: pure functions, and the model of memory behind them.

Legend: ``n`` rows, ``L`` padded length.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

Number = TypeVar("Number", int, Fraction)

CLOSE = 0.02
"""The search ends when a budget larger by this share is known or predicted not to run."""

_MIN_PROBES = 2
"""Probes of different shapes and known memory that a prediction needs."""

_MAX_FITTED = 3
"""The model is fitted to this many of the largest probes: with small batches the optimiser alone may set the peak."""

_ROUNDING = 1e-9
"""Relative error of a prediction: the model is fitted exactly, and each of its terms is rounded once."""

_REACH = 16
"""Memory is predicted for budgets up to this multiple of one that ran: small steps may not show what large ones take."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """One try of a training step.

    Attributes:
        max_tokens: The budget, in padded tokens.
        rows: Rows of the largest batch of that budget.
        length: Its padded length.
        ran: Whether the step ran to its end.
        num_bytes: Peak memory in bytes; ``None`` if unknown.
    """

    max_tokens: int
    rows: int
    length: int
    ran: bool
    num_bytes: int | None = None

    def fits(self, limit: float | None) -> bool:
        """Return whether the step ran, and within a limit in bytes if both the limit and its memory are known."""
        return self.ran and (limit is None or self.num_bytes is None or self.num_bytes <= limit)


@dataclasses.dataclass(frozen=True)
class Memory:
    """A model of the peak memory of a step, in bytes: ``fixed + per_token * n * L + per_pair * n * L**2``."""

    fixed: float
    per_token: float
    per_pair: float

    def num_bytes(self, rows: float, length: float) -> float:
        """Return the bytes of a batch of ``n`` rows of padded length ``L``."""
        return self.fixed + rows * length * (self.per_token + self.per_pair * length)


def next_budget(
    probes: Sequence[Probe], *, low: int, high: int | None, limit: float | None = None, max_probes: int = 10
) -> int | None:
    """Return the budget to try next, or ``None`` if the largest that fits is known closely enough.

    Args:
        probes: The tries so far. A larger budget takes more memory.
        low: The smallest budget, tried first.
        high: The largest budget to try; ``None`` for no bound.
        limit: Bytes that a step may take; ``None`` if memory is not measured.
        max_probes: Number of tries in all. With fewer, the steps towards ``high`` are larger.
    """
    if not probes:
        return low
    largest_fit = max((probe.max_tokens for probe in probes if probe.fits(limit)), default=None)
    if largest_fit is None or largest_fit == high:
        return None
    smallest_miss = min((probe.max_tokens for probe in probes if not probe.fits(limit)), default=None)
    if smallest_miss is not None and smallest_miss - largest_fit <= max(1, CLOSE * largest_fit):
        return None
    budget = _predict(probes, largest_fit, smallest_miss, limit)
    if budget is None:
        growth = 2.0 if high is None else max(2.0, (high / low) ** (2 / max_probes))
        budget = round(growth * largest_fit) if smallest_miss is None else math.isqrt(largest_fit * smallest_miss)
    elif budget <= (1 + CLOSE) * largest_fit:
        return None
    elif len(probes) == max_probes - 1:
        budget -= int(CLOSE * budget)  # the last try should not miss by a byte
    budget = max(budget, largest_fit + 1)
    return budget if high is None else min(budget, high)


def fit_memory(probes: Sequence[Probe]) -> Memory:
    """Fit the model to the probes whose memory is known, by least squares with no term below 0.

    Of several models that fit equally well, the one that predicts the most memory for longer rows is returned.

    Raises:
        ValueError: The memory of no probe is known.
    """
    known = [(probe.rows, probe.length, probe.num_bytes) for probe in probes if probe.num_bytes is not None]
    if not known:
        raise ValueError("num_bytes must be known for at least one probe, got none")
    terms = [(1, rows * length, rows * length**2) for rows, length, _ in known]
    num_bytes = [num_bytes for *_, num_bytes in known]
    best, least_error = [Fraction(0)] * 3, None
    for chosen in ((0, 1, 2), (0, 2), (1, 2), (2,), (0, 1), (1,), (0,)):  # every subset of terms; the others are 0
        solved = _least_squares([[term[column] for column in chosen] for term in terms], num_bytes)
        if solved is None or min(solved) < 0:
            continue
        weights = [dict(zip(chosen, solved, strict=True)).get(column, Fraction(0)) for column in range(3)]
        error = sum((_dot(weights, term) - value) ** 2 for term, value in zip(terms, num_bytes, strict=True))
        if least_error is None or error < least_error:
            best, least_error = weights, error
    return Memory(*map(float, best))


def _least_squares(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """Return the exact least-squares solution, the same on any processor; ``None`` if it is not unique.

    Args:
        rows: The coefficients of each equation.
        values: The right side of each equation.
    """
    columns = list(zip(*rows, strict=True))
    system = [[Fraction(_dot(one, other)) for other in (*columns, values)] for one in columns]  # the normal equations
    for column in range(len(system)):
        pivot = next((row for row in range(column, len(system)) if system[row][column]), None)
        if pivot is None:
            return None
        system[column], system[pivot] = system[pivot], system[column]
        system[column] = [value / system[column][column] for value in system[column]]
        for row in range(len(system)):
            if row != column:
                factor = system[row][column]
                system[row] = [value - factor * own for value, own in zip(system[row], system[column], strict=True)]
    return [row[-1] for row in system]


def _dot(one: Iterable[Number], other: Iterable[int]) -> Number | int:
    return sum(left * right for left, right in zip(one, other, strict=True))


def _predict(probes: Sequence[Probe], largest_fit: int, smallest_miss: int | None, limit: float | None) -> int | None:
    """Return the largest budget that should fit; ``None`` if it cannot be predicted, or a probe disproves the prediction."""
    known = [probe for probe in probes if probe.num_bytes is not None]
    if limit is None or len({(probe.rows, probe.length) for probe in known}) < _MIN_PROBES:
        return None
    memory = fit_memory(sorted(known, key=lambda probe: probe.max_tokens)[-_MAX_FITTED:])

    def num_bytes(budget: int) -> float:
        return memory.num_bytes(*_shape_at(known, budget))

    budget = bisect.bisect_right(range(_REACH * largest_fit + 1), limit * (1 + _ROUNDING), key=num_bytes) - 1
    if smallest_miss is None:
        return budget
    if next(probe.num_bytes for probe in probes if probe.max_tokens == smallest_miss) is None:
        return budget if budget < smallest_miss else None
    # A miss of known memory was itself a prediction, and a little too large: go down by at least one per cent.
    return min(budget, smallest_miss - max(1, smallest_miss // 100))


def _shape_at(probes: Sequence[Probe], budget: int) -> tuple[float, float]:
    """Return the rows and the length of the largest batch of a budget, extrapolated from the probes.

    If all probes have the same number of rows, a larger budget makes rows longer; otherwise it adds rows of the longest length.
    """
    rows = {probe.rows for probe in probes}
    if len(rows) == 1:
        return min(rows), budget / min(rows)
    longest = max(probe.length for probe in probes)
    return budget / longest, longest
