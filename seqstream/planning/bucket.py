"""Batches of rows of similar length, under a budget or of fixed shapes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal, Self, cast

import numpy as np

from seqstream.arrays import Lengths
from seqstream.options import check_positive, names, one_of, yes_or_no
from seqstream.planning.batch_limits import BatchLimits
from seqstream.planning.batch_spec import (
    PlannerBase,
    WindowSize,
    known_max_length,
    set_positive,
    show,
    turns_of,
    without_default,
)
from seqstream.planning.bucket_cuts import STEP_COST
from seqstream.planning.given_shapes import Shape, read_shapes
from seqstream.planning.global_batches import GlobalBatches, cut_by_length, cut_by_sides, cut_into_shapes
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.grouped_plan import GroupedGlobalPlan, Groups
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.mixed_turns import mixed_turns
from seqstream.planning.planned_search import PlannedRows, PlannedSearch
from seqstream.planning.shape_choice import choose_lengths
from seqstream.planning.sides import Sides
from seqstream.planning.tie_order import SpreadTies
from seqstream.records import Json, ids_columns

SAMPLE_BATCHES = 64
"""Number of batches whose lengths are the sample by which shapes are chosen."""

EVEN_STEP_COST = 0.2
"""Cost of a batch besides its tokens, as a share of the budget, in mixed plans: batches are fuller, so ranks wait less."""

_ATTENTION_MEMORY = 435
"""Length at which attention needs as much memory as everything else: 34 h + 5 a L bytes a token and layer, heads of 64, by
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022; fused attention needs less."""


@dataclasses.dataclass(frozen=True, repr=False)
class Bucket(PlannerBase):
    """Batches of rows of similar length, cut from a window so that they pad least.

    In a batch, rows are longest first.

    A batch of similar lengths is not a random sample: its rows often share a source or a label, and its gradient is noisier
    than that of as many random rows. So long and short batches of a window alternate, at every scale, and an optimiser step
    should sum several batches: ``Loader(accumulate=K)``. For an RNN, or a transformer on one device, use four to eight batches
    a step, with a budget as small as keeps the device busy. On many ranks a transformer needs nothing more, as each rank has
    its own lengths; for an RNN set ``step="alike"`` and ``accumulate=8``. Divide the sum of the losses of rows by a constant,
    such as ``loader.stats.rows_per_step``, and the sum of the losses of tokens by ``batch.step_num_label_tokens``: a mean over
    each batch would give more weight to rows of long batches. The measurements are in ``benchmarks/README.md``.

    Args:
        max_tokens: Budget of a batch in padded tokens: rows times the longest row. Larger means bigger batches and fewer steps.
        batch_size: Number of rows of a batch. Alone, every batch has this number, except the last of an epoch; together with
            ``max_tokens`` it is a second limit.
        window_batches: Least number of batches, of each rank, that are planned together. More pad less, mix rows from more
            distant parts of the data, and need more memory; padding is inversely proportional.
        window_bytes: Least bytes of ids, of all ranks, that are planned together, four an id. Where only one of the two is
            given, only it counts; by default windows hold 256 batches and 64 MiB, whichever is more, and a smaller corpus is
            one window.
        multiple_of: Padded lengths are rounded up to a multiple of it, within the budget, as some hardware prefers.
        rows_multiple_of: Numbers of rows are a multiple of it, within the budget; at the end of a window, batches are filled up
            with made-up rows, whose `Batch.weights` are 0.
        shapes: Every batch has one of these shapes, so ``torch.compile`` and CUDA graphs see no others. A number of shapes,
            whose lengths are chosen to pad least for the first 64 batches, and whose rows follow from the budget; or a list of
            ``(rows, length)``; or a JSON file with such a list, as ``json.dump(loader.shapes(), file)`` writes it. At the end
            of a window, batches are filled up with made-up rows.
        cost: What the budget counts: padded ``"tokens"``, ``rows * L``; or with ``"attention"`` the computation of a
            transformer without fused attention, ``rows * (L + L**2 / (6 * hidden_size))``, in tokens.
        hidden_size: Width of that model.
        columns: Columns of sequences whose lengths the budget counts, such as a source and its translation: rows times the sum
            of their padded lengths; of several texts of a record it is the most texts times the longest. In a batch, rows are
            longest first by the first of them. By default the columns that ``Tokenize`` gives, else the longest column; after a
            `Map` behind ``Tokenize`` that adds one, the longest too.
        step: Which lengths the ranks have at the same time. ``"mixed"``: each rank has a batch of its own lengths, and all
            batches cost about the same of the budget, so a step is a fair sample of the window; best for transformers, whose
            time depends on tokens. ``"alike"``: all ranks have neighbours by length, which they take in turn; best for RNNs,
            whose time depends on the longest row; also set ``Loader(accumulate=8)``. By default mixed with
            ``max_tokens``, alike with ``batch_size`` alone.
        balance: A column of classes, such as a label or the name of a source, with at most 4,096 values: batches are served in
            an order in which any few of them have each class, and each length, as often as the window has. By default only
            lengths are spread evenly. A missing value is a class of its own.
        group: A column of keys, such as the number of a prompt: consecutive records with one key stay in one batch, on one
            rank, next to each other and in their order. A group that is larger than a batch is an error. Records without a key
            are groups of one. Records of a list or a data set are then shuffled in blocks of neighbours, not one by one.
        drop_last: Leave out the rows at the end of an epoch that do not fill a whole optimiser step of ``batch_size`` rows a
            batch, of all ranks and with ``accumulate``; they are counted as dropped. Only with ``batch_size`` alone: with a
            budget, rows are divided among batches, and with ``shapes`` batches are filled up, so that no batch is short.

    Raises:
        ValueError: No limit is given, a number is not positive, or the limits leave no room for a batch.
        FileNotFoundError: The file of ``shapes`` does not exist.
    """

    max_tokens: int | None = None
    batch_size: int | None = dataclasses.field(default=None, kw_only=True)
    window_batches: int | None = dataclasses.field(default=None, kw_only=True)
    window_bytes: int | None = dataclasses.field(default=None, kw_only=True)
    multiple_of: int = dataclasses.field(default=1, kw_only=True)
    rows_multiple_of: int = dataclasses.field(default=1, kw_only=True)
    shapes: int | Sequence[Shape] | str | os.PathLike[str] | None = dataclasses.field(default=None, kw_only=True)
    cost: Literal["tokens", "attention"] = dataclasses.field(default="tokens", kw_only=True)
    hidden_size: int | None = dataclasses.field(default=None, kw_only=True)
    columns: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    step: Literal["alike", "mixed"] | None = dataclasses.field(default=None, kw_only=True)
    balance: str | None = dataclasses.field(default=None, kw_only=True)
    group: str | None = dataclasses.field(default=None, kw_only=True)
    drop_last: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        limits = ("max_tokens", "batch_size")
        others = ("window_batches", "window_bytes", "multiple_of", "rows_multiple_of", "hidden_size")
        set_positive(self, (*limits, *others), limits=limits)
        if self.shapes is not None and not isinstance(self.shapes, int):
            object.__setattr__(self, "shapes", read_shapes(self.shapes))
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(names("columns", self.columns) or ()))
        object.__setattr__(self, "drop_last", yes_or_no("drop_last", self.drop_last))
        self._check_limits()
        self._check_shapes()

    def __repr__(self) -> str:
        return show(self)

    def window_size(self, *, shuffle: bool) -> WindowSize:
        return WindowSize.of(self.window_batches, self.window_bytes)

    @property
    def sample_batches(self) -> float:
        return SAMPLE_BATCHES if isinstance(self.shapes, int) else 0

    def fitted(self, lengths: Lengths, max_length: int | None) -> Self:
        """Return the bucket with its shapes chosen, or itself where no shapes are to be chosen.

        Args:
            lengths: ``int64 (N,)``, a sample of the lengths of rows.
            max_length: The greatest possible length, which is the length of the last shape.
        """
        if not isinstance(self.shapes, int):
            return self
        counts = np.bincount(lengths, minlength=known_max_length(max_length) + 1)
        chosen = choose_lengths(counts, self.shapes, multiple_of=self.multiple_of).tolist()
        return dataclasses.replace(self, shapes=tuple((self._limits.rows_of(length), length) for length in chosen))

    def fills(self, length_counts: LengthCounts, multiple: int) -> bool:
        return self.search_planned(length_counts, last=False, multiple=multiple).num_planned > 0

    def search_planned(self, length_counts: LengthCounts, *, last: bool, multiple: int) -> PlannedSearch:
        if not self._is_by_rows or self.group is not None or (last and not self.drop_last):
            return PlannedRows(length_counts.num_rows)
        size = cast("int", self.batch_size) * multiple
        return PlannedRows(length_counts.num_rows // size * size)

    def plan_global(
        self, length_counts: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        is_mixed = self.is_mixed and world_size > 1
        step_cost = EVEN_STEP_COST if is_mixed else STEP_COST
        groups = None
        if self.sides is not None and self.sides.group is not None and length_counts.lengths.ndim == 2:
            groups, length_counts = Groups.of(length_counts, self.sides.group)
        global_batches = self._global_batches(length_counts, key, world_size, accumulate, step_cost)
        batches_per_step = accumulate
        if is_mixed:
            global_batches, batches_per_step = global_batches.for_single_ranks(world_size), accumulate * world_size
            turns = mixed_turns(global_batches.costs, batches_per_step=batches_per_step, world_size=world_size, key=key)
        else:
            turns = turns_of(len(global_batches), key)
        max_rows, widths = global_batches.max_rows, global_batches.widths
        plan = GlobalPlan(
            global_batches.order,
            global_batches.cuts,
            turns,
            max_rows,
            np.full(len(global_batches), self.rows_multiple_of) if widths is None else max_rows,
            self.multiple_of,
            widths,
            batches_per_step=batches_per_step,
            is_mixed=is_mixed,
        )
        return plan if groups is None else GroupedGlobalPlan(**vars(plan), groups=groups)

    def _global_batches(
        self, length_counts: LengthCounts, key: tuple[object, ...] | None, world_size: int, accumulate: int, step_cost: float
    ) -> GlobalBatches:
        order, limits = SpreadTies.of(length_counts.counts, key), self._limits
        if self.shapes is not None and length_counts.lengths.ndim == 1:
            rows, widths = np.array(self.shapes).T  # by length, as `read_shapes` returns them
            return cut_into_shapes(
                length_counts, order, limits, rows, widths, world_size=world_size, batches_per_step=accumulate
            )
        cut = cut_by_length if length_counts.lengths.ndim == 1 else cut_by_sides
        return cut(length_counts, order, limits, world_size=world_size, batches_per_step=accumulate, step_cost=step_cost)

    @property
    def sides(self) -> Sides | None:
        """What the numbers are that rows are planned by; ``None`` where they are all lengths."""
        return Sides.of(self.columns or ("",), has_groups=self.group is not None)

    @property
    def is_mixed(self) -> bool:
        """Whether each rank has batches of its own lengths at a turn; by default with a budget, as they then cost the same."""
        return self.step == "mixed" or (self.step is None and self.max_tokens is not None)

    @property
    def _is_by_rows(self) -> bool:
        """Whether all batches have the same number of rows."""
        return self.max_tokens is None and self.batch_size is not None and self.shapes is None

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        limit = self.max_tokens
        if limit is None and self._given_shapes and self.batch_size is None:
            limit = max(rows * length for rows, length in self._given_shapes)
        by_tokens = num_tokens / limit if limit else 0.0
        return max(by_tokens, num_rows / self.batch_size if self.batch_size else 0.0)

    def largest(self, max_length: int | None) -> Shape:
        """Return the rows and the padded length of the possible batch that needs the most memory.

        A batch of many short rows may have a few more slots than one of the longest rows, which needs more for attention.
        """
        if self._given_shapes:
            return max(self._given_shapes, key=self._memory)
        limits = self._limits
        if max_length is None and self.max_tokens is not None and self.cost == "tokens":
            max_length = self.max_tokens // (self.rows_multiple_of * limits.num_sides)
        longest = int(limits.rounded(np.array(known_max_length(max_length))))
        limits.check_fit(longest)
        candidates = {longest, *range(self.multiple_of, longest + 1, self.multiple_of)}
        return max(((limits.rows_of(length), length) for length in candidates), key=self._memory)

    @staticmethod
    def _memory(shape: Shape) -> float:
        rows, length = shape
        return rows * length * (1 + length / _ATTENTION_MEMORY)

    def fingerprint(self) -> Json:
        return {"kind": "Bucket", **without_default(dataclasses.asdict(self), drop_last=False, group=None)}

    @property
    def _given_shapes(self) -> Sequence[Shape]:
        """The shapes, by length; none where there are none, or where they are still to be chosen."""
        return () if self.shapes is None or isinstance(self.shapes, int) else cast("Sequence[Shape]", self.shapes)

    @property
    def _limits(self) -> BatchLimits:
        sizes = (self.max_tokens, self.batch_size, self.multiple_of, self.rows_multiple_of, self.hidden_size)
        return BatchLimits(*sizes, num_sides=1 if self.columns is None else len(ids_columns(self.columns)), sides=self.sides)

    def _check_limits(self) -> None:
        if self.max_tokens is None and self.batch_size is None and not self._given_shapes:
            raise ValueError("Bucket must have max_tokens or batch_size, got neither; for example Bucket(max_tokens=16_384)")
        if self.max_tokens is not None and self.max_tokens < self.multiple_of * self.rows_multiple_of:
            what = "multiple_of" if self.rows_multiple_of == 1 else "multiple_of * rows_multiple_of"
            least = self.multiple_of * self.rows_multiple_of
            raise ValueError(f"max_tokens must be at least {what}={least}, got {self.max_tokens}")
        if self.batch_size is not None and self.batch_size % self.rows_multiple_of:
            raise ValueError(
                f"batch_size must be a multiple of rows_multiple_of={self.rows_multiple_of}, got {self.batch_size}"
            )
        if self.drop_last and not self._is_by_rows:
            raise ValueError(
                "drop_last needs batches of one number of rows, Bucket(batch_size=...) alone; "
                "with max_tokens or shapes no row is left over, so leave it out"
            )
        if self.step is not None:
            one_of("step", self.step, ("alike", "mixed"))
        for name, column in (("balance", self.balance), ("group", self.group)):
            if column is not None and (not isinstance(column, str) or not column):
                raise ValueError(f"{name} must be the name of a column, got {column!r}")
        one_of("cost", self.cost, ("tokens", "attention"))
        if (self.cost == "attention") != (self.hidden_size is not None):
            raise ValueError(
                f"cost='attention' and hidden_size go together, got cost={self.cost!r} and hidden_size={self.hidden_size}"
            )
        if self.cost == "attention" and self.max_tokens is None:
            raise ValueError("cost='attention' needs the budget that it counts, max_tokens; got none")

    def _check_shapes(self) -> None:
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise ValueError(f"columns must name columns, each once, got {self.columns}")
        limits = self._limits
        several = (
            "several columns"
            if self.columns is not None and len(self.columns) > 1
            else "groups"
            if self.group is not None
            else ""
        )
        if several and (self.shapes is not None or self.rows_multiple_of > 1 or self.cost != "tokens"):
            raise ValueError(f"shapes, rows_multiple_of and cost cannot be given for {several}; leave them out")
        if self.group is not None and self.drop_last:
            raise ValueError("drop_last cannot be given with group, whose batches have different numbers of rows; leave it out")
        if isinstance(self.shapes, int):
            check_positive("shapes", self.shapes)
        for rows, length in self._given_shapes:
            is_over = limits.budget is not None and rows * int(limits.costs(np.array(length))) > limits.budget
            if is_over or (self.batch_size is not None and rows > self.batch_size):
                raise ValueError(
                    f"shape ({rows}, {length}) cannot fit max_tokens={self.max_tokens}, "
                    f"batch_size={self.batch_size}; leave them out or change shapes"
                )
            if rows % self.rows_multiple_of or length % self.multiple_of:
                raise ValueError(
                    f"shape ({rows}, {length}) must have a multiple of rows_multiple_of={self.rows_multiple_of} rows and "
                    f"a length that is a multiple of multiple_of={self.multiple_of}"
                )
