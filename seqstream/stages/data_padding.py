"""Removing padding that is in the data: the steps where an ``attention_mask`` is 0, from all columns parallel to it.

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

_PARALLEL_SUFFIXES = ("_ids", "_mask", "_type_ids")
"""Suffixes of the names of columns with one value per token, which are cut whatever their padding holds."""

_REMEDY = "mend or drop it in a Map"


def without_padding(table: pa.Table) -> pa.Table:
    """Return a table without the steps that are padding by the ``attention_mask`` of their row.

    Padding may be on either side. ``attention_mask`` belongs to ``input_ids``, ``decoder_attention_mask`` to
    ``decoder_input_ids``. Columns with as many steps in every row lose the same steps: token types, labels that are -100 or the
    ids on padding, and other columns that are 0 there.

    Raises:
        RecordError: A mask has another length than the ids, is null, or has a 0 between two that are not 0.
    """
    masks = [name for name in table.column_names if name.endswith(ATTENTION_MASK)]
    for name in masks if len(table) else ():
        table = _without_masked(table, name, [other for other in masks if other != name])
    return table


def _without_masked(table: pa.Table, name: str, others: Iterable[str]) -> pa.Table:
    """Return a table without the steps where the mask ``name`` is 0; ``others`` are the other masks of the table."""
    prefix = name.removesuffix(ATTENTION_MASK)
    known = [prefix + suffix for suffix in ("input_ids", "ids", "inputs_embeds", "features")]
    sequence = next((each for each in known if each in table.column_names and _has_steps(table.schema.field(each).type)), None)
    kind = table.schema.field(name).type
    if sequence is None or not _has_steps(kind) or not _is_number(kind.value_type):
        return table
    mask, ids = Steps.of(table.column(name)), Steps.of(table.column(sequence))
    _check(table, name, sequence, mask, ids)
    values = to_numpy(mask.values)
    kept = values != 0
    if kept.all() or (values.dtype.kind == "f" and not np.isin(values, (0, 1)).all()):
        return table  # floats other than 0 and 1 are weights of tokens
    _check_holes(table, name, mask, kept)
    other_prefixes = tuple(each.removesuffix(ATTENTION_MASK) for each in others)
    for column in table.schema:
        if not _has_steps(column.type) or column.name == "label" or _has_other_mask(column.name, prefix, other_prefixes):
            continue
        steps = Steps.of(table.column(column.name))
        if not np.array_equal(steps.offsets, mask.offsets):
            continue
        is_parallel = column.name in (name, sequence) or column.name.endswith(_PARALLEL_SUFFIXES)
        if is_parallel or _is_padding(steps, ids, ~kept):
            table = set_column(table, column.name, steps.filtered(kept))
    return table


def _has_other_mask(column: str, prefix: str, other_prefixes: tuple[str, ...]) -> bool:
    """Return whether a column belongs to another mask than that of ``prefix``, by its name."""
    if prefix:
        return not (column.startswith(prefix) or (prefix == "decoder_" and column == "labels"))
    return column.startswith(tuple(filter(None, other_prefixes))) or (column == "labels" and "decoder_" in other_prefixes)


def _is_padding(steps: Steps, ids: Steps, padding: Mask) -> bool:
    """Return whether a column holds only -100, 0 or the ids on padding: then it was padded together with the ids."""
    if not _is_number(steps.values.type):
        return False
    found = to_numpy(steps.values)[padding]
    is_padding = (found == IGNORE_INDEX) | (found == 0)
    if pa.types.is_integer(ids.values.type):
        is_padding |= found == to_numpy(ids.values)[padding]
    return bool(is_padding.all())


def _check(table: pa.Table, name: str, sequence: str, mask: Steps, ids: Steps) -> None:
    """Raise unless a mask has a value for each step of the ids."""
    if mask.is_null is not None:
        raise RecordError(f"column {name!r} must not be null; {_REMEDY}", row_id_at(table, int(np.argmax(mask.is_null))))
    if ids.is_null is None and not np.array_equal(mask.offsets, ids.offsets):
        row = int(np.flatnonzero(mask.lengths != ids.lengths)[0])
        got = f"got {mask.lengths[row]:,} and {ids.lengths[row]:,}"
        raise RecordError(f"column {name!r} must have as many steps as {sequence!r}, {got}; {_REMEDY}", row_id_at(table, row))
    if mask.values.null_count:
        step = int(np.argmax(mask.values.is_null().to_numpy(zero_copy_only=False)))
        _raise_at(table, name, mask, step, "0 or 1 for each token, got null")


def _check_holes(table: pa.Table, name: str, mask: Steps, kept: Mask) -> None:
    """Raise if the tokens of a row are not one run: without the steps between them they would be neighbours."""
    begins_run = kept.copy()
    begins_run[1:] &= ~kept[:-1]
    firsts = mask.offsets[:-1][mask.lengths > 0]
    begins_run[firsts] = kept[firsts]
    num_runs = mask.count(begins_run, mask.offsets[:-1], mask.offsets[1:])
    if num_runs.max(initial=0) > 1:
        row = int(np.argmax(num_runs > 1))
        own = np.flatnonzero(begins_run[mask.offsets[row] : mask.offsets[row + 1]])
        step = int(mask.offsets[row] + own[1])
        _raise_at(table, name, mask, step, f"1 from the first token to the last, got 0 before step {own[1]:,}")


def _raise_at(table: pa.Table, name: str, mask: Steps, step: int, rule: str) -> None:
    row = int(np.searchsorted(mask.offsets, step, side="right")) - 1
    raise RecordError(f"column {name!r} must have {rule}; {_REMEDY}", row_id_at(table, row))


def _has_steps(kind: pa.DataType) -> bool:
    return is_list(kind) or bool(pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
