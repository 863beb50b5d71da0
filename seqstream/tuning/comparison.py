"""Compares budgets and windows for a corpus, and recommends one setting.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import ID_BYTES, WindowSize
from seqstream.planning.bucket import Bucket
from seqstream.planning.unbucketed import Unbucketed
from seqstream.tuning.planned_epoch import Setting, Spec, plan_epoch

OnProgress: TypeAlias = Callable[[str, float, float | None], None]
"""A callback that receives the name of the current task, how much of it is done, and the total, ``None`` if unknown."""

ENOUGH_ROWS = 16
"""The least mean number of rows a batch for a recommended budget: with fewer, steps are uneven."""

_LEAST_TOKENS, _LEAST_WINDOWS = 8_000_000, 4
"""At least this many tokens, and this many windows, are planned."""

NEAR_LEAST = 0.005
"""A larger window that saves at most this share of the slots is not worth its memory."""


def compare(
    lengths: Lengths,
    budgets: Sequence[int],
    windows: Sequence[int],
    *,
    num_bytes: int,
    scale: float = 1.0,
    on_progress: OnProgress = lambda *_: None,
) -> list[Setting]:
    """Plan a corpus with every budget and window, and with random rows in batches of the same mean size.

    Of the windows that hold the whole corpus only the smallest is planned: larger ones give the same batches. Of a large corpus
    the beginning of the epoch is planned, several windows of it.

    Args:
        lengths: ``int64 (N,)``, tokens of each row in the order of an epoch, none over the smallest budget.
        budgets: Values of ``Bucket(max_tokens=...)``.
        windows: Values of ``Bucket(window_batches=...)``.
        num_bytes: Bytes of the records in memory.
        scale: Rows of the corpus that each length stands for.
        on_progress: Called before each budget.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    bytes_per_token = num_bytes / total

    def plan(spec: Spec, budget: int) -> Setting:
        num = int(np.searchsorted(ends, max(_LEAST_TOKENS, _LEAST_WINDOWS * budget * (spec.window_batches or 0)))) + 1
        found = plan_epoch(lengths[:num], spec, bytes_per_token)
        return dataclasses.replace(
            found, max_tokens=budget, batches=round(found.batches * scale * max(1.0, len(lengths) / num))
        )

    settings = []
    for number, budget in enumerate(sorted(set(budgets))):
        on_progress("planning", number, len(set(budgets)))
        buckets = [Bucket(budget, window_batches=window) for window in sorted(set(windows))]
        num_smaller = sum(1 for bucket in buckets if budget * (bucket.window_batches or 0) < total)
        planned = [plan(bucket, budget) for bucket in buckets[: num_smaller + 1]]
        settings += [plan(Unbucketed(max(1, round(planned[-1].rows))), budget), *planned]
    return settings


def recommend(settings: Sequence[Setting]) -> tuple[Setting, str]:
    """Return the recommended setting and the reason.

    The budget is the smallest whose batches hold `ENOUGH_ROWS` rows on average, else the largest. The window is the smallest
    whose padding is within `NEAR_LEAST` of the least.
    """
    buckets = [setting for setting in settings if isinstance(setting.spec, Bucket)]
    enough = [setting.max_tokens for setting in buckets if setting.rows >= ENOUGH_ROWS]
    budget = min(enough) if enough else max(setting.max_tokens for setting in buckets)
    at_budget = [setting for setting in buckets if setting.max_tokens == budget]
    least = min(setting.padding for setting in at_budget)
    best = next(setting for setting in at_budget if setting.padding <= least + NEAR_LEAST)
    random = next(setting for setting in settings if setting.max_tokens == budget and setting not in buckets)
    why = f"smallest budget with {ENOUGH_ROWS} rows a batch or more" if enough else "largest budget, for more rows a batch"
    saved = (1 - best.padding) / (1 - random.padding)
    return best, (
        f"{why} ({best.rows:,.0f}), and the smallest window within {NEAR_LEAST:.1%} of the least padding; "
        f"random batches of this size compute {saved:.1f} times the slots"
    )


def fitting_budgets(budgets: Sequence[int], longest: int) -> list[int]:
    """Return the budgets that a row fits, or the next power of two where it fits none.

    >>> fitting_budgets([4096, 16384], 5000)
    [16384]
    >>> fitting_budgets([4096], 5000)
    [8192]
    """
    return [budget for budget in budgets if budget >= longest] or [1 << (longest - 1).bit_length()]


def default_window(setting: Setting) -> Spec:
    """Return the spec of a setting, with a window only if that is larger than the default one.

    A smaller window mixes less and saves memory that few need.
    """
    spec, size = setting.spec, WindowSize()
    is_larger = setting.max_tokens * (spec.window_batches or 0) > (size.num_bytes or 0) / ID_BYTES
    return spec if is_larger else dataclasses.replace(spec, window_batches=None)
