"""A prompt and its completion in one row, with labels on the completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from seqstream.records import IGNORE_INDEX, Json
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field
from seqstream.tokenizing.formats.row_format import LABELS, EncodedSequences, SpecialTokens
from seqstream.tokenizing.formats.two_texts import encode_two, sample_two
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """A row is a prompt and its completion, tokenised apart; labels are the ids of the completion and of what ends it.

    Attributes:
        tokenizer_spec: The bare tokenizer.
        prompt: Column of prompts.
        completion: Column of completions.
        special_tokens: Special tokens around each row.
    """

    tokenizer_spec: TokenizerSpec
    prompt: Field
    completion: Field
    special_tokens: SpecialTokens

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.prompt.name, self.completion.name

    @property
    def num_special(self) -> int:
        return len(self.special_tokens.counts)

    def fingerprint(self) -> dict[str, Json]:
        return {"prompt": self.prompt.name} | self.special_tokens.fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        return sample_two(table, self.prompt, self.completion)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedSequences:
        prompts, completions = encode_two(tables, self.prompt, self.completion, engine)
        parts = [
            TokenRows(prompts.ids, prompts.offsets, {LABELS: np.full(len(prompts.ids), IGNORE_INDEX, np.int32)}),
            TokenRows(completions.ids, completions.offsets, {LABELS: completions.ids}),
        ]
        rows = self.special_tokens.around(parts, len(completions), label_after=True)
        return EncodedSequences(rows, self.special_tokens.counts, self.tokenizer_spec.truncation_side)
