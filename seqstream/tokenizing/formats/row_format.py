"""What all row formats have in common: how rows are encoded from the columns of a table, and shortened before they are final.

Shapes: ``N`` records of all given tables, one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import IGNORE_INDEX, Json
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

LABELS = "labels"
TOKEN_TYPES = "token_type_ids"
WORD_IDS = "word_ids"


class EncodedRows(Protocol):
    """Encoded rows of ``N`` records, which can still be dropped and shortened."""

    @property
    def special_counts(self) -> SpecialCounts:
        """Number of special tokens before and after the own tokens of each row."""

    @property
    def own_lengths(self) -> Index:
        """Tokens of each row without special tokens, ``int64 (N,)``."""

    @property
    def lengths(self) -> Index:
        """Tokens of each row with special tokens, ``int64 (N,)``."""

    @property
    def rows(self) -> TokenRows:
        """The rows with special tokens."""

    def keep(self, kept: Index) -> EncodedRows:
        """Return the rows ``kept``, ``int64 (n,)``, ascending."""

    def truncate(self, limit: int) -> EncodedRows:
        """Return the rows with at most ``limit`` tokens; special tokens after a cut are not labelled."""


@dataclasses.dataclass(frozen=True)
class EncodedSequences:
    """Rows whose own tokens are one sequence, with special tokens before and after it.

    Attributes:
        rows: The rows, with their parallel columns.
        special_counts: Number of special tokens in each row.
        side: Side on which rows that are too long lose tokens.
    """

    rows: TokenRows
    special_counts: SpecialCounts
    side: str

    @property
    def lengths(self) -> Index:
        return self.rows.lengths

    @property
    def own_lengths(self) -> Index:
        return self.rows.lengths - len(self.special_counts)

    def keep(self, kept: Index) -> EncodedSequences:
        return dataclasses.replace(self, rows=token_rows.keep_rows(self.rows, kept))

    def truncate(self, limit: int) -> EncodedSequences:
        rows = token_rows.truncate(self.rows, self.special_counts, limit, self.side)
        num_after = self.special_counts.after
        if self.side == "right" and num_after and LABELS in rows.parallel and rows is not self.rows:
            cut = np.flatnonzero(self.rows.lengths > limit)
            last = rows.offsets[1:][cut, None] - np.arange(1, num_after + 1)
            rows.parallel[LABELS][last.ravel()] = IGNORE_INDEX  # in a copy; the text of a cut row does not end there
        return dataclasses.replace(self, rows=rows)


class RowFormat(Protocol):
    """How the rows of one column of ids are made from the columns of a table; can be pickled."""

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        """The tokenizer of the engine: with special tokens if a row is one text, else `bare`."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Names of the columns that are tokenised, which the ids replace."""

    @property
    def num_special(self) -> int:
        """Number of special tokens of each row."""

    def fingerprint(self) -> dict[str, Json]:
        """Return what decides the rows besides the tokenizer and the columns; nothing for plain text."""

    def sample(self, table: pa.Table) -> Iterable[str]:
        """Yield the texts of a table that `encode` would give the engine, to compare engines."""

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedRows:
        """Return the rows of all records of consecutive tables, encoded in one call of an engine of `tokenizer_spec`.

        Raises:
            RecordError: A record lacks a value, or cannot be encoded.
            ValueError: A column is missing or has the wrong type.
        """


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens around the own tokens of every row.

    Attributes:
        before: The tokenizer's own, before.
        after: The tokenizer's own, after.
        end: The id of ``Tokenize(end=...)``, which follows them, or none.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @property
    def counts(self) -> SpecialCounts:
        """Number of these tokens."""
        return SpecialCounts(len(self.before), len(self.after) + len(self.end), len(self.end))

    def fingerprint(self) -> dict[str, Json]:
        """Return the id of ``Tokenize(end=...)``, if there is one."""
        return {"end": self.end[0]} if self.end else {}

    def around(self, parts: Sequence[TokenRows], num_rows: int, *, label_after: bool = False) -> TokenRows:
        """Return rows that are joined from parts, with these tokens around them.

        Args:
            parts: Rows without special tokens; special tokens get values in the parallel columns that these have.
            num_rows: Number of rows of the result.
            label_after: Whether the tokens after are labelled with their own ids; all other values are -100.
        """
        after = self.after + self.end
        columns = parts[0].parallel
        first = TokenRows.constant(self.before, **dict.fromkeys(columns, [IGNORE_INDEX] * len(self.before)))
        of_after: dict[str, Sequence[int]] = dict.fromkeys(columns, [IGNORE_INDEX] * len(after))
        last = TokenRows.constant(after, **of_after | ({LABELS: after} if label_after and LABELS in columns else {}))
        return token_rows.join([first, *parts, last], num_rows)
