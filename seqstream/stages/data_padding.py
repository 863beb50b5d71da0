"""Padding that is in the data: what an ``attention_mask`` beside ids says is none is taken off, of all columns beside it alike.

Shapes: ``N`` rows of a table, ``T`` steps of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from seqstream.arrays import Mask
from seqstream.arrow import is_list, to_numpy
from seqstream.records import IGNORE_INDEX, RecordError
from seqstream.stages.step_filter import Steps, row_id_at, set_column

ATTENTION_MASK = "attention_mask"

_PARALLEL = ("_ids", "_mask", "_type_ids")
"""Ends of names of columns that have a value for each token, whatever they hold where padding is."""

_REMEDY = "mend or drop it in a Map"


def without_padding(table: pa.Table) -> pa.Table:
    """Return a table whose rows have no step that an ``attention_mask`` of their own says is padding.

    Padding may be on either side. The mask is that of ``input_ids``; ``decoder_attention_mask`` is that of
    ``decoder_input_ids``. What has as many steps in every row is cut alike: token types, labels that are -100 or the ids on
    padding, and other columns that are 0 there.

    Raises:
        RecordError: A mask has another length than the ids, a missing value, or 0 between two that are not.
    """
    masks = [name for name in table.column_names if name.endswith(ATTENTION_MASK)]
    for name in masks if len(table) else ():
        table = _cut(table, name, [other for other in masks if other != name])
    return table


def _cut(table: pa.Table, name: str, others: Iterable[str]) -> pa.Table:
    prefix = name.removesuffix(ATTENTION_MASK)
    named = [prefix + each for each in ("input_ids", "ids", "inputs_embeds", "features")]
    sequence = next((each for each in named if each in table.column_names and _has_steps(table.schema.field(each).type)), None)
    kind = table.schema.field(name).type
    if sequence is None or not _has_steps(kind) or not _is_number(kind.value_type):
        return table
    mask, ids = Steps.of(table.column(name)), Steps.of(table.column(sequence))
    _check(table, name, sequence, mask, ids)
    values = to_numpy(mask.values)
    kept = values != 0
    if kept.all() or (values.dtype.kind == "f" and not np.isin(values, (0, 1)).all()):
        return table  # of floats other than 0 and 1, which weigh tokens
    _check_holes(table, name, mask, kept)
    foreign = tuple(each.removesuffix(ATTENTION_MASK) for each in others)
    for field in table.schema:
        if not _has_steps(field.type) or field.name == "label" or _belongs(field.name, prefix, foreign):
            continue
        steps = Steps.of(table.column(field.name))
        if not np.array_equal(steps.offsets, mask.offsets):
            continue
        if field.name in (name, sequence) or field.name.endswith(_PARALLEL) or _is_padding(steps, ids, ~kept):
            table = set_column(table, field.name, steps.filtered(kept))
    return table


def _belongs(name: str, prefix: str, foreign: tuple[str, ...]) -> bool:
    """Return whether a column is one of those that another mask is for."""
    if prefix:
        return not (name.startswith(prefix) or (prefix == "decoder_" and name == "labels"))
    return name.startswith(tuple(filter(None, foreign))) or (name == "labels" and "decoder_" in foreign)


def _is_padding(steps: Steps, ids: Steps, padding: Mask) -> bool:
    """Return whether a column holds -100, 0 or the ids wherever padding is, as one that is padded along with them does."""
    if not _is_number(steps.values.type):
        return False
    found = to_numpy(steps.values)[padding]
    is_padding = (found == IGNORE_INDEX) | (found == 0)
    if pa.types.is_integer(ids.values.type):
        is_padding |= found == to_numpy(ids.values)[padding]
    return bool(is_padding.all())


def _check(table: pa.Table, name: str, sequence: str, mask: Steps, ids: Steps) -> None:
    if mask.is_null is not None:
        raise RecordError(f"column {name!r} must not be null; {_REMEDY}", row_id_at(table, int(np.argmax(mask.is_null))))
    if ids.is_null is None and not np.array_equal(mask.offsets, ids.offsets):
        row = int(np.flatnonzero(mask.lengths != ids.lengths)[0])
        got = f"got {mask.lengths[row]:,} and {ids.lengths[row]:,}"
        raise RecordError(f"column {name!r} must have as many steps as {sequence!r}, {got}; {_REMEDY}", row_id_at(table, row))
    if mask.values.null_count:
        step = int(np.argmax(mask.values.is_null().to_numpy(zero_copy_only=False)))
        _refuse(table, name, mask, step, "0 or 1 for each token, got null")


def _check_holes(table: pa.Table, name: str, mask: Steps, kept: Mask) -> None:
    """Refuse a mask whose tokens are not one run: what is between them cannot be taken off without moving them together."""
    begins = kept.copy()
    begins[1:] &= ~kept[:-1]
    firsts = mask.offsets[:-1][mask.lengths > 0]
    begins[firsts] = kept[firsts]
    runs = mask.count(begins, mask.offsets[:-1], mask.offsets[1:])
    if runs.max(initial=0) > 1:
        row = int(np.argmax(runs > 1))
        own = np.flatnonzero(begins[mask.offsets[row] : mask.offsets[row + 1]])
        step = int(mask.offsets[row] + own[1])
        _refuse(table, name, mask, step, f"1 from the first token to the last, got 0 before step {own[1]:,}")


def _refuse(table: pa.Table, name: str, mask: Steps, step: int, rule: str) -> None:
    row = int(np.searchsorted(mask.offsets, step, side="right")) - 1
    raise RecordError(f"column {name!r} must have {rule}; {_REMEDY}", row_id_at(table, row))


def _has_steps(kind: pa.DataType) -> bool:
    return is_list(kind) or bool(pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
