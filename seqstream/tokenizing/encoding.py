"""What an opened `Tokenize` does to tables: texts out of Arrow, one call of the engine, ids back into Arrow.

Shapes: ``N`` records of all given tables, one after the other; ``N'`` rows made from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, Mask
from seqstream.arrow import to_arrow
from seqstream.records import INPUT_IDS, PIECE, Counts, RecordError, lengths_column, row_id_of
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.lists import EncodedLists
from seqstream.tokenizing.formats.row_format import EncodedRows, RowFormat
from seqstream.tokenizing.token_rows import Flat, TokenRows


@dataclasses.dataclass(frozen=True)
class OpenTokenize:
    """An opened `Tokenize`: a function on the tables of consecutive blocks.

    Attributes:
        row_formats: Format of the rows of each column of ids.
        engines: Engine of each column of ids.
        max_length: As in `Tokenize`.
        overflow: As in `Tokenize`.
        drop_empty: Whether records without tokens of their own are dropped.
    """

    row_formats: Mapping[str, RowFormat]
    engines: Mapping[str, Engine]
    max_length: int | None
    overflow: str
    drop_empty: bool

    def __call__(self, tables: list[pa.Table]) -> tuple[list[pa.Table], list[Counts]]:
        """Tokenise tables; the ids of all of them are slices of one buffer.

        Raises:
            RecordError: A text is missing, or a record is too long and ``overflow="error"``.
            ValueError: A column is missing, has the wrong type, or has the name of a column of ids.
        """
        encoded = {column: row_format.encode(tables, self.engines[column]) for column, row_format in self.row_formats.items()}
        kept, outcomes = self._choose_records(encoded, tables)
        if len(kept) < sum(map(len, tables)):
            encoded = {column: rows.keep(kept) for column, rows in encoded.items()}
        if self.max_length is not None and self.overflow == "truncate":
            outcomes["truncated"] = kept[self._are_too_long(encoded)]
            encoded = {column: rows.truncate(self.max_length) for column, rows in encoded.items()}
        tokens = {column: rows.rows for column, rows in encoded.items()}
        if self.max_length is not None and self.overflow == "split":
            ((column, rows),) = tokens.items()
            pieces, source, number = token_rows.split(rows, encoded[column].special_counts, self.max_length)
            outcomes["split"] = kept[source[number == 1]]
            kept = kept[source]
            new_columns = {**_token_columns({column: pieces}), PIECE: to_arrow(number)}
        else:
            new_columns = _token_columns(tokens) | _text_lengths(encoded)
        return self._assemble(tables, kept, new_columns), _counts_by_table(tables, outcomes)

    def _choose_records(self, encoded: Mapping[str, EncodedRows], tables: Sequence[pa.Table]) -> tuple[Index, dict[str, Index]]:
        """Return the records to keep, ``int64``, ascending, and by outcome those that are empty or too long."""
        is_dropped = np.zeros(sum(map(len, tables)), bool)
        if self.drop_empty:
            for rows in encoded.values():
                is_dropped |= rows.own_lengths == 0
        outcomes = {"empty": np.flatnonzero(is_dropped)}
        if self.max_length is not None and self.overflow in ("drop", "error"):
            too_long = self._are_too_long(encoded) & ~is_dropped
            if self.overflow == "error" and too_long.any():
                self._raise_too_long(encoded, tables, int(np.argmax(too_long)))
            outcomes["dropped"] = np.flatnonzero(too_long)
            is_dropped |= too_long
        return np.flatnonzero(~is_dropped), outcomes

    def _are_too_long(self, encoded: Mapping[str, EncodedRows]) -> Mask:
        """Return which records are longer than ``max_length`` in any column of ids, ``bool (N,)``."""
        too_long: Mask = np.logical_or.reduce([rows.lengths > (self.max_length or 0) for rows in encoded.values()])
        return too_long

    def _raise_too_long(self, encoded: Mapping[str, EncodedRows], tables: Sequence[pa.Table], record: int) -> None:
        length = max(int(rows.lengths[record]) for rows in encoded.values())
        remedy = "raise it or set Tokenize(overflow='truncate'), 'split' or 'drop'"
        message = f"sequence of {length:,} tokens cannot fit max_length={self.max_length}; {remedy}"
        raise RecordError(message, row_id_of(tables, record))

    def _assemble(self, tables: Sequence[pa.Table], source: Index, new_columns: Mapping[str, pa.Array]) -> list[pa.Table]:
        """Return a table of rows for each given table.

        Args:
            tables: The records.
            source: ``int64 (N',)``, the record of each row, ascending.
            new_columns: Columns of ``N'`` values that replace those that were tokenised.
        """
        replaced = {name for row_format in self.row_formats.values() for name in row_format.input_columns}
        starts = np.cumsum([0, *map(len, tables)])
        bounds = np.searchsorted(source, starts)
        assembled = []
        for number, table in enumerate(tables):
            begin, end = int(bounds[number]), int(bounds[number + 1])
            others = table.drop_columns([name for name in replaced if name in table.column_names])
            _check_names(others, new_columns)
            records = source[begin:end] - starts[number]
            if not np.array_equal(records, np.arange(len(table))):
                others = others.take(to_arrow(records))
            new = {name: array.slice(begin, end - begin) for name, array in new_columns.items()}
            assembled.append(pa.table({**dict(zip(others.column_names, others.columns, strict=True)), **new}))
        return assembled


def _counts_by_table(tables: Sequence[pa.Table], outcomes: Mapping[str, Index]) -> list[Counts]:
    """Return the number of records of each outcome in each table, given their numbers in all tables, ascending."""
    bounds = np.cumsum([0, *map(len, tables)])
    counts = {name: np.diff(np.searchsorted(records, bounds)).tolist() for name, records in outcomes.items() if len(records)}
    return [{name: own[number] for name, own in counts.items() if own[number]} for number in range(len(tables))]


def _token_columns(tokens: Mapping[str, TokenRows]) -> dict[str, pa.Array]:
    """Return the columns of ids and their parallel columns as lists in Arrow."""
    columns: dict[str, pa.Array] = {}
    for column, rows in tokens.items():
        offsets = to_arrow(rows.offsets.astype(np.int32))
        prefix = "" if column == INPUT_IDS else column.removesuffix("ids")
        flat: dict[str, Flat] = {column: rows.ids, **{prefix + name: values for name, values in rows.parallel.items()}}
        columns |= {name: pa.ListArray.from_arrays(offsets, to_arrow(values)) for name, values in flat.items()}
    return columns


def _text_lengths(encoded: Mapping[str, EncodedRows]) -> dict[str, pa.Array]:
    """Return the lengths of the texts of each record, as lists in Arrow, for each column of ids with several texts a record."""
    columns = {}
    for column, rows in encoded.items():
        if isinstance(rows, EncodedLists):
            lengths = to_arrow(rows.texts.lengths.astype(np.int32))
            columns[lengths_column(column)] = pa.ListArray.from_arrays(to_arrow(rows.offsets.astype(np.int32)), lengths)
    return columns


def _check_names(table: pa.Table, new_columns: Mapping[str, pa.Array]) -> None:
    taken = [name for name in new_columns if name in table.column_names]
    if taken:
        raise ValueError(f"Tokenize cannot add the column {taken[0]!r}, which the table has already; rename it with Map before")
