"""The protocol of a batch spec, which turns the lengths of a window into a plan, and what all batch specs have in common."""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np

from seqstream.arrays import Index, Lengths
from seqstream.options import check_positive, is_no_limit
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts, sorted_order
from seqstream.planning.plan import MADE_UP, Plan
from seqstream.planning.planned_search import PlannedSearch
from seqstream.planning.sides import Sides
from seqstream.records import Json
from seqstream.shuffling import EvenOrder

WINDOW_BATCHES = 256
WINDOW_BYTES = 64 << 20
ID_BYTES = 4

_READ_SHARE = 0.5
"""The share of the bytes of records as read that counts towards a window, which holds these records too."""


@dataclasses.dataclass(frozen=True)
class WindowSize:
    """How much is planned together: a window is full when it holds enough batches *and* enough bytes.

    Attributes:
        batches: Batches of each rank; ``None`` for no such condition.
        num_bytes: Bytes of ids of all ranks, four an id; ``None`` for no such condition.
    """

    batches: int | None = WINDOW_BATCHES
    num_bytes: int | None = WINDOW_BYTES

    @classmethod
    def of(cls, batches: int | None, num_bytes: int | None) -> WindowSize:
        """Return the size that a user asks for: the given numbers alone, or both defaults where none is given."""
        return cls() if batches is None and num_bytes is None else cls(batches, num_bytes)

    def share(self, *, num_batches: float, num_tokens: float, read_bytes: float, world_size: int) -> float:
        """Return which share of a full window some rows fill, 1.0 for all of it.

        Args:
            num_batches: Number of batches of these rows, over all ranks.
            num_tokens: Number of tokens in them.
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
    """What a loader asks of a batch spec, such as `Bucket`, `Pack` and `Unbucketed`."""

    def window_size(self, *, shuffle: bool) -> WindowSize:
        """Return how much a full window holds."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns whose lengths the plan depends on, one side of a row each; ``None`` for the longest column."""

    @property
    def group(self) -> str | None:
        """The column of keys whose equal values, in consecutive rows, are a group that is planned as one; ``None`` for none."""

    @property
    def sides(self) -> Sides | None:
        """What the numbers are that rows are planned by; ``None`` where they are all lengths."""

    @property
    def sample_batches(self) -> float:
        """Number of batches that `fitted` must see before any batch is planned; 0 where it has nothing to choose."""

    def fitted(self, lengths: Lengths, max_length: int | None) -> BatchSpec:
        """Return the spec with everything chosen that depends on a sample of lengths."""

    def sort_keys(self, lengths: Lengths) -> Lengths:
        """Return the keys by which rows are sorted, descending, before they are planned: lengths, or 0 for all."""

    def count_tokens(self, lengths: Lengths) -> Lengths:
        """Return how many tokens of each row are served, ``int64 (N,)``, given lengths ``(N,)``."""

    def fills(self, length_counts: LengthCounts, multiple: int) -> bool:
        """Return whether rows fill at least ``multiple`` batches, while more rows follow."""

    def search_planned(self, length_counts: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        """Return how many rows of a window, from its first, are planned now, or the search for that number.

        The other rows begin the next window.

        Args:
            length_counts: The lengths of all rows.
            last: Whether the epoch ends with them.
            multiple: Batches of an optimiser step, of all ranks: where batches are to be full, they are a multiple of it.
        """

    def plan_global(
        self, length_counts: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        """Return the plan of a window for all ranks.

        Args:
            length_counts: The rows of the window by length.
            key: Seeds the order of rows and of global batches; ``None`` leaves both as they are.
            world_size: Number of ranks.
            accumulate: Number of batches of each rank in an optimiser step.
        """

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        """Return an estimate of the number of batches of some rows."""

    def largest(self, max_length: int | None) -> tuple[int, int]:
        """Return the rows and the padded length of the largest possible batch, with rows of at most ``max_length``."""

    def fingerprint(self) -> Json:
        """Return what the plan depends on."""


class PlannerBase(abc.ABC):
    """What batch specs have in common: no columns of their own, nothing to choose from a sample, and `plan`."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        return None

    @property
    def group(self) -> str | None:
        return None

    @property
    def sides(self) -> Sides | None:
        return None

    @property
    def sample_batches(self) -> float:
        return 0

    def fitted(self, lengths: Lengths, max_length: int | None) -> Self:
        return self

    def sort_keys(self, lengths: Lengths) -> Lengths:
        return lengths

    def count_tokens(self, lengths: Lengths) -> Lengths:
        return lengths

    @abc.abstractmethod
    def plan_global(
        self, length_counts: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan: ...

    def plan(self, lengths: Lengths, *, key: tuple[object, ...] | None) -> Plan:
        """Return the batches of a window on a single rank.

        Args:
            lengths: ``int64 (N,)``, tokens of each row, in the order read; ``(N, S)`` for rows of several sides.
            key: Seeds the order of rows and batches; ``None`` leaves both as they are.
        """
        keys = self.sort_keys(lengths)
        global_plan = self.plan_global(LengthCounts.of(keys), key=key, world_size=1)
        global_batches, places = np.arange(len(global_plan)), np.arange(global_plan.cuts[-1])
        rows = np.append(sorted_order(keys), MADE_UP)[global_plan.row_numbers(places)]
        return global_plan.lay_out(rows, places, global_plan.cuts, global_batches, global_plan.turns)


def show(spec: Any) -> str:
    """Return the text of a spec, with the fields that differ from their defaults."""
    fields = ((field, getattr(spec, field.name)) for field in dataclasses.fields(spec))
    return f"{type(spec).__name__}({', '.join(f'{field.name}={value!r}' for field, value in fields if value != field.default)})"


def without_default(fields: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """Return fields without those that a later version has added and that have their defaults, so older states stay valid."""
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


def turns_of(num_batches: int, key: tuple[object, ...] | None) -> Index:
    """Return the order in which batches are served: long and short batches alternate, at every scale.

    Any eight batches in a row are one of each eighth by length; see `EvenOrder`.

    Args:
        num_batches: Number of batches, which are numbered longest first.
        key: Seeds the order; ``None`` leaves batches as they are.

    Returns:
        ``int64 (num_batches,)``, the batch of each turn.
    """
    if key is None:
        return np.arange(num_batches)
    return EvenOrder(num_batches, *key, "batches", rotated=False).between(0, num_batches)


def known_max_length(max_length: int | None) -> int:
    """Return the greatest possible length of a row.

    Raises:
        ValueError: ``max_length`` is not known.
    """
    if max_length is None:
        raise ValueError("the largest batch cannot be known without a longest row; set Tokenize(max_length=...)")
    return max_length


LARGEST_BATCH_SIZE = 128
"""A budget up to this is probably meant as a number of rows: it is a common batch size, and too few tokens."""


def meant_as_rows(max_tokens: object) -> str:
    """Return the end of an error message: what to write if a small budget was meant as a number of rows."""
    is_small = isinstance(max_tokens, int) and max_tokens <= LARGEST_BATCH_SIZE
    return f"; for batches of {max_tokens} rows write Bucket(batch_size={max_tokens})" if is_small else ""


def set_positive(spec: object, names: Sequence[str], *, limits: Sequence[str] = ()) -> None:
    """Check fields of a frozen dataclass and convert them to ``int``, as a state is JSON, which has no NumPy numbers.

    Args:
        spec: The dataclass.
        names: Fields whose values must be positive whole numbers, or ``None`` where that is the default.
        limits: Those of them that limit a row or a batch, so they must be below ``2**31``.

    Raises:
        ValueError: A value is not a positive whole number, or too large for a limit.
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
