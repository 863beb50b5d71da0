"""Words of a text that was split before, with a label for each word, for token classification.

Shapes: ``W`` words of all records, ``T`` tokens of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, positions
from seqstream.records import IGNORE_INDEX, Json, RecordError, row_id_of
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.failing_texts import shorten
from seqstream.tokenizing.formats.fields import Field, Lists, naming_records, read_labels, read_words
from seqstream.tokenizing.formats.row_format import LABELS, WORD_IDS, EncodedSequences, SpecialTokens
from seqstream.tokenizing.token_rows import TokenRows, take_token_rows
from seqstream.tokenizing.tokenizer_reading import can_encode
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

WordLabels: TypeAlias = Literal["first", "all"]

_BLANK = r"\s\v\x1c-\x1f\x{85}\p{Z}"
"""What `str.split` takes for white space, for a regular expression of Arrow."""

_TWO_WORDS = f"[^{_BLANK}][{_BLANK}]+[^{_BLANK}]"
_PROBES = ["The", "quick", " brown", "fox's", "", "Où", "日本語", "13", "."]


@dataclasses.dataclass(frozen=True)
class WordFormat:
    """A row is the words of a record, each encoded alone, with the special tokens of the tokenizer around all of them.

    Each distinct word is encoded once per call; most words are repeated.

    Attributes:
        tokenizer_spec: The bare tokenizer.
        field: Column of lists of words.
        special_tokens: Special tokens around each row.
        labels: Column of lists of labels, one label for each word.
        word_labels: Whether the label of a word goes to its first token or to all of its tokens.
        word_ids: Whether rows have a column of the number of the word of each token.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    special_tokens: SpecialTokens
    labels: Field | None = None
    word_labels: WordLabels = "first"
    word_ids: bool = False

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.field.name,) if self.labels is None else (self.field.name, self.labels.name)

    @property
    def num_special(self) -> int:
        return len(self.special_tokens.counts)

    def fingerprint(self) -> dict[str, Json]:
        labelled = {} if self.labels is None else {"labels": self.labels.name, "word_labels": self.word_labels}
        return labelled | ({"word_ids": True} if self.word_ids else {}) | self.special_tokens.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        return (word.as_py() for chunk in read_words([table], self.field).chunks for word in chunk)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedSequences:
        check_words(self.tokenizer_spec)
        words = read_words(tables, self.field)
        labels = None if self.labels is None else _flat_labels(words, read_labels(tables, self.labels), tables)
        distinct, index_of = words.distinct()
        if self.labels is None:
            self._check_no_texts(distinct, index_of, words, tables)
        with naming_records(tables, lambda index: words.record_of(int(np.argmax(index_of == index)))):
            tokens = take_token_rows(engine(distinct.to_pylist()), index_of)
        parallel = {} if labels is None else {LABELS: spread_labels(labels, tokens, self.word_labels)}
        if self.word_ids:
            parallel[WORD_IDS] = np.repeat(positions(words.lengths), tokens.lengths)
        rows = TokenRows(tokens.ids, tokens.offsets[words.offsets], parallel)
        special = self.special_tokens
        return EncodedSequences(special.around([rows], len(rows)), special.counts, self.tokenizer_spec.truncation_side)

    def _check_no_texts(self, distinct: pa.Array, index_of: Index, words: Lists, tables: Sequence[pa.Table]) -> None:
        """Raise if most distinct items hold a blank between two words: then the lists hold texts, not the words of one text."""
        import pyarrow.compute as pc

        has_blank = pc.match_substring_regex(distinct, _TWO_WORDS)
        if 2 * has_blank.true_count <= len(distinct):
            return
        first = int(np.argmax(has_blank.to_numpy(zero_copy_only=False)))
        record = words.record_of(int(np.argmax(index_of == first)))
        remedy = f"set Tokenize(field=[{self.field.name!r}]) to encode each item as a text"
        got = f"got several texts, the first of them {shorten(distinct[first].as_py())!r}"
        raise RecordError(
            f"{self.field} must hold a text, or the words of one in a list, {got}; {remedy}", row_id_of(tables, record)
        )


def spread_labels(labels: Index, tokens: TokenRows, word_labels: WordLabels) -> Index:
    """Return the labels of tokens, from those of their words.

    Args:
        labels: ``int64 (W,)``.
        tokens: The tokens of each word, ``W`` rows.
        word_labels: ``"all"`` gives a word's label to all of its tokens, ``"first"`` to the first one, and -100 to the others.

    Returns:
        ``int64 (T,)``.
    """
    if word_labels == "all":
        return np.repeat(labels, tokens.lengths)
    spread = np.full(len(tokens.ids), IGNORE_INDEX, np.int64)
    has_tokens = tokens.lengths > 0
    spread[tokens.offsets[:-1][has_tokens]] = labels[has_tokens]
    return spread


@functools.lru_cache(maxsize=8)
def check_words(tokenizer_spec: TokenizerSpec) -> None:
    """Raise unless a tokenizer encodes words that were split before as it encodes each of them alone.

    Raises:
        ValueError: It encodes them differently.
    """
    tokenizer = tokenizer_spec.build()
    words = [word for word in _PROBES if can_encode(tokenizer, word)]
    alone = [token for word in words for token in tokenizer.encode(word, add_special_tokens=False).ids]
    together = tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False).ids
    if together != alone:
        rule = "encode words that were split before as it encodes each of them alone"
        raise ValueError(
            f"tokenizer {tokenizer_spec} must {rule}, got {together} instead of {alone} for {words!r}; join the words"
        )


def _flat_labels(words: Lists, labels: Lists, tables: Sequence[pa.Table]) -> Index:
    """Return the labels, ``int64 (W,)``.

    Raises:
        RecordError: A record does not have one label for each word.
    """
    wrong = np.flatnonzero(words.lengths != labels.lengths)
    if len(wrong):
        record = int(wrong[0])
        got = f"{labels.lengths[record]:,} for {words.lengths[record]:,} words"
        raise RecordError(f"labels must have one number for each word, got {got}", row_id_of(tables, record))
    return labels.to_numpy()
