"""Dropping rows without any label, from which a model learns nothing, before batches are planned: every batch has labels.

Shapes: ``N`` rows of a table, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, Mask, flat_starts, positions, ranges
from seqstream.arrow import is_list, to_arrow, to_numpy
from seqstream.records import IGNORE_INDEX, LABEL_COLUMNS, Counts, Json
from seqstream.stages.step_filter import Steps, set_column

WITHOUT_LABELS = "rows_without_labels"


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """Which steps of a row are labels: what the loader must know of them before a batch is collated.

    A function for ``Loader(on_batch=...)`` that adds labels may have an attribute ``label_rule`` with an object of this class.
    Then the loader drops the rows that would get no label, and, unless labels are drawn, counts the labels of a batch before it
    is collated: for all ranks, and for all batches of an optimiser step. Without the attribute nothing is known of the labels
    that the function adds until it has returned the batch: rows that get none stay, and `Batch.global_num_label_tokens` of
    several ranks and `Batch.step_num_label_tokens` of several batches raise.

    `CausalLabels`, `TeacherForcing` and `MaskTokens` have the attribute. A function that calls one of them hands it on::

        labels = ss.CausalLabels()

        def on_batch(batch):
            return augment(labels(batch))

        on_batch.label_rule = labels.label_rule

    ``functools.wraps`` does not copy it. A function that adds and changes no labels has ``ss.LabelRule()``.

    Attributes:
        column: Column of ids from which labels are made; ``None`` for the labels that the data has.
        is_shifted: Whether the first step of each row is not a label, because no step predicts it.
        never: Ids that never become labels, ascending.
        is_drawn: Whether the labels among the other ids are drawn at random, so that their number is not known in advance.
    """

    column: str | None = None
    is_shifted: bool = False
    never: tuple[int, ...] = ()
    is_drawn: bool = False


@dataclasses.dataclass(frozen=True)
class LabelFilter:
    """Drops rows without any label, and with ``Pack(overflow="split")`` such pieces of rows.

    Attributes:
        rule: Which steps are labels; ``None`` if ``on_batch`` has no rule: then rows whose labels are an empty list are kept,
            since the function may label them.
        is_causal: As in `Pack`: without labels in the data the ids are the labels.
        row_length: Steps of a row of `Pack`; ``None`` for other batch specs.
        overflow: As in `Pack`: with ``"truncate"`` only the first ``row_length`` steps count, with ``"split"`` each piece of
            ``row_length`` steps is a row.
    """

    rule: LabelRule | None = LabelRule()
    is_causal: bool = False
    row_length: int | None = None
    overflow: str = "error"

    def __post_init__(self) -> None:
        if not isinstance(self.rule, LabelRule | None):
            kind = self.rule.__name__ if isinstance(self.rule, type) else type(self.rule).__name__
            raise TypeError(f"on_batch.label_rule must be a LabelRule, got {kind}; set it to ss.CausalLabels().label_rule")

    @property
    def _rule(self) -> LabelRule:
        """The rule, with the default for one that is not known, and as causal packing changes it."""
        rule = self.rule or LabelRule()
        return dataclasses.replace(rule, is_shifted=True) if self.is_causal and rule.column is None else rule

    def fingerprint(self) -> Json:
        """Return what decides which rows are dropped, as far as the fingerprint of the batch spec does not."""
        rule = self._rule
        if rule.column is None:
            return None
        never = hashlib.blake2b(repr(rule.never).encode(), digest_size=8).hexdigest() if rule.never else None
        return {"column": rule.column, "is_shifted": rule.is_shifted, "never": never}

    def apply(self, table: pa.Table) -> tuple[pa.Table, Counts]:
        """Return the rows that have a label, in each of their texts if they have several, and the counts of those without."""
        counts: Counter[str] = Counter()
        for name in self._find_columns(table.schema):
            table, own = self._apply_to(table, name) if len(table) else (table, {})
            counts.update(own)
        return table, dict(counts)

    def _apply_to(self, table: pa.Table, name: str) -> tuple[pa.Table, Counts]:
        """Return the rows that have a label in a column, and the counts of the others."""
        if not is_list(table.schema.field(name).type):
            values = to_numpy(table.column(name).combine_chunks())
            return _keep_rows(table, values != IGNORE_INDEX)
        steps = Steps.of(table.column(name))
        begins, ends = steps.offsets[:-1], steps.offsets[1:]
        if self.row_length is not None and self.overflow == "split" and steps.lengths.max() > self.row_length:
            return self._drop_pieces(table, name, steps, self.row_length)
        if self.row_length is not None and self.overflow == "truncate":
            ends = np.minimum(ends, begins + self.row_length)
        has_label = self._have_label(name, steps, begins, ends)
        if self.rule is None:
            has_label |= steps.lengths == 0
        return _keep_rows(table, has_label if steps.is_null is None else has_label | steps.is_null)

    def _find_columns(self, schema: pa.Schema) -> list[str]:
        """Return the columns that must have a label: the one of all labels, else those of the texts of a row."""
        name = self._find_column(schema)
        if name is not None or self._rule.column:
            return [] if name is None else [name]
        texts = [(each, f"{each.removesuffix('labels')}ids") for each in schema.names if each.endswith("_labels")]
        return [labels for labels, ids in texts if ids in schema.names and _are_steps(schema.field(labels).type)]

    def _find_column(self, schema: pa.Schema) -> str | None:
        """Return the column of labels, or of the ids that labels are made from; ``None`` if there is none."""
        column = self._rule.column
        names = (column,) if column else (*LABEL_COLUMNS, *(("input_ids",) if self.is_causal else ()))
        name = next((name for name in names if name in schema.names), None)
        if name is None:
            return None
        kind = schema.field(name).type
        if not is_list(kind):
            return name if name in LABEL_COLUMNS and pa.types.is_integer(kind) else None
        is_classes = name == "label"  # of a record, which may have none
        return name if pa.types.is_integer(kind.value_type) and not is_classes else None

    def _have_label(self, name: str, steps: Steps, begins: Index, ends: Index) -> Mask:
        """Return which of ``n`` ranges of steps have a label, ``bool (n,)``.

        The last step of each and one in the middle are checked first: for most ranges that is enough.

        Args:
            name: The column, as `_find_column` returned it.
            steps: Its values.
            begins: ``int64 (n,)``, first step of each range.
            ends: ``int64 (n,)``, its end.
        """
        rule = self._rule
        begins = np.minimum(begins + rule.is_shifted, ends)
        found = begins < ends
        if not _holds_labels(name) and not rule.never:
            return found
        values = to_numpy(steps.values)
        undecided = np.flatnonzero(found)
        for probe in (ends - 1, (begins + ends) // 2):
            undecided = undecided[~self._are_labels(name, values[probe[undecided]])]
        if len(undecided):
            lengths = ends[undecided] - begins[undecided]
            is_label = self._are_labels(name, values[ranges(begins[undecided], lengths)])
            found[undecided] = np.logical_or.reduceat(is_label, flat_starts(lengths))
        return found

    def _are_labels(self, name: str, values: npt.NDArray[Any]) -> Mask:
        if _holds_labels(name):
            return np.asarray(values != IGNORE_INDEX)
        return np.isin(values, self._rule.never, invert=True)

    def _drop_pieces(self, table: pa.Table, name: str, steps: Steps, size: int) -> tuple[pa.Table, Counts]:
        """Drop the pieces of ``size`` steps that have no label; `Pack` cuts the steps that are left at the same places."""
        counts = np.maximum(1, -(-steps.lengths // size))
        row = np.repeat(np.arange(len(table)), counts)
        begins = steps.offsets[row] + positions(counts) * size
        ends = np.minimum(begins + size, steps.offsets[row + 1])
        has_label = self._have_label(name, steps, begins, ends)
        if steps.is_null is not None:
            has_label |= steps.is_null[row]
        if has_label.all():
            return table, {}
        is_kept = np.repeat(has_label, ends - begins)
        for column in table.schema:
            if is_list(column.type):
                own = Steps.of(table.column(column.name))
                if np.array_equal(own.offsets, steps.offsets):
                    table = set_column(table, column.name, own.filtered(is_kept))
        has_piece = np.zeros(len(table), bool)
        np.logical_or.at(has_piece, row, has_label)
        kept, dropped = _keep_rows(table, has_piece)
        return kept, dropped | {WITHOUT_LABELS: int(np.count_nonzero(~has_label))}


def _holds_labels(name: str) -> bool:
    """Return whether a column holds labels, and not ids from which labels are made."""
    return name in LABEL_COLUMNS or name.endswith("_labels")


def _are_steps(kind: pa.DataType) -> bool:
    return is_list(kind) and bool(pa.types.is_integer(kind.value_type))


def _keep_rows(table: pa.Table, has_label: Mask) -> tuple[pa.Table, Counts]:
    """Return the rows that have a label, ``bool (N,)``, and the counts of the others."""
    if has_label.all():
        return table, {}
    kept = np.flatnonzero(has_label)
    num_dropped = len(table) - len(kept)
    return table.take(to_arrow(kept)), {WITHOUT_LABELS: num_dropped, "dropped": num_dropped}
