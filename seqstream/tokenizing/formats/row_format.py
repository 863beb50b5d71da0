"""What forms of rows have in common: what they are made of, and how they are shortened before they are final.

Shapes: ``N`` records of all tables given, one after the other.
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

"""The label that losses of PyTorch and transformers ignore."""

LABELS = "labels"
TOKEN_TYPES = "token_type_ids"


class EncodedRows(Protocol):
    """Rows of ``N`` records, encoded, with the special tokens there will be around them."""

    @property
    def frame(self) -> SpecialCounts:
        """How many special tokens each row has before and after its own."""

    @property
    def own(self) -> Index:
        """Tokens of each row's own, ``int64 (N,)``."""

    @property
    def lengths(self) -> Index:
        """Tokens of each row, special tokens included, ``int64 (N,)``."""

    @property
    def rows(self) -> TokenRows:
        """The rows as they are."""

    def keep(self, kept: Index) -> EncodedRows:
        """Return the rows numbered ``kept``, ``int64``, ascending."""

    def truncate(self, limit: int) -> EncodedRows:
        """Return the rows with at most ``limit`` tokens; special tokens behind what was cut off are not labelled."""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of own tokens in one run, special tokens before and after it.

    Attributes:
        rows: The rows, with what is beside their tokens.
        frame: How many of the tokens are special ones.
        side: Where rows that are too long lose tokens.
    """

    rows: TokenRows
    frame: SpecialCounts
    side: str

    @property
    def lengths(self) -> Index:
        return self.rows.lengths

    @property
    def own(self) -> Index:
        return self.rows.lengths - len(self.frame)

    def keep(self, kept: Index) -> Sequences:
        return dataclasses.replace(self, rows=token_rows.keep_rows(self.rows, kept))

    def truncate(self, limit: int) -> Sequences:
        rows = token_rows.truncate(self.rows, self.frame, limit, self.side)
        if self.side == "right" and self.frame.after and LABELS in rows.beside and rows is not self.rows:
            cut = np.flatnonzero(self.rows.lengths > limit)
            ends = rows.offsets[1:][cut, None] - np.arange(1, self.frame.after + 1)
            rows.beside[LABELS][ends.ravel()] = IGNORE_INDEX  # a copy; nothing ends where a row was cut
        return dataclasses.replace(self, rows=rows)


class RowFormat(Protocol):
    """How the rows of one column of ids are made of the columns of a table; may be pickled."""

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        """The tokenizer of the engine: with special tokens where a row is one text, else without."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that the rows take the place of."""

    @property
    def num_special(self) -> int:
        """Special tokens of each row."""

    def fingerprint(self) -> dict[str, Json]:
        """Say what decides the rows besides the tokenizer and the columns: nothing in the plain form."""

    def sample(self, table: pa.Table) -> Iterable[str]:
        """Yield the texts of a table that the engine would get, for its proof."""

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedRows:
        """Return the rows of all records of consecutive tables, made by one call of an engine of `tokenizer_spec`.

        Raises:
            RecordError: A record has not what it takes.
            ValueError: The columns are not those that were expected.
        """


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Special tokens around the own tokens of every row.

    Attributes:
        before: Ids before, the tokenizer's own.
        after: Ids after, the tokenizer's own.
        closing: The id with which `Tokenize(end=...)` closes each text, or none.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()

    @property
    def frame(self) -> SpecialCounts:
        """How many they are."""
        return SpecialCounts(len(self.before), len(self.after) + len(self.closing), len(self.closing))

    def fingerprint(self) -> dict[str, Json]:
        """Say what closes each text, if anything does."""
        return {"end": self.closing[0]} if self.closing else {}

    def around(self, parts: Sequence[TokenRows], num_rows: int, *, predicted: bool = False) -> TokenRows:
        """Return rows joined from parts and these around them.

        Args:
            parts: Rows without special tokens; where they have ``labels`` beside them, special tokens are labelled too.
            num_rows: Rows there will be.
            predicted: Whether those after are labelled with themselves, else none is.
        """
        after = self.after + self.closing
        labelled = LABELS in parts[0].beside
        first = {LABELS: [IGNORE_INDEX] * len(self.before)} if labelled else {}
        last = {LABELS: after if predicted else [IGNORE_INDEX] * len(after)} if labelled else {}
        return token_rows.join([TokenRows.constant(self.before, **first), *parts, TokenRows.constant(after, **last)], num_rows)


def halve(rows: TokenRows) -> tuple[TokenRows, TokenRows]:
    """Return the first half of rows that were encoded in one call, and the second; nothing is copied."""
    middle = len(rows) // 2
    at = int(rows.offsets[middle])
    first = TokenRows(rows.ids[:at], rows.offsets[: middle + 1])
    return first, TokenRows(rows.ids[at:], rows.offsets[middle:] - at)
