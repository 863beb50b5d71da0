"""Puts the batches of a window in an order that is balanced by a class of their rows and by their lengths.

A unit is what is served at once: a global batch, or an optimiser step where each rank takes global batches of its own lengths.
Ranks gather which classes there are, and how many rows and tokens of each class and of each range of lengths each unit has.

Legend: ``n`` rows of this rank, ``G`` global batches, ``U`` units, ``C`` classes, ``Q`` ranges of lengths.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import is_text, plain, to_numpy
from seqstream.distributed.global_order import GlobalOrder
from seqstream.planning.balanced_turns import balanced_turns, scaled
from seqstream.planning.bucket import Bucket
from seqstream.planning.global_plan import GlobalPlan
from seqstream.planning.length_counts import LengthCounts
from seqstream.records import RESERVED
from seqstream.windows.collectives import WindowCollectives
from seqstream.windows.settings import WindowSettings

MOST_CLASSES = 4096
"""A column with more different values in a window is refused: it holds texts or quantities, not classes."""

_COUNTED = 256
"""Of more classes the rarest are counted as one; few batches have rows of them anyway."""

_NUM_RANGES = 32
"""Number of ranges of lengths."""

_NO_VALUE = json.dumps(None)

Codes: TypeAlias = npt.NDArray[np.integer[Any]]


def balance_turns(
    global_plan: GlobalPlan, own: pa.Table, global_order: GlobalOrder, settings: WindowSettings, key: tuple[object, ...]
) -> GlobalPlan:
    """Return the plan of a window with its global batches in an order in which every part of it is like the whole.

    Where each rank takes global batches of its own, an optimiser step stays as it is, and those too few for one stay the last.
    Nothing changes, and nothing is sent, where the batch spec names no column or rows are not shuffled.

    Args:
        global_plan: The plan of the window.
        own: This rank's rows of it, in the order of the data.
        global_order: Which rank has which rows.
        settings: How the window is built.
        key: Seeds the order.

    Raises:
        ValueError: The column is missing, or holds no classes; the same on every rank.
    """
    spec, collectives = settings.spec, settings.collectives
    if not isinstance(spec, Bucket) or spec.balance is None or not settings.shuffle or not len(global_plan):
        return global_plan
    if collectives.world_size == 1:
        global_plan = global_plan.listed()
    classes, num_classes = number_classes(own, spec.balance, collectives)
    width = global_plan.batches_per_step if global_plan.is_mixed else 1
    units = global_plan.turns[: len(global_plan) // width * width].reshape(-1, width)
    edges = length_edges(global_order.length_counts)
    kinds = len(edges) + 1, num_classes
    counts = _count(_own_rows(global_plan, units, global_order, edges, classes), (len(units), *kinds), collectives)
    by_length = by_mean_length(counts[..., : kinds[0]])
    turns = by_length[balanced_turns(balance_features(counts[:, by_length], kinds[0]), (*key, "balance"))]
    return dataclasses.replace(global_plan, turns=np.append(units[turns].ravel(), global_plan.turns[units.size :]))


def by_mean_length(counts: Index) -> Index:
    """Return the units by their mean length, longest first, given rows and tokens of each range, ``int64 (2, U, Q)``."""
    rows, tokens = counts.sum(axis=2)
    return np.argsort(-tokens / np.maximum(rows, 1), kind="stable")


def balance_features(counts: Index, num_ranges: int) -> Index:
    """Return the features that are to be even: rows and tokens up to each length and of each class, scaled to vary alike."""
    up_to_length, classes = np.cumsum(counts[..., :num_ranges], axis=2), counts[..., num_ranges:]
    return np.concatenate([scaled(each) for kind in (up_to_length, classes) for each in kind], axis=1)


# --- Classes ---


@dataclasses.dataclass(frozen=True)
class _OwnClasses:
    """The classes of a rank's rows, as they are sent to all ranks.

    Attributes:
        rows: Number of rows of each class, which is named by its JSON.
        columns: The columns of the rows where they lack the one of classes; else ``None``.
        num_lacking: Number of rows that lack it.
        error: Why its values are no classes; empty if they are.
    """

    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    columns: Sequence[str] | None = None
    num_lacking: int = 0
    error: str = ""


def number_classes(own: pa.Table, column: str, collectives: WindowCollectives) -> tuple[Codes, int]:
    """Return the number of the class of each row, ``int16 (n,)``, and the number of classes; all ranks call it together.

    All ranks number classes alike, the most frequent first. A missing value is a class of its own, if there is any.

    Args:
        own: This rank's rows; if it has none they may have no columns.
        column: Name of the column of classes.
        collectives: Gathers the classes of all ranks.

    Raises:
        ValueError: No rank has the column, or its values are no classes; the same on every rank.
    """
    codes, classes = _own_classes(own, column)
    received = collectives.gather_classes(dataclasses.asdict(classes))
    rows = _rows_of_classes([_OwnClasses(**each) for each in received], column)
    by_rows = sorted(rows, key=lambda value: (-rows[value], value))
    numbers = {value: min(number, _COUNTED - 1) for number, value in enumerate(by_rows)}
    of_codes = np.array([numbers[value] for value in classes.rows or {_NO_VALUE: 0} if value in numbers], dtype=np.int16)
    return of_codes[codes], min(len(rows), _COUNTED)


def _own_classes(own: pa.Table, column: str) -> tuple[Codes, _OwnClasses]:
    """Return which of this rank's classes each row has, ``(n,)``, and those classes."""
    no_codes: Codes = np.zeros(len(own), dtype=np.int32)
    names = [name for name in own.column_names if name not in RESERVED]
    if not len(own):
        return no_codes, _OwnClasses()
    if column not in names:
        return no_codes, _OwnClasses(columns=names, num_lacking=len(own))
    values = plain(own.column(column)).combine_chunks()
    kind = values.type
    if pa.types.is_null(kind):
        return no_codes, _OwnClasses({_NO_VALUE: len(own)})
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        error = f"which are strings, whole numbers, or true and false, got {column!r} of type {kind}"
        return no_codes, _OwnClasses(error=_no_classes(error))
    if pa.types.is_signed_integer(kind) and not values.null_count and (found := _small_numbers(to_numpy(values))):
        return found
    encoded = (values.cast(pa.string()) if is_text(kind) else values).dictionary_encode(null_encoding="encode")
    if len(encoded.dictionary) > MOST_CLASSES:
        return no_codes, _OwnClasses(error=_too_many(column, len(encoded.dictionary)))
    codes = to_numpy(encoded.indices)
    values = map(json.dumps, encoded.dictionary.to_pylist())
    return codes, _OwnClasses(dict(zip(values, np.bincount(codes).tolist(), strict=True)))


def _small_numbers(values: Codes) -> tuple[Codes, _OwnClasses] | None:
    """Return what `_own_classes` returns for whole numbers near each other; ``None`` for others."""
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest >= MOST_CLASSES:
        return None
    codes: Codes = np.subtract(values, lowest, dtype=np.int64)
    rows = np.bincount(codes)
    present = np.flatnonzero(rows)
    if len(present) < len(rows):
        codes = (np.cumsum(rows > 0) - 1)[codes]
    found = zip((present + lowest).tolist(), rows[present].tolist(), strict=True)
    return codes, _OwnClasses({json.dumps(value): num for value, num in found})


def _rows_of_classes(of_ranks: Sequence[_OwnClasses], column: str) -> Counter[str]:
    """Return the number of rows of each class, of all ranks; a class is named by its JSON.

    Raises:
        ValueError: The column is missing in all rows, or its values are no classes.
    """
    errors = [each.error for each in of_ranks if each.error]
    if errors:
        raise ValueError(errors[0])
    rows = Counter[str]()
    for each in of_ranks:
        rows.update(each.rows)
    lacking = [each.columns for each in of_ranks if each.columns is not None]
    if lacking and not rows:
        known = ", ".join(lacking[0]) or "(none)"
        raise ValueError(f"Bucket(balance=...) must name a column of the data, which has {known}, got {column!r}")
    if lacking:  # in part of the data
        rows[_NO_VALUE] += sum(each.num_lacking for each in of_ranks)
    if len(rows) > MOST_CLASSES:
        raise ValueError(_too_many(column, len(rows)))
    return rows


def _too_many(column: str, num: int) -> str:
    return _no_classes(f"at most {MOST_CLASSES:,} different ones in a window, got {column!r} with {num:,}")


def _no_classes(why: str) -> str:
    return f"Bucket(balance=...) must name a column of classes, {why}; name another, or make one in a Map"


# --- Counts ---


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is known of this rank's rows, ``(n,)`` each, without those that are in no unit.

    Attributes:
        units: Number of the unit of each.
        ranges: Number of the range of its length.
        classes: Number of its class.
        lengths: Its length in tokens, of all sides.
    """

    units: Index
    ranges: Index
    classes: Codes
    lengths: npt.NDArray[np.float64]


def length_edges(length_counts: LengthCounts) -> Index:
    """Return the last length of each range but the longest, ascending; ranges have about the same number of rows."""
    lengths = length_counts.tokens
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(length_counts.counts[order])
    wanted = np.arange(1, _NUM_RANGES) * length_counts.num_rows // _NUM_RANGES
    edges: Index = np.unique(lengths[order][np.searchsorted(ends, wanted)]) if len(ends) else lengths
    return edges


def _own_rows(global_plan: GlobalPlan, units: Index, global_order: GlobalOrder, edges: Index, classes: Codes) -> _Rows:
    """Return unit, range, class and length of each of this rank's rows.

    Args:
        global_plan: The plan of the window.
        units: ``int64 (U, W)``, the global batches of each unit.
        global_order: Which rows this rank has.
        edges: ``int64 (Q - 1,)``, as `length_edges` returns them.
        classes: ``(n,)``, classes of its rows in the order of the data.
    """
    unit_of = np.full(len(global_plan), -1)
    unit_of[units.ravel()] = np.repeat(np.arange(len(units)), units.shape[1])
    numbers, cuts = global_order.numbers, global_plan.cuts
    places = global_plan.places_of(numbers)[1]
    is_all = len(numbers) == global_order.length_counts.num_rows
    unit = np.repeat(unit_of, np.diff(cuts))[places] if is_all else unit_of[np.searchsorted(cuts, places, side="right") - 1]
    length_counts = global_order.length_counts
    lengths = length_counts.tokens
    num_own = np.diff(np.searchsorted(numbers, length_counts.starts), append=len(numbers))
    ranges, own_lengths = (np.repeat(each, num_own) for each in (np.searchsorted(edges, lengths), lengths.astype(np.float64)))
    rows = unit, ranges, classes[global_order.rows.astype(np.int64)], own_lengths
    return _Rows(*(each[unit >= 0] for each in rows) if (unit < 0).any() else rows)


def _count(rows: _Rows, shape: tuple[int, int, int], collectives: WindowCollectives) -> Index:
    """Return the rows and tokens of all ranks in each unit, ``int64 (2, U, Q + C)``: of each range, then of each class.

    Args:
        rows: The rows of this rank.
        shape: ``U``, ``Q`` and ``C``.
        collectives: Adds up the counts of all ranks.
    """
    num_units, num_ranges, num_classes = shape
    width = num_ranges + num_classes
    own = np.zeros((2, num_units, width), dtype=np.int64)
    for kinds, first, num in ((rows.ranges, 0, num_ranges), (rows.classes, num_ranges, num_classes)):
        at = rows.units * num + kinds
        for number, weights in enumerate((None, rows.lengths)):
            own[number, :, first : first + num] = np.bincount(at, weights, num_units * num).reshape(num_units, num)
    return collectives.add_class_counts(own.reshape(2, -1)).reshape(2, num_units, width)
