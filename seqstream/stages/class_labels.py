"""`ClassLabels`: the stage that turns classes into numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
import torch

from seqstream.arrays import Index
from seqstream.arrow import is_list, is_text, to_arrow, to_numpy
from seqstream.options import column_name, yes_or_no
from seqstream.records import RESERVED, Counts, Json, OpenStage, RecordError, row_id_of
from seqstream.sources.source import Source

Class: TypeAlias = str | int | bool
_Fits: TypeAlias = Callable[[pa.DataType], bool]

_SHOWN = 8


@dataclasses.dataclass(frozen=True, repr=False)
class ClassLabels:
    """Turn a column of classes into numbers: the index of each class in ``classes``.

    One class per record becomes one ``int64``; a list of classes, such as tags of words, becomes a list, which a batch pads
    with -100. With ``multi_hot`` the classes of a record, any number of them, become one ``float32`` for each of ``classes``:
    1 for those of the record, else 0, as `torch.nn.BCEWithLogitsLoss` wants them, ``(B, C)`` in a batch.

    Args:
        classes: All classes, in the order of their numbers: strings, whole numbers or booleans.
        field: The column of classes.
        to: The column of numbers, such as ``"label"`` for models if ``field`` has another name and is to stay; by default the
            numbers replace ``field``.
        multi_hot: Whether each record gets a number for every class, in place of the indices of its own.
        counts: How often each class occurs in the data, as `of` counts them.

    Raises:
        TypeError: ``classes`` have another type, or several types.
        ValueError: There are no classes, one is there twice, ``counts`` have another length, or a column has a reserved name.
    """

    classes: Sequence[Class]
    field: str = "label"
    _: dataclasses.KW_ONLY
    to: str | None = None
    multi_hot: bool = False
    counts: Sequence[int] | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        classes = self.classes
        is_sequence = isinstance(classes, Iterable) and getattr(classes, "ndim", 1) != 0
        kinds = {type(name) for name in classes} if is_sequence else set()
        if isinstance(classes, str) or not is_sequence or len(kinds) > 1 or not kinds <= {str, int, bool}:
            raise TypeError(f"classes must be a list of strings, of whole numbers or of booleans, got {classes!r}")
        object.__setattr__(self, "classes", tuple(classes))
        if not self.classes:
            raise ValueError("classes must have at least one name, got none")
        repeated, times = Counter(self.classes).most_common(1)[0]
        if times > 1:
            raise ValueError(f"classes must have each name once, got {repeated!r} {times} times")
        object.__setattr__(self, "multi_hot", yes_or_no("multi_hot", self.multi_hot))
        if not isinstance(self.counts, Sequence | None):
            raise TypeError(f"counts must be a list of whole numbers, one a class, got {self.counts!r:.80}")
        if self.counts is not None and len(self.counts) != len(self.classes):
            raise ValueError(
                f"counts must have one number for each class, got {len(self.counts)} for {len(self.classes)} classes"
            )
        for name, column in (("field", self.field), ("to", self.to)):
            if column is not None or name == "field":
                column_name(name, column)
            if column in RESERVED:
                raise ValueError(f"{name} must be a column of the data, got {column!r}, which is the loader's own")

    @classmethod
    def of(cls, source: Source, field: str = "label", *, to: str | None = None, multi_hot: bool = False) -> Self:
        """Return the stage for the sorted classes in a column of a source, with their counts; reads the whole source once.

        Missing values are not a class.

        Args:
            source: The records.
            field: The column: strings, whole numbers or booleans, or lists of them.
            to: The column of numbers, by default ``field``.
            multi_hot: As of the stage.

        Raises:
            ValueError: The column is missing, has no class or another type, or the source can be read only once.
        """
        if not source.can_repeat:
            raise ValueError("ClassLabels.of cannot read records that a generator gives only once; pass the generator function")
        counts: Counter[Class] = Counter()
        for values in _columns(source, field):
            counted = values.value_counts()
            found = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
            found.pop(None, None)
            counts.update(found)
        if not counts:
            raise ValueError(f"field {field!r} must have at least one class, got none; look at the data")
        if len({type(name) for name in counts}) > 1:
            raise ValueError(f"field {field!r} must hold classes of one type, got several; mend it in the source")
        classes = sorted(counts)
        return cls(classes, field, to=to, multi_hot=multi_hot, counts=tuple(counts[name] for name in classes))

    def weights(self) -> torch.Tensor:
        """Return a weight for each of ``C`` classes, ``float32 (C,)``: ``total / (C * count)``, as scikit-learn's "balanced".

        For the ``weight`` of `torch.nn.CrossEntropyLoss`: the weights of all records of a class have the same sum for each
        class, and the mean weight of a record is 1.

        Raises:
            ValueError: ``counts`` are not known, or a class does not occur.
        """
        if self.counts is None:
            raise ValueError("weights need the counts of the classes; make the stage by ClassLabels.of(source, field)")
        if not all(self.counts):
            missing = self.classes[list(self.counts).index(0)]
            raise ValueError(f"class {missing!r} must occur at least once to have a weight, got no record of it")
        counts = torch.tensor(self.counts, dtype=torch.float64)
        return (counts.sum() / (len(counts) * counts)).float()

    def __repr__(self) -> str:
        field = f", field={self.field!r}" if self.field != "label" else ""
        to = f", to={self.to!r}" if self.to is not None else ""
        multi_hot = ", multi_hot=True" if self.multi_hot else ""
        return f"ClassLabels([{self._shown}]{field}{to}{multi_hot})"

    @property
    def column(self) -> str:
        """The column of numbers."""
        return self.field if self.to is None else self.to

    @property
    def _shown(self) -> str:
        return ", ".join(map(repr, self.classes[:_SHOWN])) + (", …" if len(self.classes) > _SHOWN else "")

    def fingerprint(self) -> Json:
        """Return what decides the numbers of classes."""
        to = {} if self.to is None else {"to": self.to}
        multi_hot = {"multi_hot": True} if self.multi_hot else {}
        return {"kind": "ClassLabels", "classes": list(self.classes), "field": self.field, **to, **multi_hot}

    def open(self) -> OpenStage:
        """Return the function that numbers the classes in tables.

        It raises a `RecordError` for a value that is missing or not one of the classes, and a `ValueError` for a column that is
        missing or has another type.
        """
        return self._run

    def _run(self, tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
        return [self._apply(table) if len(table) else table for table in tables], [{} for _ in tables]

    def _apply(self, table: pa.Table) -> pa.Table:
        if self.field not in table.column_names:
            raise ValueError(_not_found(self.field, table))
        column = table.column(self.field).combine_chunks()
        self._check_nulls(column, np.arange(len(column)), table)
        numbers = self._lists_of_numbers(column, table) if is_list(column.type) else self._one_each(column, table)
        if self.column == self.field:
            return table.set_column(table.schema.get_field_index(self.field), self.field, numbers)
        if self.column in table.column_names:
            raise ValueError(f"ClassLabels cannot add the column {self.column!r}, which the table has already; set another to=")
        return table.append_column(self.column, numbers)

    def _one_each(self, column: pa.Array, table: pa.Table) -> pa.Array:
        records = np.arange(len(column))
        numbers = self._numbers(column, records, table)
        return self._multi_hot(numbers, records, len(column)) if self.multi_hot else numbers

    def _lists_of_numbers(self, column: pa.Array, table: pa.Table) -> pa.Array:
        bounds = to_numpy(column.offsets)
        values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
        records = np.repeat(np.arange(len(column)), np.diff(bounds))
        numbers = self._numbers(values, records, table)
        if self.multi_hot:
            return self._multi_hot(numbers, records, len(column))
        return type(column).from_arrays(to_arrow(bounds - bounds[0]), numbers)

    def _multi_hot(self, numbers: pa.Array, records: Index, num_records: int) -> pa.Array:
        """Return lists of fixed size, one ``float32`` for each class.

        Args:
            numbers: The ``V`` numbers of classes of all records.
            records: ``int64 (V,)``, the record of each.
            num_records: Number of records.
        """
        hot = np.zeros((num_records, len(self.classes)), np.float32)
        hot[records, to_numpy(numbers)] = 1
        return pa.FixedSizeListArray.from_arrays(to_arrow(hot.ravel()), len(self.classes))

    def _numbers(self, values: pa.Array, records: Index, table: pa.Table) -> pa.Array:
        """Return the numbers of ``V`` classes.

        Args:
            values: The classes.
            records: ``int64 (V,)``, the row of each in the table.
            table: For messages.
        """
        import pyarrow.compute as pc

        if not len(values):  # lists that are all empty may have no type
            return to_arrow(np.zeros(0, np.int64))
        self._check_nulls(values, records, table)
        kind, wanted, fits = self._kind
        if not fits(values.type):
            got = table[self.field].type
            raise ValueError(f"field {self.field!r} must hold {wanted} for ClassLabels, got {got}; leave ClassLabels out")
        comparable = values.cast(kind)
        numbers = pc.index_in(comparable, value_set=_to_array(self.classes).cast(kind))
        if numbers.null_count:
            at = _first_true(numbers.is_null())
            message = f"{self.field} {comparable[at].as_py()!r} must be one of {self._shown}"
            raise RecordError(message, row_id_of([table], int(records[at])))
        return numbers.cast(pa.int64())

    @property
    def _kind(self) -> tuple[pa.DataType, str, _Fits]:
        """The type in which values are compared with classes, its name in messages, and whether the type of a column fits."""
        if isinstance(self.classes[0], str):
            return pa.string(), "strings", is_text
        if isinstance(self.classes[0], bool):
            return pa.bool_(), "booleans", pa.types.is_boolean
        return pa.int64(), "whole numbers", pa.types.is_integer

    def _check_nulls(self, values: pa.Array, records: Index, table: pa.Table) -> None:
        if values.null_count:
            message = f"field {self.field!r} must not be null; drop such records with Filter before"
            raise RecordError(message, row_id_of([table], int(records[_first_true(values.is_null())])))


def _columns(source: Source, field: str) -> Iterator[pa.Array]:
    """Yield the classes in each block of a source."""
    for shard in range(source.num_shards):
        for table, _ in source.read(shard):
            if not len(table):
                continue
            if field not in table.column_names:
                raise ValueError(_not_found(field, table))
            values = table.column(field).combine_chunks()
            if is_list(values.type):
                values = values.flatten()
            values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
            kind = values.type
            if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
                raise ValueError(f"field {field!r} must hold strings, whole numbers or booleans, got {table[field].type}")
            yield values


def _not_found(field: str, table: pa.Table) -> str:
    shown = ", ".join(name for name in table.column_names if name not in RESERVED) or "(none)"
    return f"ClassLabels cannot find the field {field!r} among the columns {shown}; set ClassLabels(classes, field=...)"


def _first_true(mask: pa.BooleanArray) -> int:
    return int(np.argmax(mask.to_numpy(zero_copy_only=False)))


def _to_array(classes: Sequence[Class]) -> pa.Array:
    """Return classes as an Arrow array, without ``pa.array``, which imports pandas."""
    if not isinstance(classes[0], str):
        return to_arrow(np.array(classes, np.int64))
    encoded = [name.encode() for name in cast(Sequence[str], classes)]
    bounds = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(bounds), pa.py_buffer(b"".join(encoded)))
