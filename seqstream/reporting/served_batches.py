"""The batches of the first window of an epoch, in the order in which they are served, from the lengths of rows alone.

Legend: ``N`` rows of the window, ``K`` batches, ``C`` classes or sources.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.planning.balanced_turns import balanced_turns
from seqstream.planning.bucket import Bucket
from seqstream.planning.length_counts import sorted_within
from seqstream.planning.pack import PackedPlan
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.tuning.planned_epoch import Spec, num_slots, num_tokens, plan_windows
from seqstream.windows.class_balance import balance_features, by_mean_length


@dataclasses.dataclass(frozen=True, eq=False)
class ServedBatches:
    """The batches of a window, in the order served. Rows are made up where a batch is filled up, and have the number -1.

    Attributes:
        rows: ``int64 (N,)``, number of each row in the epoch, batch after batch, longest first within a batch.
        lengths: ``int64 (N,)``, its tokens in the batch.
        cuts: ``int64 (K + 1,)``, the batches.
        slots: ``int64 (K,)``, their slots, padding included.
        row_length: Slots of a packed row; ``None`` where rows are padded.
        starts: ``int64 (N,)``, first slot of each packed sequence in its batch; ``None`` where rows are padded.
    """

    rows: Index
    lengths: Lengths
    cuts: Cuts
    slots: Index
    row_length: int | None = None
    starts: Index | None = None

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def tokens(self) -> Index:
        """Tokens of each batch, ``int64 (K,)``."""
        return np.add.reduceat(np.where(self.rows == MADE_UP, 0, self.lengths), self.cuts[:-1])

    @property
    def longest(self) -> Lengths:
        """Tokens of the longest row of each batch, ``int64 (K,)``."""
        return np.maximum.reduceat(self.lengths, self.cuts[:-1])

    @property
    def num_rows(self) -> Index:
        """Rows of each batch, ``int64 (K,)``."""
        return np.diff(self.cuts)

    def count(self, codes: Index, num_codes: int, weights: Lengths | None = None) -> npt.NDArray[np.float64]:
        """Return the rows of each class in each batch, ``float64 (K, C)``; rows without a class are not counted.

        Args:
            codes: ``int64``, number of the class of each row of the epoch, -1 where it has none.
            num_codes: Number of classes.
            weights: ``int64 (N,)``, what each row counts; 1 by default.
        """
        batch = np.repeat(np.arange(len(self)), self.num_rows)
        own = np.where(self.rows == MADE_UP, -1, codes[self.rows])
        is_known = own >= 0
        flat = (batch * num_codes + own)[is_known]
        counted = np.bincount(flat, None if weights is None else weights[is_known], minlength=len(self) * num_codes)
        return counted.reshape(len(self), num_codes).astype(np.float64)


def serve_first_window(lengths: Lengths, spec: Spec, bytes_per_token: float = 0.0, codes: Index | None = None) -> ServedBatches:
    """Return the batches of the first window of an epoch.

    Args:
        lengths: ``int64``, tokens of each row of the epoch, in its order.
        spec: The batch spec.
        bytes_per_token: Bytes of records in memory for each token, which limit a window.
        codes: ``int64``, number of the class of each row, by which a `Bucket` with ``balance`` orders batches.
    """
    rows, plan = next(iter(plan_windows(lengths, spec, bytes_per_token)))
    turns = plan.turns
    if codes is not None and isinstance(spec, Bucket):
        turns = _balanced(rows, plan, codes[: len(rows)])
    counts = np.diff(plan.cuts)[turns]
    places = np.concatenate([np.arange(plan.cuts[batch], plan.cuts[batch + 1]) for batch in turns.tolist()])
    order = plan.order[places]
    cuts = np.append(0, np.cumsum(counts))
    slots = num_slots(rows, plan)[turns]
    if isinstance(plan, PackedPlan):
        return ServedBatches(order, plan.lengths[places], cuts, slots, plan.row_length, plan.slots[places])
    own = np.where(order == MADE_UP, 1, rows[order])
    batch = np.repeat(np.arange(len(counts)), counts)
    by_length = sorted_within(batch, own)
    return ServedBatches(order[by_length], own[by_length], cuts, slots)


def _balanced(lengths: Lengths, plan: Plan, codes: Index) -> Index:
    """Return the order of batches in which any few of them have about the classes and lengths of the window."""
    num_ranges, num_codes = 32, int(codes.max(initial=0)) + 1
    order = plan.order
    batch = np.repeat(np.arange(len(plan)), np.diff(plan.cuts))[order != MADE_UP]
    own = order[order != MADE_UP]
    edges = np.quantile(lengths, np.arange(1, num_ranges) / num_ranges)
    width = num_ranges + num_codes
    counts = np.zeros((2, len(plan) * width))
    for features in (np.searchsorted(edges, lengths[own]), num_ranges + np.maximum(codes[own], 0)):
        flat = batch * width + features
        counts += [np.bincount(flat, weights, minlength=len(plan) * width) for weights in (None, lengths[own])]
    units = counts.reshape(2, len(plan), width).astype(np.int64)
    by_length = by_mean_length(units[..., :num_ranges])
    found: Index = by_length[balanced_turns(balance_features(units[:, by_length], num_ranges), ("report", "balance"))]
    return found


def serve_random(lengths: Lengths, batches: ServedBatches, seed: int = 0) -> ServedBatches:
    """Return the rows of some batches in as many batches of random rows, of equal size.

    Args:
        lengths: ``int64``, tokens of each row of the epoch.
        batches: The batches.
        seed: Seed of the order.
    """
    is_used = np.zeros(len(lengths), dtype=np.bool_)
    is_used[batches.rows[batches.rows != MADE_UP]] = True
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(is_used))
    cuts = np.linspace(0, len(rows), 1 + min(len(batches), len(rows))).round().astype(np.int64)
    batch = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
    rows = rows[sorted_within(batch, lengths[rows])]
    own = lengths[rows]
    return ServedBatches(rows, own, cuts, np.diff(cuts) * np.maximum.reduceat(own, cuts[:-1]))


def take_batches(batches: ServedBatches, num: int) -> ServedBatches:
    """Return the first batches."""
    end = int(batches.cuts[num])
    starts = None if batches.starts is None else batches.starts[:end]
    return ServedBatches(
        batches.rows[:end], batches.lengths[:end], batches.cuts[: num + 1], batches.slots[:num], batches.row_length, starts
    )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What an epoch will be.

    Attributes:
        steps: Optimiser steps.
        batches: Batches of each rank.
        tokens: Real tokens.
        padding: Share of the slots that is padding, 0 to 1.
    """

    steps: int
    batches: int
    tokens: int
    padding: float


def predict_epoch(
    lengths: Lengths, spec: Spec, bytes_per_token: float = 0.0, *, batches_per_step: int = 1, scale: float = 1.0
) -> Prediction:
    """Predict an epoch from the lengths of its rows.

    Rows of 4, 4, 2 and 2 tokens and ``Bucket(8)`` make two batches of 8 slots, without padding.

    Args:
        lengths: ``int64``, tokens of each row in the order of an epoch.
        spec: The batch spec.
        bytes_per_token: Bytes of records in memory for each token, which limit a window.
        batches_per_step: Batches of an optimiser step, of all ranks.
        scale: Rows of the corpus that each length stands for.
    """
    steps = batches = slots = tokens = 0
    for rows, plan in plan_windows(lengths, spec, bytes_per_token):
        steps += math.ceil(len(plan) / batches_per_step)
        batches += len(plan)
        slots += int(num_slots(rows, plan).sum())
        tokens += num_tokens(rows, plan)
    padding = 1 - tokens / max(1, slots)
    return Prediction(round(steps * scale), round(batches * scale), round(tokens * scale), padding)
