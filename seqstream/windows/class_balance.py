"""The order of a window's batches, balanced by a class of their rows: what ranks tell of theirs, and what follows for all.

Two things are gathered from all ranks: which classes there are, and how many rows and tokens of each class, and of each range
of lengths, each unit has. A unit is what is served as one: a group; or an optimiser step, where ranks have groups of their own.

Legend: ``n`` rows of this rank, ``G`` groups, ``U`` units, ``C`` classes, ``Q`` ranges of lengths.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
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
"""A column with more different values in a window is text or a number of something, no class."""

_COUNTED = 256
"""Of more classes the rarest are counted as one; a batch has a row of few of them anyway."""

_NUM_RANGES = 32

_NO_VALUE = json.dumps(None)

_Told: TypeAlias = dict[str, Any]
"""What a rank says of its rows: ``classes`` with the rows of each, the ``columns`` it has instead, or an ``error``."""


def balance_turns(
    global_plan: GlobalPlan, own: pa.Table, global_order: GlobalOrder, settings: WindowSettings, key: tuple[object, ...]
) -> GlobalPlan:
    """Return the groups of a window in an order in which every stretch is like the window, in classes and in lengths.

    Where each rank has groups of its own, an optimiser step stays as it is, and groups too few for one stay the last. Nothing
    changes, and nothing is said to other ranks, where the batch spec names no column or rows are not shuffled.

    Args:
        global_plan: The plan of the window.
        own: This rank's rows of it, in the order of the data.
        global_order: Who has what.
        settings: How the window is made.
        key: Seeds the order.

    Raises:
        ValueError: The column is missing, or holds no classes; the same on every rank.
    """
    spec, collectives = settings.spec, settings.collectives
    if not isinstance(spec, Bucket) or spec.balance is None or not settings.shuffle or not len(global_plan):
        return global_plan
    classes, num_classes = number_classes(own, spec.balance, collectives)
    width = global_plan.batches_per_step if global_plan.is_mixed else 1
    units = global_plan.turns[: len(global_plan) // width * width].reshape(-1, width)
    edges = length_edges(global_order.runs)
    kinds = len(edges) + 1, num_classes
    counts = _count(_own_rows(global_plan, units, global_order, edges, classes), (len(units), *kinds), collectives)
    by_length = _by_length(counts[..., : kinds[0]])
    turns = by_length[balanced_turns(_features(counts[:, by_length], kinds[0]), (*key, "balance"))]
    return dataclasses.replace(global_plan, turns=np.append(units[turns].ravel(), global_plan.turns[units.size :]))


def _by_length(counts: Index) -> Index:
    """Order units by their tokens a row, longest first, given rows and tokens of each range, ``int64 (2, U, Q)``."""
    rows, tokens = counts.sum(axis=2)
    return np.argsort(-tokens / np.maximum(rows, 1), kind="stable")


def _features(counts: Index, num_ranges: int) -> Index:
    """Return what is to be even: rows and tokens up to each length, and those of each class; all four vary as much."""
    below, classes = np.cumsum(counts[..., :num_ranges], axis=2), counts[..., num_ranges:]
    return np.concatenate([scaled(block) for each in (below, classes) for block in each], axis=1)


# --- Classes ---


def number_classes(own: pa.Table, column: str, collectives: WindowCollectives) -> tuple[Index, int]:
    """Return the class of each row by number, as all ranks number them, ``int64 (n,)``, and how many classes there are.

    The most frequent come first. A missing value is a class of its own, as long as some row has one.

    Args:
        own: This rank's rows; none of them may have columns.
        column: Name of the column of classes.
        collectives: Gathers the classes of all ranks.

    Raises:
        ValueError: No rank has the column, or one of them finds no classes in it.
    """
    codes, told = _own_classes(own, column)
    rows = _rows_of_classes(collectives.gather_classes(told), column)
    by_rows = sorted(rows, key=lambda value: (-rows[value], value))
    numbers = {value: min(number, _COUNTED - 1) for number, value in enumerate(by_rows)}
    known = np.array([numbers[value] for value in told.get("classes", {_NO_VALUE: 0}) if value in numbers], dtype=np.int64)
    return known[codes], min(len(rows), _COUNTED)


def _own_classes(own: pa.Table, column: str) -> tuple[npt.NDArray[np.int32], _Told]:
    """Return which of this rank's classes each row has, ``int32 (n,)``, and what the rank tells of them."""
    nothing = np.zeros(len(own), dtype=np.int32)
    names = [name for name in own.column_names if name not in RESERVED]
    if not len(own):
        return nothing, {"classes": {}}
    if column not in names:
        return nothing, {"columns": names, "rows": len(own)}
    values = plain(own.column(column)).combine_chunks()
    kind = values.type
    if pa.types.is_null(kind):
        return nothing, {"classes": {_NO_VALUE: len(own)}}
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        error = f"which are strings, whole numbers, or true and false, got {column!r} of type {kind}"
        return nothing, {"error": _no_classes(error)}
    encoded = (values.cast(pa.string()) if is_text(kind) else values).dictionary_encode(null_encoding="encode")
    if len(encoded.dictionary) > MOST_CLASSES:
        return nothing, {"error": _too_many(column, len(encoded.dictionary))}
    codes = to_numpy(encoded.indices)
    found = map(json.dumps, encoded.dictionary.to_pylist())
    return codes, {"classes": dict(zip(found, np.bincount(codes).tolist(), strict=True))}


def _rows_of_classes(told: Sequence[_Told], column: str) -> Counter[str]:
    """Return how many rows all ranks have of each class, which is named by its JSON."""
    errors = [each["error"] for each in told if "error" in each]
    if errors:
        raise ValueError(errors[0])
    lacking = [each for each in told if "columns" in each]
    rows = Counter[str]()
    for each in told:
        rows.update(each.get("classes", {}))
    if lacking and not rows:
        known = ", ".join(lacking[0]["columns"]) or "(none)"
        raise ValueError(f"Bucket(balance=...) must name a column of the data, which has {known}, got {column!r}")
    if lacking:  # it is missing in part of the data
        rows[_NO_VALUE] += sum(each["rows"] for each in lacking)
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
    """This rank's rows, ``int64 (n,)`` each, without those that are in no unit.

    Attributes:
        units: The unit of each.
        ranges: The range of its length.
        classes: Its class.
        lengths: Its tokens.
    """

    units: Index
    ranges: Index
    classes: Index
    lengths: Index


def length_edges(runs: LengthCounts) -> Index:
    """Return lengths that cut rows into ranges of about as many, ascending; each goes up to its edge, the last to the end."""
    lengths = _tokens(runs)
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(runs.counts[order])
    wanted = np.arange(1, _NUM_RANGES) * runs.num_rows // _NUM_RANGES
    edges: Index = np.unique(lengths[order][np.searchsorted(ends, wanted)]) if len(ends) else lengths
    return edges


def _tokens(runs: LengthCounts) -> Index:
    """Return the tokens of a row of each run, of all sides."""
    return runs.lengths if runs.lengths.ndim == 1 else runs.lengths.sum(axis=1)


def _own_rows(global_plan: GlobalPlan, units: Index, global_order: GlobalOrder, edges: Index, classes: Index) -> _Rows:
    """Tell for each of this rank's rows what it counts for.

    Args:
        global_plan: The plan of the window.
        units: ``int64 (U, W)``, the groups of each unit.
        global_order: Which rows this rank has.
        edges: Of the ranges of lengths, ascending.
        classes: ``int64 (n,)``, of its rows in the order of the data.
    """
    unit_of = np.full(len(global_plan), -1)
    unit_of[units.ravel()] = np.repeat(np.arange(len(units)), units.shape[1])
    which, places = global_plan.places_of(global_order.numbers)
    own = unit_of[np.searchsorted(global_plan.cuts, places, side="right") - 1]
    which, own = which[own >= 0], own[own >= 0]
    runs = global_order.runs
    lengths = _tokens(runs)[np.searchsorted(runs.starts, global_order.numbers[which], side="right") - 1]
    return _Rows(own, np.searchsorted(edges, lengths), classes[global_order.rows[which]], lengths)


def _count(rows: _Rows, shape: tuple[int, int, int], collectives: WindowCollectives) -> Index:
    """Count rows and tokens of all ranks, ``int64 (2, U, Q + C)``: those of each range of lengths, then those of each class.

    Args:
        rows: Those of this rank.
        shape: ``U``, ``Q`` and ``C``.
        collectives: Adds up the counts of all ranks.
    """
    num_units, num_ranges, num_classes = shape
    width = num_ranges + num_classes
    at = np.concatenate([rows.units * width + rows.ranges, rows.units * width + num_ranges + rows.classes])
    lengths = np.tile(rows.lengths, 2)
    own = np.stack([np.bincount(at, weights, num_units * width) for weights in (None, lengths)]).astype(np.int64)
    return collectives.add_class_counts(own).reshape(2, num_units, width)
