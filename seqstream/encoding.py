"""What an opened `Tokenize` does to tables: texts out of Arrow, one call of the engine, ids back into Arrow.

Shapes: ``N`` records of all tables given, one after the other; ``N'`` rows that come of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream import pieces
from seqstream.arrow import to_arrow
from seqstream.engines import Engine
from seqstream.functions import RowError
from seqstream.pieces import Ids, Index, TokenRows
from seqstream.sources.protocol import PIECE, RESERVED, ROW_ID
from seqstream.stages import Counts, RecordError


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What `Tokenize` does, with the engines that do it.

    Attributes:
        engines: Engine of each field.
        columns: Column of ids that takes the place of each field.
        max_length: As `Tokenize` says, as are the others.
    """

    engines: Mapping[str, Engine]
    columns: Mapping[str, str]
    max_length: int | None
    overflow: str
    drop_empty: bool

    def __call__(self, tables: list[pa.Table]) -> tuple[list[pa.Table], Counts]:
        """Tokenise the tables of consecutive blocks; the ids of each are a slice of one buffer.

        Raises:
            RecordError: A text is missing, or a record is too long and ``overflow="error"``.
            ValueError: There is no such column, or it holds no text.
        """
        tokens = {field: _encode(engine, field, tables) for field, engine in self.engines.items()}
        kept, counts = self._choose(tokens, tables)
        num_records = sum(map(len, tables))
        if len(kept) < num_records:
            tokens = {field: pieces.keep_rows(rows, kept) for field, rows in tokens.items()}
        number: Ids | None = None
        if self.max_length is not None and self.overflow == "split":
            ((field, rows),) = tokens.items()
            tokens[field], source, number = pieces.split(rows, self.engines[field].blueprint.frame, self.max_length)
            counts["split"] = int(np.count_nonzero(number == 1))
            kept = kept[source]
        elif self.max_length is not None and self.overflow == "truncate":
            counts["truncated"] = int(np.count_nonzero(self._too_long(tokens)))
            tokens = {field: self._truncate(field, rows) for field, rows in tokens.items()}
        arrays = {self.columns[field]: _list_array(rows) for field, rows in tokens.items()}
        if number is not None:
            arrays[PIECE] = to_arrow(number)
        return self._assemble(tables, kept, arrays), {name: count for name, count in counts.items() if count}

    def _choose(self, tokens: Mapping[str, TokenRows], tables: Sequence[pa.Table]) -> tuple[Index, Counts]:
        """Return the records to keep, ``int64``, ascending, and how many go because they are empty or too long."""
        gone = np.zeros(sum(map(len, tables)), bool)
        if self.drop_empty:
            for field, rows in tokens.items():
                gone |= rows.lengths == len(self.engines[field].blueprint.frame)
        counts = {"empty": int(np.count_nonzero(gone))}
        if self.max_length is not None and self.overflow in ("drop", "error"):
            too_long = self._too_long(tokens) & ~gone
            if self.overflow == "error" and too_long.any():
                self._refuse(tokens, tables, int(np.argmax(too_long)))
            counts["dropped"] = int(np.count_nonzero(too_long))
            gone |= too_long
        return np.flatnonzero(~gone), counts

    def _too_long(self, tokens: Mapping[str, TokenRows]) -> npt.NDArray[np.bool_]:
        over: npt.NDArray[np.bool_] = np.logical_or.reduce([rows.lengths > (self.max_length or 0) for rows in tokens.values()])
        return over

    def _refuse(self, tokens: Mapping[str, TokenRows], tables: Sequence[pa.Table], record: int) -> None:
        length = max(int(rows.lengths[record]) for rows in tokens.values())
        remedy = "raise it or set Tokenize(overflow='truncate'), 'split' or 'drop'"
        message = f"sequence of {length:,} tokens cannot fit max_length={self.max_length}; {remedy}"
        raise RecordError(message, _row_id(tables, record))

    def _truncate(self, field: str, rows: TokenRows) -> TokenRows:
        blueprint = self.engines[field].blueprint
        return pieces.truncate(rows, blueprint.frame, self.max_length or 0, blueprint.truncation_side)

    def _assemble(self, tables: Sequence[pa.Table], source: Index, arrays: Mapping[str, pa.Array]) -> list[pa.Table]:
        """Put ``N'`` rows back into tables, ``source`` being the record that each comes from."""
        starts = np.cumsum([0, *map(len, tables)])
        bounds = np.searchsorted(source, starts)
        made = []
        for number, table in enumerate(tables):
            begin, end = int(bounds[number]), int(bounds[number + 1])
            others = table.drop_columns([field for field in self.columns if field in table.column_names])
            _check_free(others, arrays)
            records = source[begin:end] - starts[number]
            if not np.array_equal(records, np.arange(len(table))):
                others = others.take(to_arrow(records))
            ids = {name: array.slice(begin, end - begin) for name, array in arrays.items()}
            made.append(pa.table({**dict(zip(others.column_names, others.columns, strict=True)), **ids}))
        return made


def text_column(table: pa.Table, field: str) -> pa.ChunkedArray:
    """Return a column of text as ``pa.string()``.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A text is missing.
    """
    shown = ", ".join(
        f"{name} ({kind})" for name, kind in zip(table.schema.names, table.schema.types, strict=True) if name not in RESERVED
    )
    if field not in table.column_names:
        raise ValueError(
            f"Tokenize cannot find the field {field!r} among the columns {shown or '(none)'}; set Tokenize(field=...)"
        )
    column = table.column(field)
    if column.null_count:
        record = int(np.argmax(column.is_null().to_numpy()))
        raise RecordError(f"field {field!r} must not be null; drop such records with Filter before", _row_id([table], record))
    if column.type != pa.string():
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(
                f"field {field!r} must hold text, got {column.type} among the columns {shown}; set Tokenize(field=...)"
            )
        column = column.cast(pa.string())
    return column


def _encode(engine: Engine, field: str, tables: Sequence[pa.Table]) -> TokenRows:
    chunks = [chunk for table in tables if len(table) for chunk in text_column(table, field).chunks]
    if not chunks:
        return TokenRows(np.zeros(0, np.int32), np.zeros(1, np.int64))
    try:
        return engine(pa.chunked_array(chunks).to_pylist())
    except RowError as error:
        raise RecordError(str(error), _row_id(tables, error.row)) from error


def _row_id(tables: Sequence[pa.Table], record: int) -> int | None:
    for table in tables:
        if record < len(table):
            return int(table.column(ROW_ID)[record].as_py()) if ROW_ID in table.column_names else None
        record -= len(table)
    return None


def _list_array(rows: TokenRows) -> pa.ListArray:
    return pa.ListArray.from_arrays(to_arrow(rows.offsets.astype(np.int32)), to_arrow(rows.ids))


def _check_free(table: pa.Table, arrays: Mapping[str, pa.Array]) -> None:
    taken = [name for name in arrays if name in table.column_names]
    if taken:
        raise ValueError(f"Tokenize cannot add the column {taken[0]!r}, which the table has already; rename it with Map before")
