"""The plain form: a row is one text, or the words of one that was split before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pyarrow as pa

from seqstream.records import Json
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, holds_lists, naming_records, read_texts, text_column
from seqstream.tokenizing.formats.row_format import Sequences, SpecialTokens
from seqstream.tokenizing.formats.words import Words
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class Texts:
    """A row is a text as the engine encodes it, special tokens included.

    Attributes:
        tokenizer_spec: The tokenizer.
        field: Column of texts, or of lists of words.
        closing: The id that closes each text, or none.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    closing: tuple[int, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field.name,)

    @property
    def num_special(self) -> int:
        return len(self.ends.frame)

    @property
    def ends(self) -> SpecialTokens:
        """Special tokens around each row."""
        return SpecialTokens(*self.tokenizer_spec.ends, self.closing)

    @property
    def words(self) -> Words:
        """The form of the rows if the column turns out to hold words."""
        return Words(self.tokenizer_spec.bare, self.field, self.ends)

    def fingerprint(self) -> dict[str, Json]:
        return self.ends.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        if self._holds_words([table]):
            return self.words.sample(table)
        return (value.as_py() for value in text_column(table, self.field))

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> Sequences:
        if self._holds_words(tables):
            return self.words.encode(tables, engine.bare)
        texts = read_texts(tables, self.field)
        with naming_records(tables):
            rows = engine(texts)
        if self.closing:
            rows = token_rows.join([rows, TokenRows.constant(self.closing)], len(texts))
        return Sequences(rows, self.ends.frame, self.tokenizer_spec.truncation_side)

    def _holds_words(self, tables: Sequence[pa.Table]) -> bool:
        return not self.tokenizer_spec.is_function and holds_lists(tables, self.field)
