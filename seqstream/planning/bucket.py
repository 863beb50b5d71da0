"""Batches of rows of similar length, under a budget or of fixed shapes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths
from seqstream.options import check_positive, names, yes_or_no
from seqstream.planning.batch_spec import (
    Plans,
    WindowSize,
    meant_as_rows,
    needed,
    set_positive,
    show,
    turns_of,
    without_default,
)
from seqstream.planning.bucket_cuts import STEP_COST, fill_greedily, fitting_rows, plan_batches
from seqstream.planning.global_plan import DealtOrder, GlobalPlan, ListedOrder, RowOrder, split_groups
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.pair_cuts import plan_pairs
from seqstream.planning.rank_turns import mixed_turns
from seqstream.planning.shape_choice import choose_lengths, shape_of
from seqstream.planning.tie_order import SpreadTies
from seqstream.records import Json

Shape: TypeAlias = tuple[int, int]
"""Rows and padded length of a batch."""

SAMPLE_BATCHES = 64
"""How many batches are looked at to choose shapes."""

EVEN_STEP_COST = 0.2
"""What a batch counts for besides its tokens where ranks wait for the one that costs most: fuller batches are more even."""

_ATTENTION_MEMORY = 435
"""Rows so long need as much memory for attention as for all else: 34 h + 5 a L bytes a token and layer with heads of 64, by
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022; fused attention needs less."""


@dataclasses.dataclass(frozen=True)
class _Groups:
    """Groups before they have turns: what a `GlobalPlan` says of them, and what a batch of each costs one rank.

    Attributes:
        order: From places to rows.
        cuts: ``int64 (G + 1,)``.
        rooms: ``int64 (G,)``.
        costs: ``int64 (G,)``, in parts of a token.
        widths: ``int64 (G,)``, or ``None``.
    """

    order: RowOrder
    cuts: Cuts
    rooms: Index
    costs: Index
    widths: Lengths | None = None

    def dealt(self, world_size: int) -> _Groups:
        """Return groups of one rank each: what each rank would have of these, dealt like cards; none without rows."""
        order = DealtOrder(self.order, self.cuts, world_size)
        sizes = np.diff(order.part_cuts)
        kept = sizes > 0
        rooms, costs = (np.repeat(each, world_size)[kept] for each in (self.rooms, self.costs))
        widths = None if self.widths is None else np.repeat(self.widths, world_size)[kept]
        return _Groups(order, np.append(0, np.cumsum(sizes[kept])), rooms, costs, widths)


@dataclasses.dataclass(frozen=True, repr=False)
class Bucket(Plans):
    """Batches of rows of similar length, cut from a window so that padding is least.

    Rows of a batch come longest first.

    A batch of like lengths is no random sample: its rows are often of one source or label, and its gradient is noisier than
    that of as many random rows. So batches of a window are served long and short in turn, at every scale, and an optimiser step
    sums
    several: ``Loader(accumulate=K)``. For an RNN or a transformer on one device take four to eight batches a step, of as small
        a
    budget as keeps the device busy. On many ranks a transformer needs nothing more, as each rank has lengths of its own; for an
    RNN set ``step="alike"`` and ``accumulate=8``. Divide the sum of the losses of rows by a constant, such as
    ``loader.stats.rows_per_step``, and that of tokens by ``batch.step_num_label_tokens``: by the rows of each batch, rows of
    long batches would weigh more. What was measured stands in ``benchmarks/README.md``.

    Args:
        max_tokens: Budget of a batch in padded tokens: rows times the longest. Larger means bigger batches and fewer steps.
        batch_size: Number of rows of a batch. Alone, every batch has as many, save the last of an epoch; beside
            ``max_tokens`` it is a second limit.
        window_batches: Least batches that are planned together, of each rank. More pad less, mix rows of more distant places,
            and hold more in memory; padding falls in proportion.
        window_bytes: Least bytes of ids that are planned together, four each, of all ranks. Where one of the two is given, it
            alone counts; by default windows hold 256 batches and 64 MiB, whichever is more, and a smaller corpus is one window.
        multiple_of: Padded lengths are rounded up to a multiple of it, as some hardware likes; within the budget.
        rows_multiple_of: Batches have a multiple of so many rows, within the budget; what is missing at the end of a window is
            made up (`Batch.weights` is 0 there).
        shapes: Every batch has one of these shapes, so that ``torch.compile`` and CUDA graphs see no others: how many, whose
            lengths are chosen to pad least by looking at the first 64 batches, and whose rows follow from the budget; or a list
            of ``(rows, length)``; or a JSON file of such a list, as ``json.dump(loader.shapes(), file)`` writes it. Rows that
            are missing at the end of a window are made up.
        cost: What the budget counts: padded ``"tokens"``, ``rows * L``; or with ``"attention"`` what a transformer without
            fused attention computes, ``rows * (L + L**2 / (6 * hidden_size))``, in tokens.
        hidden_size: Width of that model.
        columns: Columns of sequences whose lengths the budget counts, such as those of a source and of its translation: rows
            times the sum of what each is padded to. Rows come longest first by the first of them. By default those that
            ``Tokenize`` makes, else the longest column; after a `Map` behind ``Tokenize`` that makes one, the longest as well.
        step: Which lengths the ranks have at a step. ``"mixed"``: each rank has a batch of its own lengths, and all cost the
            same of the budget: a step is a fair sample of the window. Right for transformers, whose time goes by tokens.
            ``"alike"``: the rows of a step are neighbours by length, dealt like cards: right for RNNs, whose time goes by the
            longest row; set ``Loader(accumulate=8)`` beside it. By default mixed under ``max_tokens``, alike under
            ``batch_size`` alone.
        balance: A column of classes, such as a label or the name of a source, of at most 4,096 values: batches are served in an
            order in which every few of them have each class, and each length, as often as the window has. By default only
            lengths are spread evenly. A missing value is a class of its own.
        drop_last: Leave out what does not fill a whole optimiser step of ``batch_size`` rows a batch, of all ranks and with
            ``accumulate``, at the end of an epoch: fewer rows than one step has, counted as dropped. Only where ``batch_size``
            stands alone: under a budget rows are divided among batches, and with ``shapes`` what is missing is made up, so
            that no batch is short.

    Raises:
        ValueError: No limit is given, a number is not positive, or the limits leave no room for a batch.
        FileNotFoundError: ``shapes`` names no file.
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
    drop_last: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        limits = ("max_tokens", "batch_size")
        others = ("window_batches", "window_bytes", "multiple_of", "rows_multiple_of", "hidden_size")
        set_positive(self, (*limits, *others), limits=limits)
        if self.shapes is not None and not isinstance(self.shapes, int):
            object.__setattr__(self, "shapes", _read_shapes(self.shapes))
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

    def fitted(self, lengths: Lengths, max_length: int | None) -> Bucket:
        """Return the bucket with its shapes chosen; itself where they are.

        Args:
            lengths: ``int64 (N,)``, of rows as they come.
            max_length: The longest row there can be, and so the length of the last shape.
        """
        if not isinstance(self.shapes, int):
            return self
        counts = np.bincount(lengths, minlength=needed(max_length) + 1)
        chosen = choose_lengths(counts, self.shapes, multiple_of=self.multiple_of).tolist()
        return dataclasses.replace(self, shapes=tuple((self._rows_of(length), length) for length in chosen))

    def fills(self, runs: LengthCounts, multiple: int) -> bool:
        return self.num_planned(runs.num_rows, lambda _: runs, last=False, multiple=multiple) > 0

    def num_planned(self, num_rows: int, first: Callable[[int], LengthCounts], *, last: bool, multiple: int) -> int:
        if not self._is_by_rows or (last and not self.drop_last):
            return num_rows
        size = cast("int", self.batch_size) * multiple
        return num_rows // size * size

    def plan_global(
        self, runs: LengthCounts, *, key: tuple[object, ...] | None, world_size: int, accumulate: int = 1
    ) -> GlobalPlan:
        order = SpreadTies.of(runs.counts, key)
        is_mixed = self.is_mixed and world_size > 1
        step_cost = EVEN_STEP_COST if is_mixed else STEP_COST
        if runs.lengths.ndim == 2:
            groups = self._group_sides(runs, order, world_size, accumulate, step_cost)
        elif self.shapes is not None:
            groups = self._group_shapes(runs, order, world_size, accumulate)
        else:
            groups = self._group_lengths(runs, order, world_size, accumulate, step_cost)
        batches_per_step = accumulate
        if is_mixed:
            groups, batches_per_step = groups.dealt(world_size), accumulate * world_size
            turns = mixed_turns(groups.costs, batches_per_step=batches_per_step, world_size=world_size, key=key)
        else:
            turns = turns_of(len(groups.rooms), key)
        return GlobalPlan(
            groups.order,
            groups.cuts,
            turns,
            groups.rooms,
            np.full(len(groups.rooms), self.rows_multiple_of) if groups.widths is None else groups.rooms,
            self.multiple_of,
            groups.widths,
            batches_per_step=batches_per_step,
            is_mixed=is_mixed,
        )

    @property
    def is_mixed(self) -> bool:
        """Whether each rank takes batches of its own lengths at a step; by default where a budget makes them cost alike."""
        return self.step == "mixed" or (self.step is None and self.max_tokens is not None)

    @property
    def _is_by_rows(self) -> bool:
        """Whether all batches have the same rows."""
        return self.max_tokens is None and self.batch_size is not None and self.shapes is None

    def _group_lengths(
        self, runs: LengthCounts, order: RowOrder, shared: int, batches_per_step: int, step_cost: float
    ) -> _Groups:
        step = self.rows_multiple_of * shared
        padded = self._rounded(runs.every(step))
        cuts, rooms = self._cut(padded, batches_per_step, step_cost)
        costs = self._costs(padded[cuts[:-1]]) * np.diff(cuts)
        return _Groups(order, np.minimum(cuts * step, runs.num_rows), rooms, costs)

    def _cut(self, padded: Lengths, batches_per_step: int, step_cost: float) -> tuple[Cuts, Index]:
        """Cut rows, longest first, of which every so many-th is given: each stands for one of every rank, or a few.

        They are never longer than that, so a group costs each rank what it would if all were as long.
        """
        self._check_fit(padded)
        group = self.rows_multiple_of
        most = None if self.batch_size is None else self.batch_size // group
        budget = None if self.max_tokens is None else self.max_tokens * self._unit // group
        costs = self._costs(padded)
        cuts = plan_batches(costs, max_tokens=budget, max_rows=most, step_cost=step_cost)
        if not self._is_by_rows:
            cuts = split_groups(cuts, batches_per_step)
        return cuts, fitting_rows(costs[cuts[:-1]], budget, most) * group

    def _group_sides(
        self, runs: LengthCounts, order: RowOrder, shared: int, batches_per_step: int, step_cost: float
    ) -> _Groups:
        """Plan rows of several sides, such as a source and a target."""
        lengths = self._rounded(runs.every(1))
        rows, cuts = plan_pairs(
            lengths,
            max_tokens=self.max_tokens,
            max_rows=self.batch_size,
            step_cost=step_cost,
            world_size=shared,
        )
        if not self._is_by_rows:
            cuts = split_groups(cuts, batches_per_step)
        sums = np.maximum.reduceat(lengths[rows], cuts[:-1]).sum(axis=1) if len(rows) else np.empty(0, dtype=np.int64)
        rooms = fitting_rows(sums, self.max_tokens, self.batch_size)
        return _Groups(ListedOrder(order.rows_at(rows)), cuts, rooms, sums * -(-np.diff(cuts) // shared))

    def _group_shapes(self, runs: LengthCounts, order: RowOrder, shared: int, batches_per_step: int) -> _Groups:
        """Fill shapes: a group has that of its longest row, and shorter rows where those of its length are at an end."""
        rows, widths = np.array(self.shapes).T  # shortest first, as they were read
        shapes = shape_of(runs.every(shared), widths)
        cuts = split_groups(fill_greedily(rows[shapes]), batches_per_step)
        used = shapes[cuts[:-1]]
        cuts = np.minimum(cuts * shared, runs.num_rows)
        return _Groups(order, cuts, rows[used], self._costs(widths[used]) * rows[used], widths[used])

    def num_batches(self, num_rows: int, num_tokens: int) -> float:
        limit = self.max_tokens
        if limit is None and self.shapes is not None and not isinstance(self.shapes, int) and self.batch_size is None:
            limit = max(rows * length for rows, length in cast("Sequence[Shape]", self.shapes))
        by_tokens = num_tokens / limit if limit else 0.0
        return max(by_tokens, num_rows / self.batch_size if self.batch_size else 0.0)

    def largest(self, max_length: int | None) -> Shape:
        """Return the rows and the padded length of the batch that takes the most memory, of those that can occur.

        Many short rows may have a few more slots than the longest rows have; what attention needs for them decides.
        """
        if self.shapes is not None and not isinstance(self.shapes, int):
            return max(cast("Sequence[Shape]", self.shapes), key=self._memory)
        if max_length is None and self.max_tokens is not None and self.cost == "tokens":
            max_length = self.max_tokens // (self.rows_multiple_of * self._num_sides)
        longest = int(self._rounded(np.array(needed(max_length))))
        self._check_fit(np.array([longest]))
        candidates = {longest, *range(self.multiple_of, longest + 1, self.multiple_of)}
        return max(((self._rows_of(length), length) for length in candidates), key=self._memory)

    @staticmethod
    def _memory(shape: Shape) -> float:
        rows, length = shape
        return rows * length * (1 + length / _ATTENTION_MEMORY)

    def fingerprint(self) -> Json:
        return {"kind": "Bucket", **without_default(dataclasses.asdict(self), drop_last=False)}

    @property
    def _num_sides(self) -> int:
        return 1 if self.columns is None else len(self.columns)

    def _rounded(self, lengths: Lengths) -> Lengths:
        return -(-lengths // self.multiple_of) * self.multiple_of

    @property
    def _unit(self) -> int:
        """In how many parts a token is counted, so that what attention costs is a whole number of them."""
        return 1 if self.cost == "tokens" else 6 * cast("int", self.hidden_size)

    def _costs(self, padded: Lengths) -> Lengths:
        """Return what a row of each length costs of the budget, ``int64``, in parts of a token."""
        return padded if self.cost == "tokens" else self._unit * padded + padded**2

    def _rows_of(self, length: int) -> int:
        """Return how many rows of a padded length a batch holds."""
        limits = [] if self.batch_size is None else [self.batch_size]
        if self.max_tokens is not None:
            limits.append(self.max_tokens * self._unit // (int(self._costs(np.array(length))) * self._num_sides))
        rows = min(limits) // self.rows_multiple_of * self.rows_multiple_of
        if not rows:
            self._check_fit(np.array([length]))
        return rows

    def _check_fit(self, padded: npt.NDArray[np.int64]) -> None:
        """Refuse a longest row, or as many of them as must be in a batch, that is over the budget."""
        if self.max_tokens is None or not len(padded):
            return
        length, group = int(padded[0]), self.rows_multiple_of
        cost = -(-int(self._costs(padded[:1])[0]) * group // self._unit)
        if cost <= self.max_tokens:
            return
        what = f"sequence of {length:,} tokens" if group == 1 else f"{group} sequences of {length:,} tokens"
        counted = "" if self.cost == "tokens" else f", which count as {cost:,},"
        also = "" if group == 1 else ", lower rows_multiple_of"
        raise ValueError(
            f"{what}{counted} cannot fit max_tokens={self.max_tokens}; raise max_tokens{also} or set Tokenize(max_length=...)"
            f"{meant_as_rows(self.max_tokens)}"
        )

    def _check_limits(self) -> None:
        limited = self.max_tokens is not None or self.batch_size is not None
        if not limited and (self.shapes is None or isinstance(self.shapes, int)):
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
                "with max_tokens or shapes none is left over, so leave it out"
            )
        if not isinstance(self.step, str | None) or self.step not in (None, "alike", "mixed"):
            raise ValueError(f"step must be one of 'alike', 'mixed', got {self.step!r}")
        if self.balance is not None and (not isinstance(self.balance, str) or not self.balance):
            raise ValueError(f"balance must be the name of a column, got {self.balance!r}")
        if not isinstance(self.cost, str) or self.cost not in ("tokens", "attention"):
            raise ValueError(f"cost must be one of 'tokens', 'attention', got {self.cost!r}")
        if (self.cost == "attention") != (self.hidden_size is not None):
            raise ValueError(
                f"cost='attention' and hidden_size go together, got cost={self.cost!r} and hidden_size={self.hidden_size}"
            )
        if self.cost == "attention" and self.max_tokens is None:
            raise ValueError("cost='attention' needs the budget that it counts, max_tokens; got none")

    def _check_shapes(self) -> None:
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise ValueError(f"columns must name columns, each once, got {self.columns}")
        sides = self._num_sides > 1
        if sides and (self.shapes is not None or self.rows_multiple_of > 1 or self.cost != "tokens"):
            raise ValueError("shapes, rows_multiple_of and cost cannot be given for several columns; leave them out")
        if isinstance(self.shapes, int):
            check_positive("shapes", self.shapes)
        for rows, length in () if self.shapes is None or isinstance(self.shapes, int) else cast("Sequence[Shape]", self.shapes):
            cost = rows * int(self._costs(np.array(length)))
            over = self.max_tokens is not None and cost > self.max_tokens * self._unit
            if over or (self.batch_size is not None and rows > self.batch_size):
                raise ValueError(
                    f"shape ({rows}, {length}) cannot fit max_tokens={self.max_tokens}, "
                    f"batch_size={self.batch_size}; leave them out or change shapes"
                )
            if rows % self.rows_multiple_of or length % self.multiple_of:
                raise ValueError(
                    f"shape ({rows}, {length}) must have a multiple of rows_multiple_of={self.rows_multiple_of} rows and "
                    f"a length that is a multiple of multiple_of={self.multiple_of}"
                )


def _read_shapes(given: object) -> tuple[Shape, ...]:
    """Return shapes from a list, or from the JSON file that holds one."""
    where = "shapes"
    if isinstance(given, str | os.PathLike):
        where = f"shapes in {os.fspath(given)}"
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise type(error if isinstance(error, OSError) else ValueError())(
                f"shapes must be a number, a list of (rows, length), or a JSON file of one, got {given!r}: {error}"
            ) from error
    found = []
    for shape in given if isinstance(given, Sequence) else [given]:
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise ValueError(f"{where} must be a number, or a list of (rows, length), got {shape!r}")
        for name, value in zip(("rows", "length"), shape, strict=True):
            check_positive(f"{name} of {where}", value)
        found.append((int(shape[0]), int(shape[1])))
    if not found:
        raise ValueError(f"{where} must be a number, or a list of (rows, length), got none")
    if len({length for _, length in found}) < len(found):
        raise ValueError(f"{where} must have each length once, got {found}")
    return tuple(sorted(found, key=lambda shape: shape[1]))
