"""Rows that teach nothing: those without any label are dropped before they are planned, so that no batch is without one.

Shapes: ``N`` rows of a table, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, Mask, flat_starts, positions, ranges
from seqstream.arrow import is_list, to_arrow, to_numpy
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.pack import Pack
from seqstream.records import IGNORE_INDEX, LABEL_COLUMNS, Counts, Json
from seqstream.stages.step_filter import Steps, set_column

WITHOUT_LABELS = "rows_without_labels"


@dataclasses.dataclass(frozen=True)
class RowLabels:
    """What a row must have to be served: one label at least.

    Attributes:
        column: The ids that labels are made of; ``None`` for the labels that the data has.
        is_shifted: Whether the first step of each row is no label, because nothing predicts it.
        never: Ids that never become labels, ascending.
        is_causal: Whether ids are the labels where the data has none.
        row_length: Steps that `Pack` takes of a row, or of each piece of it; ``None`` for all.
        is_split: Whether `Pack` makes pieces of longer rows.
        is_known: Whether nothing but these decides what labels there are; else ``on_batch`` may label a row of no labels.
    """

    column: str | None = None
    is_shifted: bool = False
    never: tuple[int, ...] = ()
    is_causal: bool = False
    row_length: int | None = None
    is_split: bool = False
    is_known: bool = True

    @classmethod
    def of(cls, rule: LabelRule | None, spec: BatchSpec) -> RowLabels:
        """Return what rows of a batch spec must have.

        Args:
            rule: ``label_rule`` of the function ``on_batch``; ``None`` where it has none.
            spec: The batch spec.

        Raises:
            TypeError: ``rule`` is something else.
        """
        if not isinstance(rule, LabelRule | None):
            kind = rule.__name__ if isinstance(rule, type) else type(rule).__name__
            raise TypeError(f"on_batch.label_rule must be a LabelRule, got {kind}; set it to ss.CausalLabels().label_rule")
        is_known = rule is not None
        rule = rule or LabelRule()
        if not isinstance(spec, Pack):
            return cls(rule.column, rule.is_shifted, rule.never, is_known=is_known)
        is_causal = spec.causal and rule.column is None
        limit = spec.row_length if spec.overflow in ("truncate", "split") else None
        is_split = spec.overflow == "split"
        return cls(rule.column, rule.is_shifted or is_causal, rule.never, is_causal, limit, is_split, is_known)

    def fingerprint(self) -> Json:
        """Say what decides which rows there are, as far as the batch spec does not."""
        if self.column is None:
            return None
        never = hashlib.blake2b(repr(self.never).encode(), digest_size=8).hexdigest() if self.never else None
        return {"column": self.column, "is_shifted": self.is_shifted, "never": never}

    def apply(self, table: pa.Table) -> tuple[pa.Table, Counts]:
        """Return the rows that have a label, and how many had none; with `Pack`, of longer rows the pieces that have one."""
        name = self._find(table.schema)
        if name is None or not len(table):
            return table, {}
        if not is_list(table.schema.field(name).type):
            values = to_numpy(table.column(name).combine_chunks())
            return _kept(table, values != IGNORE_INDEX)
        steps = Steps.of(table.column(name))
        if self.is_split and steps.lengths.max() > (self.row_length or 0):
            return self._without_pieces(table, name, steps)
        begins, ends = steps.offsets[:-1], steps.offsets[1:]
        if self.row_length is not None:
            ends = np.minimum(ends, begins + self.row_length)
        has_label = self._have_label(name, steps, begins, ends)
        if not self.is_known:
            has_label |= steps.lengths == 0
        return _kept(table, has_label if steps.is_null is None else has_label | steps.is_null)

    def _find(self, schema: pa.Schema) -> str | None:
        """Return the column of labels, or that they are made of."""
        names = (self.column,) if self.column else (*LABEL_COLUMNS, *(("input_ids",) if self.is_causal else ()))
        for name in names:
            if name in schema.names:
                kind = schema.field(name).type
                if is_list(kind) and name == "label":
                    return None  # classes of a record, of which there may be none
                is_whole = pa.types.is_integer(kind.value_type if is_list(kind) else kind)
                return name if is_whole and (is_list(kind) or name in LABEL_COLUMNS) else None
        return None

    def _have_label(self, name: str, steps: Steps, begins: Index, ends: Index) -> Mask:
        """Return which of some ranges of steps have a label, ``bool (n,)``.

        The last step and one in the middle are looked at first: most rows need no more.
        """
        begins = np.minimum(begins + self.is_shifted, ends)
        found = begins < ends
        if name not in LABEL_COLUMNS and not self.never:
            return found
        values = to_numpy(steps.values)
        rows = np.flatnonzero(found)
        for probe in (ends - 1, (begins + ends) // 2):
            rows = rows[~self._are_labels(name, values[probe[rows]])]
        if len(rows):
            lengths = ends[rows] - begins[rows]
            is_label = self._are_labels(name, values[ranges(begins[rows], lengths)])
            found[rows] = np.logical_or.reduceat(is_label, flat_starts(lengths))
        return found

    def _are_labels(self, name: str, values: npt.NDArray[Any]) -> Mask:
        return np.asarray(values != IGNORE_INDEX) if name in LABEL_COLUMNS else np.isin(values, self.never, invert=True)

    def _without_pieces(self, table: pa.Table, name: str, steps: Steps) -> tuple[pa.Table, Counts]:
        """Leave out the pieces of rows in which there is no label; `Pack` cuts what is left where it would have anyway."""
        size = self.row_length or 1
        counts = np.maximum(1, -(-steps.lengths // size))
        row = np.repeat(np.arange(len(table)), counts)
        number = positions(counts)
        begins = steps.offsets[row] + number * size
        ends = np.minimum(begins + size, steps.offsets[row + 1])
        has_label = self._have_label(name, steps, begins, ends)
        if steps.is_null is not None:
            has_label |= steps.is_null[row]
        if has_label.all():
            return table, {}
        kept = np.repeat(has_label, ends - begins)
        for field in table.schema:
            if is_list(field.type):
                own = Steps.of(table.column(field.name))
                if np.array_equal(own.offsets, steps.offsets):
                    table = set_column(table, field.name, own.filtered(kept))
        rows = np.zeros(len(table), bool)
        np.logical_or.at(rows, row, has_label)
        left_out = {WITHOUT_LABELS: int(np.count_nonzero(~has_label))}
        if rows.all():
            return table, left_out
        return table.take(to_arrow(np.flatnonzero(rows))), {**left_out, "dropped": int(np.count_nonzero(~rows))}


def _kept(table: pa.Table, has_label: npt.NDArray[np.bool_]) -> tuple[pa.Table, Counts]:
    if has_label.all():
        return table, {}
    kept = np.flatnonzero(has_label)
    num_dropped = len(table) - len(kept)
    return table.take(to_arrow(kept)), {WITHOUT_LABELS: num_dropped, "dropped": num_dropped}


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """Which steps of a row become labels: the attribute ``label_rule`` of a function given to ``Loader(on_batch=...)``.

    By it a loader drops rows without a label before they are planned, and counts labels before they are added, those of all
    ranks and of later batches of a step: `Batch.global_num_label_tokens`, `Batch.step_num_label_tokens`. For a function without
    it a loader counts none, and drops rows by the labels of the data alone. `CausalLabels`, `TeacherForcing` and `MaskTokens`
    have it; a function around one of them passes it on before it is given to a loader:

        causal = ss.CausalLabels()

        def on_batch(batch):
            return add_features(causal(batch))

        on_batch.label_rule = causal.label_rule

    ``functools.wraps`` does not copy it. A function that adds and changes no labels has ``ss.LabelRule()``.

    Args:
        column: The column whose steps become labels; ``None`` for the labels that the data has.
        is_shifted: Whether the first step of each row is no label, because nothing predicts it.
        never: Ids that never become labels, ascending.
        is_drawn: Whether labels are drawn at random among the others, so that their number is not known before.
    """

    column: str | None = None
    is_shifted: bool = False
    never: tuple[int, ...] = ()
    is_drawn: bool = False
