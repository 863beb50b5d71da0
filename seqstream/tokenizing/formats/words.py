"""Words that were split before, and a label for each, as taggers of words are trained.

Shapes: ``W`` words of all records, ``T`` tokens of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import IGNORE_INDEX, Json, RecordError, row_id_of
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, Lists, naming_records, read_labels, read_words
from seqstream.tokenizing.formats.row_format import LABELS, Sequences, SpecialTokens
from seqstream.tokenizing.python_tokenizers import shorten
from seqstream.tokenizing.token_rows import TokenRows, take_rows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec, can_encode

WordLabels: TypeAlias = Literal["first", "all"]

_PROBES = ["The", "quick", " brown", "fox's", "", "Où", "日本語", "13", "."]


@dataclasses.dataclass(frozen=True)
class Words:
    """A row is the words of a record, each encoded by itself, with the special tokens of the tokenizer around all of them.

    Words that come again are encoded once a call: most do.

    Attributes:
        tokenizer_spec: The tokenizer, bare.
        field: Column of lists of words.
        ends: Special tokens around each row.
        labels: Column of lists of labels, one a word.
        word_labels: Whether a word's label goes to its first token or to all of them.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    ends: SpecialTokens
    labels: Field | None = None
    word_labels: WordLabels = "first"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field.name,) if self.labels is None else (self.field.name, self.labels.name)

    @property
    def num_special(self) -> int:
        return len(self.ends.frame)

    def fingerprint(self) -> dict[str, Json]:
        labelled = {} if self.labels is None else {"labels": self.labels.name, "word_labels": self.word_labels}
        return labelled | self.ends.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        return (word.as_py() for chunk in read_words([table], self.field).chunks for word in chunk)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> Sequences:
        prove_words(self.tokenizer_spec)
        words = read_words(tables, self.field)
        labels = None if self.labels is None else _check_labels(words, read_labels(tables, self.labels), tables)
        distinct, places = words.distinct()
        if self.labels is None:
            self._refuse_texts(distinct, places, words, tables)
        with naming_records(tables, lambda row: words.record_of(int(np.argmax(places == row)))):
            tokens = take_rows(engine(distinct), places)
        beside = {} if labels is None else {LABELS: spread_labels(labels, tokens, self.word_labels)}
        rows = TokenRows(tokens.ids, tokens.offsets[words.offsets], beside)
        return Sequences(self.ends.around([rows], len(rows)), self.ends.frame, self.tokenizer_spec.truncation_side)

    def _refuse_texts(self, distinct: list[str], places: Index, words: Lists, tables: Sequence[pa.Table]) -> None:
        """Refuse lists of which most words are three words or more: they are texts, and no words of one."""
        blank = [number for number, word in enumerate(distinct) if len(word.split(None, 2)) > 2]
        if 2 * len(blank) <= len(distinct):
            return
        record = words.record_of(int(np.argmax(places == blank[0])))
        remedy = "make a record of each text, or a column of each or a text of all of them, in a Map before"
        got = f"got several texts, the first of them {shorten(distinct[blank[0]])!r}"
        raise RecordError(
            f"{self.field} must hold a text, or the words of one in a list, {got}; {remedy}", row_id_of(tables, record)
        )


def spread_labels(labels: npt.NDArray[np.int64], tokens: TokenRows, where: WordLabels) -> npt.NDArray[np.int64]:
    """Give the labels of words to their tokens.

    Args:
        labels: ``int64 (W,)``.
        tokens: The tokens of each word, ``W`` rows.
        where: ``"all"`` gives a word's label to all of its tokens, ``"first"`` to its first one, and -100 to the others.

    Returns:
        ``int64 (T,)``.
    """
    if where == "all":
        return np.repeat(labels, tokens.lengths)
    spread = np.full(len(tokens.ids), IGNORE_INDEX, np.int64)
    has_tokens = tokens.lengths > 0
    spread[tokens.offsets[:-1][has_tokens]] = labels[has_tokens]
    return spread


@functools.lru_cache(maxsize=8)
def prove_words(tokenizer_spec: TokenizerSpec) -> None:
    """Check that a tokenizer encodes the words of a text that was split before as it encodes each of them alone.

    Raises:
        ValueError: It does not.
    """
    tokenizer = tokenizer_spec.build()
    words = [word for word in _PROBES if can_encode(tokenizer, word)]
    alone = [number for word in words for number in tokenizer.encode(word, add_special_tokens=False).ids]
    together = tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False).ids
    if together != alone:
        rule = "encode words that were split before as it encodes each of them alone"
        raise ValueError(
            f"tokenizer {tokenizer_spec} must {rule}, got {together} instead of {alone} for {words!r}; join the words"
        )


def _check_labels(words: Lists, labels: Lists, tables: Sequence[pa.Table]) -> npt.NDArray[np.int64]:
    """Return the labels, ``int64 (W,)``, one for each word."""
    wrong: Index = np.flatnonzero(words.lengths != labels.lengths)
    if len(wrong):
        record = int(wrong[0])
        got = f"{labels.lengths[record]:,} for {words.lengths[record]:,} words"
        raise RecordError(f"labels must be one a word, got {got}", row_id_of(tables, record))
    return labels.to_numpy()
