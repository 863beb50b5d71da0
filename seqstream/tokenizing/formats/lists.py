"""Several texts of a record in one column: each is encoded as a text of its own, and all of them stay with the record.

Shapes: ``N`` records, ``V`` texts of all records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, flat_starts
from seqstream.arrow import to_arrow
from seqstream.records import ROW_ID, Json
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, holds_words, read_words
from seqstream.tokenizing.formats.row_format import EncodedRows, RowFormat
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class EncodedLists:
    """Encoded texts of ``N`` records, any number of each.

    Attributes:
        texts: The ``V`` texts.
        counts: ``int64 (N,)``, texts of each record.
    """

    texts: EncodedRows
    counts: Index

    @property
    def special_counts(self) -> SpecialCounts:
        return self.texts.special_counts

    @property
    def own_lengths(self) -> Index:
        """Own tokens of the shortest text of each record, ``int64 (N,)``; 0 for a record without texts."""
        return self._reduced(np.minimum, self.texts.own_lengths)

    @property
    def lengths(self) -> Index:
        """Tokens of the longest text of each record, ``int64 (N,)``."""
        return self._reduced(np.maximum, self.texts.lengths)

    @property
    def rows(self) -> TokenRows:
        """The texts of each record one after the other."""
        rows = self.texts.rows
        return TokenRows(rows.ids, rows.offsets[self.offsets], rows.parallel)

    @property
    def offsets(self) -> Index:
        """Number of the first text of each record, and of all texts, ``int64 (N + 1,)``."""
        return np.append(flat_starts(self.counts), self.counts.sum())

    def keep(self, kept: Index) -> EncodedLists:
        is_kept = np.zeros(len(self.counts), bool)
        is_kept[kept] = True
        return EncodedLists(self.texts.keep(np.flatnonzero(np.repeat(is_kept, self.counts))), self.counts[kept])

    def truncate(self, limit: int) -> EncodedLists:
        return dataclasses.replace(self, texts=self.texts.truncate(limit))

    def _reduced(self, reduce: np.ufunc, lengths: Index) -> Index:
        found = np.zeros(len(self.counts), np.int64)
        has_texts = self.counts > 0
        if has_texts.any():
            found[has_texts] = reduce.reduceat(lengths, self.offsets[:-1][has_texts])
        return found


@dataclasses.dataclass(frozen=True)
class ListFormat:
    """The texts of a record in a list, each a row of another format; a column of single texts is encoded as that format does.

    Attributes:
        of_texts: The format of one text.
        field: Column of lists of texts, or of texts.
    """

    of_texts: RowFormat
    field: Field

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        return self.of_texts.tokenizer_spec

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.of_texts.input_columns

    @property
    def num_special(self) -> int:
        return self.of_texts.num_special

    def fingerprint(self) -> dict[str, Json]:
        return self.of_texts.fingerprint() | {"lists": True}

    def sample(self, table: pa.Table) -> Iterable[str]:
        return self.of_texts.sample(self._flat([table])[0] if holds_words([table], self.field) else table)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedRows:
        if not holds_words(tables, self.field):
            return self.of_texts.encode(tables, engine)
        table, counts = self._flat(tables)
        return EncodedLists(self.of_texts.encode([table], engine), counts)

    def _flat(self, tables: Sequence[pa.Table]) -> tuple[pa.Table, Index]:
        """Return a table with a row for each text, which has the other columns of its record, and the texts of each record."""
        texts = read_words(tables, self.field)
        records = to_arrow(np.repeat(np.arange(len(texts.lengths)), texts.lengths))
        others = [name for name in (*self.input_columns, ROW_ID) if name != self.field.name]
        tables = [table.select([name for name in others if name in table.column_names]) for table in tables if len(table)]
        flat = pa.concat_tables(tables, promote_options="permissive").take(records) if tables else pa.table({})
        return flat.append_column(self.field.name, pa.chunked_array(texts.chunks, pa.string())), texts.lengths
