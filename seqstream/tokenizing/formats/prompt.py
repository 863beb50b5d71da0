"""A prompt and what a model is to answer, in one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from seqstream.records import IGNORE_INDEX, Json
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, naming_records, read_texts, text_column
from seqstream.tokenizing.formats.row_format import LABELS, Sequences, SpecialTokens, halve
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A row is a prompt and its completion, tokenised apart; labels are the ids of the completion and of what ends it.

    Attributes:
        tokenizer_spec: The tokenizer, bare.
        prompt: Column of prompts.
        completion: Column of completions.
        ends: Special tokens around each row.
    """

    tokenizer_spec: TokenizerSpec
    prompt: Field
    completion: Field
    ends: SpecialTokens

    @property
    def fields(self) -> tuple[str, ...]:
        return self.prompt.name, self.completion.name

    @property
    def num_special(self) -> int:
        return len(self.ends.frame)

    def fingerprint(self) -> dict[str, Json]:
        return {"prompt": self.prompt.name} | self.ends.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        columns = [text_column(table, field) for field in (self.prompt, self.completion)]
        return (value.as_py() for pair in zip(*columns, strict=True) for value in pair)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> Sequences:
        texts = [*read_texts(tables, self.prompt), *read_texts(tables, self.completion)]
        with naming_records(tables, lambda row: row % (len(texts) // 2)):
            prompts, completions = halve(engine(texts))
        parts = [
            TokenRows(prompts.ids, prompts.offsets, {LABELS: np.full(len(prompts.ids), IGNORE_INDEX, np.int32)}),
            TokenRows(completions.ids, completions.offsets, {LABELS: completions.ids}),
        ]
        rows = self.ends.around(parts, len(completions), predicted=True)
        return Sequences(rows, self.ends.frame, self.tokenizer_spec.truncation_side)
