"""The plain format: a row is one text, or the words of a text that was split before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pyarrow as pa

from seqstream.records import Json
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, holds_words, naming_records, read_texts, text_column
from seqstream.tokenizing.formats.row_format import EncodedSequences, SpecialTokens
from seqstream.tokenizing.formats.words import WordFormat
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """A row is a text as the engine encodes it, special tokens included.

    Attributes:
        tokenizer_spec: The tokenizer, with special tokens if they are wanted.
        field: Column of texts, or of lists of words.
        end: Id that is put after each text, or none.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    end: tuple[int, ...] = ()

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.field.name,)

    @property
    def num_special(self) -> int:
        return len(self.special_tokens.counts)

    @property
    def special_tokens(self) -> SpecialTokens:
        """Special tokens around each row."""
        return SpecialTokens(self.tokenizer_spec.special_before, self.tokenizer_spec.special_after, self.end)

    @property
    def word_format(self) -> WordFormat:
        """The format of the rows if the column holds lists of words."""
        return WordFormat(self.tokenizer_spec.bare, self.field, self.special_tokens)

    def fingerprint(self) -> dict[str, Json]:
        return self.special_tokens.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        if self._holds_words([table]):
            return self.word_format.sample(table)
        return (value.as_py() for value in text_column(table, self.field))

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedSequences:
        if self._holds_words(tables):
            return self.word_format.encode(tables, engine.bare)
        texts = read_texts(tables, self.field)
        with naming_records(tables):
            rows = engine(texts)
        if self.end:
            rows = token_rows.join([rows, TokenRows.constant(self.end)], len(texts))
        return EncodedSequences(rows, self.special_tokens.counts, self.tokenizer_spec.truncation_side)

    def _holds_words(self, tables: Sequence[pa.Table]) -> bool:
        return not self.tokenizer_spec.is_function and holds_words(tables, self.field)
