"""How rows of a window become batches: the plan that follows from lengths, and what a loader asks of whoever makes it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np

from seqstream.order import shuffled
from seqstream.planning.batches import Lengths
from seqstream.planning.grouping import Grouping, Listed
from seqstream.planning.order import Mixed
from seqstream.planning.plan import MADE_UP, Index, Plan
from seqstream.planning.runs import Runs, sorted_order
from seqstream.sources.protocol import Json


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

    def sort_keys(self, lengths: Lengths) -> Lengths:
        """Return what rows are sorted by, descending, before they are planned: their lengths, or the same for all."""

    def fills_group(self, runs: Runs, world_size: int) -> bool:
        """Say whether rows are enough for a batch of each rank, more rows being on their way."""

    def num_planned(self, num_rows: int, first: Callable[[int], Runs], *, last: bool, world_size: int) -> int:
        """Return how many rows of a window, from its first, are planned now; the others begin the next window.

        Args:
            num_rows: Rows there are.
            first: Counts the lengths of so many of them, from the first on.
            last: Whether the epoch ends with them.
            world_size: Number of ranks.
        """

    def arrange(self, runs: Runs, *, key: tuple[object, ...] | None, world_size: int) -> Grouping:
        """Return what all ranks take at each step of a window.

        Args:
            runs: The lengths of its rows; rows are numbered as sorted by them.
            key: Seeds the order of rows and groups; ``None`` leaves both as they come.
            world_size: Number of ranks.
        """

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        """Estimate how many batches some rows make."""

    def largest(self, max_length: int | None) -> tuple[int, int]:
        """Return the rows and the padded length of the largest batch that can occur, rows being of at most ``max_length``."""

    def fingerprint(self) -> Json:
        """Say what the plan depends on."""


class Plans(abc.ABC):
    """What every batch spec can do with what it can."""

    def sort_keys(self, lengths: Lengths) -> Lengths:
        return lengths

    @abc.abstractmethod
    def arrange(self, runs: Runs, *, key: tuple[object, ...] | None, world_size: int) -> Grouping: ...

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        """Return the batches of one process whose window has these rows.

        Args:
            lengths: ``int64 (N,)``, steps of each row, in the order read; ``(N, S)`` for rows of several sides.
            key: Seeds the order of rows and batches; ``None`` leaves both as they come.
        """
        keys = self.sort_keys(lengths)
        grouping = self.arrange(Runs.of(keys), key=key, world_size=1)
        groups, places = np.arange(len(grouping)), np.arange(grouping.cuts[-1])
        rows = grouping.wanted(places)
        local = np.append(sorted_order(keys), MADE_UP)[rows]
        return grouping.lay_out(local, places, grouping.cuts, groups, grouping.turns)


class Decided(Plans):
    """What a batch spec answers that plans by the longest column, and leaves nothing to be decided by the data."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        return None

    @property
    def sample_batches(self) -> float:
        return 0

    def fitted(self, lengths: Lengths, max_length: int | None) -> Self:
        return self


@dataclasses.dataclass(frozen=True)
class InOrder(Decided):
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

    def sort_keys(self, lengths: Lengths) -> Lengths:
        return np.zeros(len(lengths), dtype=np.int64)

    def fills_group(self, runs: Runs, world_size: int) -> bool:
        return runs.num_rows >= self.batch_size * world_size

    def num_planned(self, num_rows: int, first: Callable[[int], Runs], *, last: bool, world_size: int) -> int:
        size = self.batch_size * world_size
        return num_rows if last and not self.drop_last else num_rows // size * size

    def arrange(self, runs: Runs, *, key: tuple[object, ...] | None, world_size: int) -> Grouping:
        num_rows = runs.num_rows
        order = Mixed.of(np.array([num_rows]), None) if key is None else Listed(shuffled(num_rows, *key, "rows"))
        cuts = np.append(np.arange(0, num_rows, self.batch_size * world_size), num_rows)
        groups = np.ones(len(cuts) - 1, dtype=np.int64)
        return Grouping(order, cuts, np.arange(len(groups)), self.batch_size * groups, multiples=groups)

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
