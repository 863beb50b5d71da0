"""An epoch planned from the lengths of its rows: how many batches, and how much padding.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import ID_BYTES
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack, PackedPlan
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import Json
from seqstream.windows.collecting import LAST
from seqstream.windows.settings import MAX_BYTES

Spec: TypeAlias = Bucket | Pack | Unbucketed


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way of batching a corpus, and what an epoch of it would be.

    Attributes:
        spec: The batch spec.
        max_tokens: Its budget; for random rows the budget of the `Bucket` with which they are compared.
        batches: Number of batches of an epoch.
        rows: Mean number of rows of a batch.
        padding: Share of the slots that is padding, 0 to 1.
        tokens_per_second: Measured real tokens a second of a loader; ``None`` if not measured.
    """

    spec: Spec
    max_tokens: int
    batches: int
    rows: float
    padding: float
    tokens_per_second: float | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as JSON, with the kind and the arguments of ``spec``."""
        return {**dataclasses.asdict(self), "spec": self.spec.fingerprint()}


def plan_epoch(lengths: Lengths, spec: Spec, bytes_per_token: float = 0.0) -> Setting:
    """Plan an epoch of full windows, as a loader with ``shuffle=True`` does.

    Args:
        lengths: ``int64 (N,)``, tokens of each row in the order of an epoch, none over the budget.
        spec: The batch spec.
        bytes_per_token: Bytes of records in memory for each token: they limit a window here as in a loader.
    """
    batches = slots = tokens = 0
    for rows, plan in plan_windows(lengths, spec, bytes_per_token):
        batches += len(plan)
        slots += int(num_slots(rows, plan).sum())
        tokens += num_tokens(rows, plan)
    return Setting(spec, budget_of(spec) or 0, batches, len(lengths) / max(batches, 1), 1 - tokens / max(slots, 1))


def plan_windows(lengths: Lengths, spec: Spec, bytes_per_token: float = 0.0) -> Iterator[tuple[Lengths, Plan]]:
    """Yield the lengths of each window of an epoch and its plan; the arguments are those of `plan_epoch`."""
    budget = budget_of(spec)
    batch_tokens = budget or lengths.mean() * (getattr(spec, "batch_size", None) or 1)
    size = spec.window_size(shuffle=True)
    window_tokens = max(batch_tokens * (size.batches or 0), (size.num_bytes or 0) / ID_BYTES)
    window_tokens = min(window_tokens, MAX_BYTES / bytes_per_token if bytes_per_token else math.inf)
    for number, rows in enumerate(np.split(lengths, cut_windows(lengths, window_tokens))):
        yield rows, spec.plan(rows, key=(number,))


def cut_windows(lengths: Lengths, window_tokens: float) -> npt.NDArray[np.int64]:
    """Return the rows at which all windows but the first begin; each has ``window_tokens``, the last up to a quarter more."""
    ends = np.cumsum(lengths)
    marks = window_tokens * np.arange(1, math.ceil(ends[-1] / window_tokens - (LAST - 1)))
    cuts = np.unique(np.searchsorted(ends, marks) + 1)
    return cuts[cuts < len(lengths)]


def budget_of(spec: Spec) -> int | None:
    """Return the slots that a batch may have; ``None`` where it is limited by its rows alone."""
    return spec.num_slots if isinstance(spec, Pack) else getattr(spec, "max_tokens", None)


def num_slots(lengths: Lengths, plan: Plan) -> Lengths:
    """Return the slots of each batch of a plan, ``int64 (K,)``, given the lengths of the rows of its window."""
    if isinstance(plan, PackedPlan):
        return np.full(len(plan), plan.num_rows * plan.row_length)
    slots: Lengths = np.diff(plan.cuts) * plan.padded(lengths)
    return slots


def num_tokens(lengths: Lengths, plan: Plan) -> int:
    """Return the tokens of all batches of a plan, without those of made-up rows."""
    is_real = plan.order != MADE_UP
    return int((plan.lengths if isinstance(plan, PackedPlan) else lengths[plan.order])[is_real].sum())
