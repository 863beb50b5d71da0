"""What an opened `Tokenize` does to tables: texts out of Arrow, one call of the engine, ids back into Arrow.

Shapes: ``N`` records of all tables given, one after the other; ``N'`` rows that come of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Ids, Index
from seqstream.arrow import to_arrow
from seqstream.records import PIECE, Counts, RecordError, row_id_of
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.row_format import EncodedRows, RowFormat
from seqstream.tokenizing.token_rows import Flat, TokenRows


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What `Tokenize` does, with the engines that do it.

    Attributes:
        forms: How the rows of each column of ids are made.
        engines: Engine of each column of ids.
        max_length: As `Tokenize` says, as are the others.
    """

    forms: Mapping[str, RowFormat]
    engines: Mapping[str, Engine]
    max_length: int | None
    overflow: str
    drop_empty: bool

    def __call__(self, tables: list[pa.Table]) -> tuple[list[pa.Table], Counts]:
        """Tokenise the tables of consecutive blocks; the ids of each are a slice of one buffer.

        Raises:
            RecordError: A text is missing, or a record is too long and ``overflow="error"``.
            ValueError: There is no such column, or it holds no text.
        """
        drafts = {column: form.encode(tables, self.engines[column]) for column, form in self.forms.items()}
        kept, counts = self._choose(drafts, tables)
        if len(kept) < sum(map(len, tables)):
            drafts = {column: draft.keep(kept) for column, draft in drafts.items()}
        if self.max_length is not None and self.overflow == "truncate":
            counts["truncated"] = int(np.count_nonzero(self._too_long(drafts)))
            drafts = {column: draft.truncate(self.max_length) for column, draft in drafts.items()}
        tokens = {column: draft.rows for column, draft in drafts.items()}
        number: Ids | None = None
        if self.max_length is not None and self.overflow == "split":
            ((column, rows),) = tokens.items()
            tokens[column], source, number = token_rows.split(rows, drafts[column].frame, self.max_length)
            counts["split"] = int(np.count_nonzero(number == 1))
            kept = kept[source]
        arrays = _columns(tokens)
        if number is not None:
            arrays[PIECE] = to_arrow(number)
        return self._assemble(tables, kept, arrays), {name: count for name, count in counts.items() if count}

    def _choose(self, drafts: Mapping[str, EncodedRows], tables: Sequence[pa.Table]) -> tuple[Index, Counts]:
        """Return the records to keep, ``int64``, ascending, and how many go because they are empty or too long."""
        gone = np.zeros(sum(map(len, tables)), bool)
        if self.drop_empty:
            for draft in drafts.values():
                gone |= draft.own == 0
        counts = {"empty": int(np.count_nonzero(gone))}
        if self.max_length is not None and self.overflow in ("drop", "error"):
            too_long = self._too_long(drafts) & ~gone
            if self.overflow == "error" and too_long.any():
                self._refuse(drafts, tables, int(np.argmax(too_long)))
            counts["dropped"] = int(np.count_nonzero(too_long))
            gone |= too_long
        return np.flatnonzero(~gone), counts

    def _too_long(self, drafts: Mapping[str, EncodedRows]) -> npt.NDArray[np.bool_]:
        over = [draft.lengths > (self.max_length or 0) for draft in drafts.values()]
        either: npt.NDArray[np.bool_] = np.logical_or.reduce(over)
        return either

    def _refuse(self, drafts: Mapping[str, EncodedRows], tables: Sequence[pa.Table], record: int) -> None:
        length = max(int(draft.lengths[record]) for draft in drafts.values())
        remedy = "raise it or set Tokenize(overflow='truncate'), 'split' or 'drop'"
        message = f"sequence of {length:,} tokens cannot fit max_length={self.max_length}; {remedy}"
        raise RecordError(message, row_id_of(tables, record))

    def _assemble(self, tables: Sequence[pa.Table], source: Index, arrays: Mapping[str, pa.Array]) -> list[pa.Table]:
        """Put ``N'`` rows back into tables, ``source`` being the record that each comes from."""
        taken = {name for form in self.forms.values() for name in form.fields}
        starts = np.cumsum([0, *map(len, tables)])
        bounds = np.searchsorted(source, starts)
        made = []
        for number, table in enumerate(tables):
            begin, end = int(bounds[number]), int(bounds[number + 1])
            others = table.drop_columns([name for name in taken if name in table.column_names])
            _check_free(others, arrays)
            records = source[begin:end] - starts[number]
            if not np.array_equal(records, np.arange(len(table))):
                others = others.take(to_arrow(records))
            ids = {name: array.slice(begin, end - begin) for name, array in arrays.items()}
            made.append(pa.table({**dict(zip(others.column_names, others.columns, strict=True)), **ids}))
        return made


def _columns(tokens: Mapping[str, TokenRows]) -> dict[str, pa.Array]:
    """Return each column of ids, and the columns beside it."""
    arrays: dict[str, pa.Array] = {}
    for column, rows in tokens.items():
        offsets = to_arrow(rows.offsets.astype(np.int32))
        flat: dict[str, Flat] = {column: rows.ids, **rows.beside}
        arrays |= {name: pa.ListArray.from_arrays(offsets, to_arrow(values)) for name, values in flat.items()}
    return arrays


def _check_free(table: pa.Table, arrays: Mapping[str, pa.Array]) -> None:
    taken = [name for name in arrays if name in table.column_names]
    if taken:
        raise ValueError(f"Tokenize cannot add the column {taken[0]!r}, which the table has already; rename it with Map before")
