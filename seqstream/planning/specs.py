"""How rows of a window become batches: the plan that follows from lengths, and what a loader asks of whoever makes it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqstream.order import shuffled
from seqstream.planning.batches import Cuts, Lengths
from seqstream.sources.protocol import Json
from seqstream.stages import Counts

Index = npt.NDArray[np.int64]

MADE_UP = -1
"""Stands in a plan for a row that no record gives: one padding token, of weight 0, to fill a batch up."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which rows of a window go together.

    Attributes:
        order: ``int64 (N,)``, rows of the window, batch after batch; `MADE_UP` at the end of those that are filled up.
        cuts: ``int64 (K + 1,)``: batch ``k`` holds ``order[cuts[k]:cuts[k + 1]]``.
        turns: ``int64 (K,)``, the order in which batches are served.
        multiple_of: Padded lengths are rounded up to a multiple of it.
        widths: ``int64 (K,)``, padded length of all columns of each batch; ``None`` where each column is as wide as its longest
            row.
        counts: What became of rows that are not in the plan as they were.
    """

    order: Index
    cuts: Cuts
    turns: Index
    multiple_of: int = 1
    widths: Lengths | None = None
    counts: Counts = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.turns)

    def rows(self, turn: int) -> Index:
        """Return the rows of the batch that is served ``turn``-th, without those made up."""
        batch = self.turns[turn]
        return self.order[self.cuts[batch] : self.cuts[batch + 1] - self.num_made[batch]]

    @functools.cached_property
    def num_made(self) -> list[int]:
        """Rows made up in each of the K batches."""
        made = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.order == MADE_UP)])
        counts: list[int] = np.diff(made[self.cuts]).tolist()
        return counts

    def padded(self, lengths: Lengths) -> Lengths:
        """Return the padded length of each of the K batches, the rows of the window having ``lengths``."""
        if self.widths is not None or not len(self):
            return np.empty(0, dtype=np.int64) if self.widths is None else self.widths
        longest = np.maximum.reduceat(np.where(self.order == MADE_UP, 0, lengths[self.order]), self.cuts[:-1])
        return -(-longest // self.multiple_of) * self.multiple_of

    def width(self, batch: int, longest: int) -> int:
        """Return the padded length of a column of a batch, of which the longest row has so many steps."""
        if self.widths is not None:
            return int(self.widths[batch])
        return -(-longest // self.multiple_of) * self.multiple_of


class BatchSpec(Protocol):
    """What a loader asks of a batch spec: `Bucket`, `Pack` and `InOrder` are its kinds."""

    @property
    def window_batches(self) -> int:
        """How many batches a full window holds."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns whose lengths a row is planned by, each a side of its own; ``None`` for the longest of all."""

    @property
    def sample_batches(self) -> float:
        """How many batches must have been seen before any is planned; 0 once all is decided."""

    def fitted(self, lengths: Lengths, max_length: int | None) -> BatchSpec:
        """Return the spec with all decided that is decided by looking at the first lengths."""

    def fills_batch(self, lengths: Lengths) -> bool:
        """Say whether rows are enough for a batch, more rows being on their way."""

    def num_planned(self, lengths: Lengths, *, last: bool) -> int:
        """Return how many rows of a window, from its first, are planned now; the others begin the next window."""

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        """Return the batches of a window.

        Args:
            lengths: ``int64 (N,)``, steps of each row, in the order read; ``(N, S)`` for rows of several sides.
            key: Seeds the order of rows and batches; ``None`` leaves both as they come.
        """

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        """Estimate how many batches some rows make."""

    def largest(self, max_length: int | None) -> tuple[int, int]:
        """Return the rows and the padded length of the largest batch that can occur, rows being of at most ``max_length``."""

    def fingerprint(self) -> Json:
        """Say what the plan depends on."""


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
        check_positive("batch_size", self.batch_size)

    @property
    def window_batches(self) -> int:
        return 256

    @property
    def columns(self) -> None:
        return None

    @property
    def sample_batches(self) -> float:
        return 0

    def fitted(self, lengths: Lengths, max_length: int | None) -> InOrder:
        return self

    def fills_batch(self, lengths: Lengths) -> bool:
        return len(lengths) >= self.batch_size

    def num_planned(self, lengths: Lengths, *, last: bool) -> int:
        return len(lengths) if last and not self.drop_last else len(lengths) // self.batch_size * self.batch_size

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        num_rows = len(lengths)
        order = np.arange(num_rows) if key is None else shuffled(num_rows, *key, "rows")
        cuts = np.append(np.arange(0, num_rows, self.batch_size), num_rows)
        return Plan(order, cuts, np.arange(len(cuts) - 1))

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        return num_rows / self.batch_size

    def largest(self, max_length: int | None) -> tuple[int, int]:
        return self.batch_size, needed(max_length)

    def fingerprint(self) -> Json:
        return {"kind": "InOrder", **dataclasses.asdict(self)}


def show(spec: Any) -> str:
    """Print a spec with the fields that are not as by default."""
    fields = ((field, getattr(spec, field.name)) for field in dataclasses.fields(spec))
    return f"{type(spec).__name__}({', '.join(f'{field.name}={value!r}' for field, value in fields if value != field.default)})"


def turns_of(num_batches: int, key: tuple[object, ...] | None) -> Index:
    """Return the order in which batches are served: any, or with ``key=None`` the one they have."""
    return np.arange(num_batches) if key is None else shuffled(num_batches, *key, "batches")


def needed(max_length: int | None) -> int:
    """Return the longest length there can be, where something depends on it.

    Raises:
        ValueError: Nobody has said it.
    """
    if max_length is None:
        raise ValueError("the largest batch cannot be known without a longest row; set Tokenize(max_length=...)")
    return max_length


def check_positive(name: str, value: object) -> None:
    """Refuse a number of things that is no positive whole number; ``None`` is none given.

    Raises:
        ValueError: It is not.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
