"""How rows of a window become batches: what the user asks for, and the plan that follows from lengths."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seqstream.order import shuffled
from seqstream.planning.batches import Cuts, Lengths, plan_batches
from seqstream.planning.order import longest_first
from seqstream.sources.protocol import Json


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which rows of a window go together.

    Attributes:
        order: ``int64 (N,)``, rows of the window, batch after batch.
        cuts: ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.
        widths: ``int64 (K,)``, padded length of each batch.
        turns: ``int64 (K,)``, the order in which batches are served.
        multiple_of: Padded lengths are rounded up to a multiple of it.
    """

    order: npt.NDArray[np.int64]
    cuts: Cuts
    widths: Lengths
    turns: npt.NDArray[np.int64]
    multiple_of: int = 1

    def __len__(self) -> int:
        return len(self.turns)

    def rows(self, turn: int) -> npt.NDArray[np.int64]:
        """Return the rows of the batch that is served ``turn``-th."""
        batch = self.turns[turn]
        return self.order[self.cuts[batch] : self.cuts[batch + 1]]

    def width(self, turn: int) -> int:
        """Return the padded length of the batch that is served ``turn``-th."""
        return int(self.widths[self.turns[turn]])

    def round_up(self, longest: int) -> int:
        """Return the padded length of rows of which the longest has so many steps."""
        return -(-longest // self.multiple_of) * self.multiple_of


class BatchSpec(Protocol):
    """What a loader asks of a batch spec."""

    @property
    def window_batches(self) -> int:
        """How many batches a full window holds."""

    def num_planned(self, num_rows: int, *, last: bool) -> int:
        """Return how many rows of a window, from its first, are planned now; the others begin the next window."""

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        """Return the batches of a window from its lengths, in the order read; ``key`` seeds the order, ``None`` keeps it."""

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        """Estimate how many batches some rows make."""

    def fingerprint(self) -> Json:
        """Say what the plan depends on."""


@dataclasses.dataclass(frozen=True, repr=False)
class Bucket:
    """Batches of rows of similar length, cut from a window so that padding is least.

    Args:
        max_tokens: Budget of a batch in padded tokens: rows times the longest. Larger means bigger batches and fewer steps.
        batch_size: Number of rows of a batch. Alone, every batch has as many, save the last of an epoch; beside
            ``max_tokens`` it is a second limit.
        window_batches: How many batches are planned together. More pad less, mix rows of more distant places, and hold more in
            memory; padding falls in proportion.
        multiple_of: Padded lengths are rounded up to a multiple of it, as some hardware likes; within the budget.

    Raises:
        ValueError: Neither ``max_tokens`` nor ``batch_size`` is given, or a number is not positive.
    """

    max_tokens: int | None = None
    batch_size: int | None = dataclasses.field(default=None, kw_only=True)
    window_batches: int = dataclasses.field(default=256, kw_only=True)
    multiple_of: int = dataclasses.field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.max_tokens is None and self.batch_size is None:
            raise ValueError("Bucket must have max_tokens or batch_size, got neither; for example Bucket(max_tokens=16_384)")
        for name in ("max_tokens", "batch_size", "window_batches", "multiple_of"):
            _check_positive(name, getattr(self, name))
        if self.max_tokens is not None and self.max_tokens < self.multiple_of:
            raise ValueError(f"max_tokens must be at least multiple_of={self.multiple_of}, got {self.max_tokens}")

    def __repr__(self) -> str:
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        return f"Bucket({', '.join(f'{field.name}={value}' for field, value in fields if value != field.default)})"

    def num_planned(self, num_rows: int, *, last: bool) -> int:
        if self.max_tokens is not None or self.batch_size is None or last:
            return num_rows
        return num_rows // self.batch_size * self.batch_size

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        order = longest_first(lengths, key)
        padded = -(-lengths[order] // self.multiple_of) * self.multiple_of
        cuts = plan_batches(padded, max_tokens=self.max_tokens, max_rows=self.batch_size)
        return Plan(order, cuts, padded[cuts[:-1]], _turns(len(cuts) - 1, key), self.multiple_of)

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        by_tokens = num_tokens / self.max_tokens if self.max_tokens else 0.0
        return max(by_tokens, num_rows / self.batch_size if self.batch_size else 0.0)

    def fingerprint(self) -> Json:
        return {"kind": "Bucket", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Batches of consecutive rows, padded: what one gets without bucketing, to compare with and to evaluate with.

    With ``shuffle=True`` the rows of a window are shuffled first, so batches are random; without, rows come as the source has
    them.

    Args:
        batch_size: Number of rows of a batch; the last of an epoch may have fewer.
        drop_last: Drop that last batch where it is smaller; its rows are counted as dropped.
    """

    batch_size: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        _check_positive("batch_size", self.batch_size)

    @property
    def window_batches(self) -> int:
        return 256

    def num_planned(self, num_rows: int, *, last: bool) -> int:
        return num_rows if last and not self.drop_last else num_rows // self.batch_size * self.batch_size

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        num_rows = len(lengths)
        order = np.arange(num_rows) if key is None else shuffled(num_rows, *key, "rows")
        cuts = np.append(np.arange(0, num_rows, self.batch_size), num_rows)
        widths = np.maximum.reduceat(lengths[order], cuts[:-1]) if num_rows else np.empty(0, dtype=np.int64)
        return Plan(order, cuts, widths, np.arange(len(widths)))

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_rows / self.batch_size

    def fingerprint(self) -> Json:
        return {"kind": "InOrder", **dataclasses.asdict(self)}


def _turns(num_batches: int, key: tuple[object, ...] | None) -> npt.NDArray[np.int64]:
    return np.arange(num_batches) if key is None else shuffled(num_batches, *key, "batches")


def _check_positive(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
