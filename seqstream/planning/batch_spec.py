"""How rows of a window become batches: the plan that follows from lengths, and what a loader asks of whoever makes it."""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np

from seqstream.arrays import Index, Lengths
from seqstream.options import check_positive, is_no_limit
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.records import Json
from seqstream.shuffling import EvenOrder

WINDOW_BATCHES = 256
WINDOW_BYTES = 64 << 20
ID_BYTES = 4

_READ_SHARE = 0.5
"""Of records as read, which are held as well, half counts: text has as many bytes as its ids, other columns may have more."""


@dataclasses.dataclass(frozen=True)
class WindowSize:
    """How much is planned together: as many batches of each rank *and* as many bytes of ids, of all ranks, as are given.

    Attributes:
        batches: Batches of each rank; ``None`` for any number.
        num_bytes: Bytes of ids, four each; ``None`` for any number.
    """

    batches: int | None = WINDOW_BATCHES
    num_bytes: int | None = WINDOW_BYTES

    @classmethod
    def of(cls, batches: int | None, num_bytes: int | None) -> WindowSize:
        """Return the size that a user asks for: where one number is given, it alone counts; where none is, both defaults do."""
        return cls() if batches is None and num_bytes is None else cls(batches, num_bytes)

    def share(self, *, num_batches: float, num_tokens: float, read_bytes: float, world_size: int) -> float:
        """Return how much of a full window some rows are, 1.0 for all of it.

        Args:
            num_batches: How many batches they make.
            num_tokens: Their tokens.
            read_bytes: Bytes of their records as read.
            world_size: Number of ranks.
        """
        shares = []
        if self.batches is not None:
            shares.append(num_batches / (self.batches * world_size))
        if self.num_bytes is not None:
            shares.append(max(ID_BYTES * num_tokens, _READ_SHARE * read_bytes) / self.num_bytes)
        return min(shares)


class BatchSpec(Protocol):
    """What a loader asks of a batch spec: `Bucket`, `Pack` and `Unbucketed` are its kinds."""

    def window_size(self, *, shuffle: bool) -> WindowSize:
        """Return how much a full window holds."""

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

    def fills(self, runs: LengthCounts, multiple: int) -> bool:
        """Return whether rows are enough for so many batches, more rows being on their way."""

    def num_planned(self, num_rows: int, first: Callable[[int], LengthCounts], *, last: bool, multiple: int) -> int:
        """Return how many rows of a window, from its first, are planned now; the others begin the next window.

        Args:
            num_rows: Rows there are.
            first: Counts the lengths of so many of them, from the first on.
            last: Whether the epoch ends with them.
            multiple: Batches of an optimiser step, of all ranks: where batches are to be full, they are a multiple of it.
        """

    def plan_global(
        self, runs: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        """Return what all ranks take at each step of a window.

        Args:
            runs: The lengths of its rows; rows are numbered as sorted by them.
            key: Seeds the order of rows and groups; ``None`` leaves both as they come.
            world_size: Number of ranks.
            accumulate: How many batches of each rank an optimiser step sums.
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
    def plan_global(
        self, runs: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan: ...

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        """Return the batches of one process whose window has these rows.

        Args:
            lengths: ``int64 (N,)``, steps of each row, in the order read; ``(N, S)`` for rows of several sides.
            key: Seeds the order of rows and batches; ``None`` leaves both as they come.
        """
        keys = self.sort_keys(lengths)
        global_plan = self.plan_global(LengthCounts.of(keys), key=key, world_size=1)
        groups, places = np.arange(len(global_plan)), np.arange(global_plan.cuts[-1])
        rows = global_plan.wanted(places)
        local = np.append(sorted_order(keys), MADE_UP)[rows]
        return global_plan.lay_out(local, places, global_plan.cuts, groups, global_plan.turns)


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


def show(spec: Any) -> str:
    """Print a spec with the fields that are not as by default."""
    fields = ((field, getattr(spec, field.name)) for field in dataclasses.fields(spec))
    return f"{type(spec).__name__}({', '.join(f'{field.name}={value!r}' for field, value in fields if value != field.default)})"


def without_default(fields: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """Return what a spec says of itself without fields that came later, where they change nothing: older states stay valid."""
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


def turns_of(num_batches: int, key: tuple[object, ...] | None) -> Index:
    """Return the order in which batches, longest first, are served: long and short ones in turn, and so at every scale.

    So any eight batches that follow each other are one of each eighth by length; see `EvenOrder`. With ``key=None`` they stay.
    """
    if key is None:
        return np.arange(num_batches)
    return EvenOrder(num_batches, *key, "batches", turned=False).between(0, num_batches)


def needed(max_length: int | None) -> int:
    """Return the longest length there can be, where something depends on it.

    Raises:
        ValueError: Nobody has said it.
    """
    if max_length is None:
        raise ValueError("the largest batch cannot be known without a longest row; set Tokenize(max_length=...)")
    return max_length


LARGEST_BATCH_SIZE = 128
"""Nobody means so few tokens by a budget, but many rows by the number: it is a usual batch size."""


def meant_as_rows(max_tokens: object) -> str:
    """Return the end of a message that says what to write if a budget was meant as a number of rows, as small ones are."""
    is_small = isinstance(max_tokens, int) and max_tokens <= LARGEST_BATCH_SIZE
    return f"; for batches of {max_tokens} rows write Bucket(batch_size={max_tokens})" if is_small else ""


def set_positive(spec: object, names: Sequence[str], *, limits: Sequence[str] = ()) -> None:
    """Make fields of a frozen dataclass plain ``int``: a state is JSON, which knows no numbers of NumPy.

    Args:
        spec: The dataclass; each of the fields is a positive whole number, or ``None``.
        names: The fields.
        limits: Those that bound a row or a batch, and must do so.

    Raises:
        ValueError: A number is not positive, or bounds nothing.
    """
    required = {field.name for field in dataclasses.fields(spec) if field.default is not None}  # type: ignore[arg-type]
    for name in names:
        value = getattr(spec, name)
        if name in limits and is_no_limit(value):
            reason = "a model_max_length so large says that the tokenizer knows no limit; give a number of your own"
            raise ValueError(f"{name} must be below 2**31, got {value!r}; {reason}")
        check_positive(name, value)
        if value is None and name in required:
            raise ValueError(f"{name} must be a positive whole number, got None")
        if value is not None:
            object.__setattr__(spec, name, operator.index(value))
