"""Names of classes -> numbers: the stage `ClassLabels`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.forms.fields import is_text, row_id_of
from seqstream.sources.protocol import RESERVED, Json
from seqstream.stages import Counts, OpenStage, RecordError

_SHOWN = 8


@dataclasses.dataclass(frozen=True, repr=False)
class ClassLabels:
    """Turn a column of strings into numbers: each the place of the string among some classes.

    The column keeps its name. One string a record becomes one ``int64``; a list of strings, as tags of words are, becomes a
    list of them.

    Args:
        classes: The names of all classes, in their order.
        field: The column.

    Raises:
        TypeError: ``classes`` are no strings.
        ValueError: There is none, or one is there twice.
    """

    classes: Sequence[str]
    field: str = "label"

    def __post_init__(self) -> None:
        classes = self.classes
        if isinstance(classes, str) or not isinstance(classes, Iterable) or not all(isinstance(name, str) for name in classes):
            raise TypeError(f"classes must be a list of strings, got {classes!r}")
        object.__setattr__(self, "classes", tuple(classes))
        if not self.classes:
            raise ValueError("classes must have at least one name, got none")
        often, times = Counter(self.classes).most_common(1)[0]
        if times > 1:
            raise ValueError(f"classes must have each name once, got {often!r} {times} times")
        if self.field in RESERVED:
            raise ValueError(f"field must be a column of the data, got {self.field!r}, which is the loader's own")

    def __repr__(self) -> str:
        field = f", field={self.field!r}" if self.field != "label" else ""
        return f"ClassLabels([{self._shown}]{field})"

    @property
    def _shown(self) -> str:
        return ", ".join(map(repr, self.classes[:_SHOWN])) + (", …" if len(self.classes) > _SHOWN else "")

    def fingerprint(self) -> Json:
        """Say which numbers the classes get."""
        return {"kind": "ClassLabels", "classes": list(self.classes), "field": self.field}

    def open(self) -> OpenStage:
        """Return the function that numbers the labels of tables.

        It raises a `RecordError` for a label that is missing or no class, and a `ValueError` for a column without strings.
        """
        return self._run

    def _run(self, tables: list[pa.Table]) -> tuple[list[pa.Table], Counts]:
        return [self._apply(table) if len(table) else table for table in tables], {}

    def _apply(self, table: pa.Table) -> pa.Table:
        if self.field not in table.column_names:
            shown = ", ".join(name for name in table.column_names if name not in RESERVED) or "(none)"
            remedy = "set ClassLabels(classes, field=...)"
            raise ValueError(f"ClassLabels cannot find the field {self.field!r} among the columns {shown}; {remedy}")
        column = table.column(self.field).combine_chunks()
        self._refuse_nulls(column, np.arange(len(column)), table)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            bounds = to_numpy(column.offsets)
            values = column.values.slice(bounds[0], bounds[-1] - bounds[0])
            numbers = self._numbers(values, np.repeat(np.arange(len(column)), np.diff(bounds)), table)
            made = type(column).from_arrays(to_arrow(bounds - bounds[0]), numbers)
        else:
            made = self._numbers(column, np.arange(len(column)), table)
        return table.set_column(table.schema.get_field_index(self.field), self.field, made)

    def _numbers(self, values: pa.Array, records: npt.NDArray[np.int64], table: pa.Table) -> pa.Array:
        """Return the numbers of strings, ``records`` being where in the table each is."""
        import pyarrow.compute as pc

        if not len(values):  # lists that are all empty may have no type
            return to_arrow(np.zeros(0, np.int64))
        self._refuse_nulls(values, records, table)
        if not is_text(values.type):
            kind = table[self.field].type
            raise ValueError(f"field {self.field!r} must hold strings for ClassLabels, got {kind}; leave ClassLabels out")
        strings = values.cast(pa.string())
        numbers = pc.index_in(strings, value_set=_to_strings(self.classes))
        if numbers.null_count:
            at = _first(numbers.is_null())
            message = f"{self.field} {strings[at].as_py()!r} must be one of {self._shown}"
            raise RecordError(message, row_id_of([table], int(records[at])))
        return numbers.cast(pa.int64())

    def _refuse_nulls(self, values: pa.Array, records: npt.NDArray[np.int64], table: pa.Table) -> None:
        if values.null_count:
            message = f"field {self.field!r} must not be null; drop such records with Filter before"
            raise RecordError(message, row_id_of([table], int(records[_first(values.is_null())])))


def _first(mask: pa.BooleanArray) -> int:
    return int(np.argmax(mask.to_numpy(zero_copy_only=False)))


def _to_strings(names: Sequence[str]) -> pa.StringArray:
    """Return names as an Arrow array, without the import of pandas with which ``pa.array`` begins."""
    encoded = [name.encode() for name in names]
    bounds = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(bounds), pa.py_buffer(b"".join(encoded)))
