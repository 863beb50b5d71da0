"""Find the largest budget of tokens with which a training step runs, by trying a few.

What to try next follows from what was tried, by `next_budget` and `fit_memory`, which are pure; `fit_max_tokens` tries.
"""

from __future__ import annotations

import bisect
import dataclasses
import gc
import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

import torch

from seqstream.batches.batch import Batch
from seqstream.loading.arguments import longest_row
from seqstream.loading.loader import Loader
from seqstream.options import check_positive
from seqstream.planning.bucket import Bucket
from seqstream.tokenizing.stage import Tokenize

Number = TypeVar("Number", int, Fraction)

CLOSE = 0.02
"""A budget is the largest where one by so much larger is known not to run, or expected not to."""

_ENOUGH = 2
"""So many tries of known memory are needed before memory can be foretold."""

_LARGEST = 3
"""So many of the largest tries tell of memory: what small batches take may be that of the optimiser alone."""

_ROUNDING = 1e-9
"""What is foretold is as exact: the model is fitted exactly, and its terms are rounded once each."""

_REACH = 16
"""Memory is foretold up to so many times a budget that ran: little steps may show nothing of what large ones take."""

_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""Parts of the messages of `RuntimeError` that stand for memory that ran out, in lower case."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """One try.

    Attributes:
        max_tokens: The budget.
        rows: Rows of the largest batch of that budget.
        length: Its padded length.
        ran: Whether the step ran to its end.
        num_bytes: The most memory it took; ``None`` if that is not known.
    """

    max_tokens: int
    rows: int
    length: int
    ran: bool
    num_bytes: int | None = None

    def fits(self, limit: float | None) -> bool:
        """Tell whether it ran, and within a limit in bytes if there is one."""
        return self.ran and (limit is None or self.num_bytes is None or self.num_bytes <= limit)


@dataclasses.dataclass(frozen=True)
class Memory:
    """A model of the memory that a step takes, in bytes: ``fixed + per_token * n * L + per_pair * n * L**2``."""

    fixed: float
    per_token: float
    per_pair: float

    def num_bytes(self, rows: float, length: float) -> float:
        """Return the bytes of a batch of ``n`` rows of padded length ``L``."""
        return self.fixed + rows * length * (self.per_token + self.per_pair * length)


def fit_max_tokens(
    step: Callable[[Batch], object],
    loader: Loader,
    *,
    low: int | None = None,
    high: int | None = None,
    max_probes: int = 10,
    share: float = 0.9,
) -> int:
    """Find the largest budget of padded tokens with which a training step runs, by at most ``max_probes`` tries.

    The budget that is returned has run: each try is ``step(loader.worst_batch(max_tokens=n))``. On CUDA two or three small
    tries tell how memory grows, and one near the limit proves it. Elsewhere budgets double until one fails.

    Args:
        step: Forward, backward, the optimiser's step: all that takes memory. It is called several times, so load the model's
            parameters again afterwards if they matter.
        loader: Its batch spec is a `Bucket`; its own ``max_tokens`` does not matter.
        low: The smallest budget worth having; by default that of one row of ``Tokenize(max_length=...)``, or that of the
            `Bucket`.
        high: The largest budget to try; needed except on CUDA.
        max_probes: How often the step is called at most. More come closer to the largest budget.
        share: Of the memory of a CUDA device that is free or this process's, so much may be taken. The rest is for what the
            allocator cannot use, and for steps that take more than this one.

    Raises:
        MemoryError: The step does not run with ``low``.
        ValueError: An option has no such value, or ``high`` is missing.
    """
    if low is None:
        low = _lowest(loader)
    _check(low, high, max_probes, share)
    probes: list[Probe] = []
    tried: dict[tuple[int, int], Probe] = {}
    limit: float | None = None
    while len(tried) < max_probes:
        budget = next_budget(probes, low=low, high=high, limit=limit, max_probes=max_probes)
        if budget is None:
            break
        batch = loader.worst_batch(max_tokens=budget)
        device = batch.device_lengths.device
        if not probes:
            limit = _limit(device, high, share)
        shape = _shape(batch)
        before = tried.get(shape)
        if before is None:
            tried[shape] = _try(step, batch, budget, measure=bool(probes))
        elif before.fits(limit) and budget >= 2 * before.max_tokens:
            break  # something else than the budget limits batches
        probes.append(dataclasses.replace(tried[shape], max_tokens=budget))
        del batch
    fitting = [probe.max_tokens for probe in probes if probe.fits(limit)]
    if not fitting:
        raise MemoryError(f"a step cannot run with low={low} padded tokens; lower low, max_length or the size of the model")
    return max(fitting)


def next_budget(
    probes: Sequence[Probe], *, low: int, high: int | None, limit: float | None = None, max_probes: int = 10
) -> int | None:
    """Return the budget to try next, or ``None`` where the largest that fits is known closely enough.

    Args:
        probes: What was tried. A larger budget takes more memory.
        low: The first to try.
        high: The last to try.
        limit: Bytes that a step may take; ``None`` if it is only seen whether it runs.
        max_probes: How many tries there are in all. With fewer the steps towards ``high`` are larger.
    """
    if not probes:
        return low
    good = max((probe.max_tokens for probe in probes if probe.fits(limit)), default=None)
    if good is None or good == high:
        return None
    bad = min((probe.max_tokens for probe in probes if not probe.fits(limit)), default=None)
    if bad is not None and bad - good <= max(1, CLOSE * good):
        return None
    budget = _foretold(probes, good, bad, limit)
    if budget is None:
        growth = 2.0 if high is None else max(2.0, (high / low) ** (2 / max_probes))
        budget = round(growth * good) if bad is None else math.isqrt(good * bad)
    elif budget <= (1 + CLOSE) * good:
        return None
    budget = max(budget, good + 1)
    return budget if high is None else min(budget, high)


def fit_memory(probes: Sequence[Probe]) -> Memory:
    """Fit the model to the tries whose memory is known, by least squares with no term below 0.

    Where several models fit as well, the one that foresees the most for longer rows is taken.

    Raises:
        ValueError: No memory is known.
    """
    known = [(probe.rows, probe.length, probe.num_bytes) for probe in probes if probe.num_bytes is not None]
    if not known:
        raise ValueError("memory must be known of one probe at least, got none")
    terms = [(1, rows * length, rows * length**2) for rows, length, _ in known]
    num_bytes = [num_bytes for *_, num_bytes in known]
    best, least = [Fraction(0)] * 3, None
    for chosen in ((0, 1, 2), (0, 2), (1, 2), (2,), (0, 1), (1,), (0,)):  # as many as there are ways for terms to be 0
        solved = _least_squares([[term[column] for column in chosen] for term in terms], num_bytes)
        if solved is None or min(solved) < 0:
            continue
        weights = [dict(zip(chosen, solved, strict=True)).get(column, Fraction(0)) for column in range(3)]
        error = sum((_dot(weights, term) - value) ** 2 for term, value in zip(terms, num_bytes, strict=True))
        if least is None or error < least:
            best, least = weights, error
    return Memory(*map(float, best))


def _least_squares(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """Return the exact solution of least squares, the same on any processor; ``None`` if there are several.

    Args:
        rows: The coefficients of each equation.
        values: Its right side.
    """
    columns = list(zip(*rows, strict=True))
    system = [[Fraction(_dot(one, other)) for other in (*columns, values)] for one in columns]  # the normal equations
    for at in range(len(system)):
        pivot = next((row for row in range(at, len(system)) if system[row][at]), None)
        if pivot is None:
            return None
        system[at], system[pivot] = system[pivot], system[at]
        system[at] = [value / system[at][at] for value in system[at]]
        for row in range(len(system)):
            if row != at:
                factor = system[row][at]
                system[row] = [value - factor * own for value, own in zip(system[row], system[at], strict=True)]
    return [row[-1] for row in system]


def _dot(one: Iterable[Number], other: Iterable[int]) -> Number | int:
    return sum(left * right for left, right in zip(one, other, strict=True))


def _foretold(probes: Sequence[Probe], good: int, bad: int | None, limit: float | None) -> int | None:
    """Return the largest budget that should fit; ``None`` if that cannot be said, or is known to be wrong."""
    known = [probe for probe in probes if probe.num_bytes is not None]
    if limit is None or len({(probe.rows, probe.length) for probe in known}) < _ENOUGH:
        return None
    memory = fit_memory(sorted(known, key=lambda probe: probe.max_tokens)[-_LARGEST:])

    def num_bytes(budget: int) -> float:
        return memory.num_bytes(*_shape_at(known, budget))

    budget = bisect.bisect_right(range(_REACH * good + 1), limit * (1 + _ROUNDING), key=num_bytes) - 1
    if bad is None:
        return budget
    if next(probe.num_bytes for probe in probes if probe.max_tokens == bad) is None:
        return budget if budget < bad else None
    return min(budget, bad - max(1, bad // 100))  # bad was foretold as well, and is a little over: one step down must do


def _shape_at(probes: Sequence[Probe], budget: int) -> tuple[float, float]:
    """Return rows and length of the largest batch of a budget, going by those that were tried.

    Where all had as many rows, a larger budget lets rows be longer; else there are more of the longest.
    """
    rows = {probe.rows for probe in probes}
    if len(rows) == 1:
        return min(rows), budget / min(rows)
    longest = max(probe.length for probe in probes)
    return budget / longest, longest


def _try(step: Callable[[Batch], object], batch: Batch, budget: int, *, measure: bool) -> Probe:
    """Run the step once.

    Memory of the first time is not known: an optimiser makes its state only then.
    """
    rows, length = _shape(batch)
    device = batch.device_lengths.device
    ran = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        if not _ran_out_of_memory(error):
            error.add_note(f"while trying a batch of shape ({rows}, {length}), max_tokens={budget}")
            raise
        _let_go(error)
        ran = False
    if device.type != "cuda":
        return Probe(budget, rows, length, ran)
    num_bytes = torch.cuda.max_memory_allocated(device) if ran and measure else None
    gc.collect()
    torch.cuda.empty_cache()
    return Probe(budget, rows, length, ran, num_bytes)


def _shape(batch: Batch) -> tuple[int, int]:
    return batch.num_rows, -(-batch.num_slots // batch.num_rows)


def _ran_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _MESSAGES)


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error hold: tensors that the next try needs the room of."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _limit(device: torch.device, high: int | None, share: float) -> float | None:
    """Return the bytes that may be taken on a device, ``None`` where that cannot be known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return share * (free + torch.cuda.memory_reserved(device))
    if high is None:
        raise ValueError(
            f"high must be given on {device.type}, where memory that runs out is swapped or ends the process; "
            "set it to the largest budget to try, or the loader's device to CUDA"
        )
    return None


def _lowest(loader: Loader) -> int:
    """Return the budget of one longest row, or that of the loader where that cannot be known."""
    spec = loader.stages[-1]
    if not isinstance(spec, Bucket):
        raise ValueError(f"max_tokens cannot be found for {spec!r}, which has no such budget; use Bucket(max_tokens=...)")
    longest = longest_row([stage for stage in loader.stages[:-1] if isinstance(stage, Tokenize)])
    plain = spec.cost == "tokens" and spec.rows_multiple_of == 1 and spec.columns is None
    if longest is not None and plain:
        return -(-longest // spec.multiple_of) * spec.multiple_of
    if spec.max_tokens is None:
        raise ValueError("low must be given where neither Tokenize(max_length=...) nor Bucket(max_tokens=...) is, got None")
    return spec.max_tokens


def _check(low: int, high: int | None, max_probes: int, share: float) -> None:
    for name, value in (("low", low), ("max_probes", max_probes)):
        check_positive(name, value)
    if high is not None and high < low:
        raise ValueError(f"high must be at least low={low}, got {high}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
