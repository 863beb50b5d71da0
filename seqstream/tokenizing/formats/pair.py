"""Two texts in one row, as encoders compare them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field
from seqstream.tokenizing.formats.row_format import TOKEN_TYPES, SpecialTokens
from seqstream.tokenizing.formats.two_texts import encode_two, sample_two
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_reading import probe_texts
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclasses.dataclass(frozen=True)
class SpecialRun:
    """Special tokens next to each other.

    Attributes:
        ids: Their ids.
        types: The token type of each.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class PairTemplate:
    """The special tokens that a tokenizer puts around two texts, the same for all texts.

    Attributes:
        runs: Special tokens before the first text, between the two, and after the second.
        types: The token types of the first text and of the second.
        has_types: Whether rows have a column of token types.
    """

    runs: tuple[SpecialRun, SpecialRun, SpecialRun]
    types: tuple[int, int]
    has_types: bool = True

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def with_end(self, end: Sequence[int]) -> PairTemplate:
        """Return the template with the ids ``end`` after the others, of the type of the second text."""
        before, between, after = self.runs
        last = SpecialRun((*after.ids, *end), (*after.types, *(self.types[1] for _ in end)))
        return dataclasses.replace(self, runs=(before, between, last))

    def without_types(self) -> PairTemplate:
        """Return the template for models that take no token types."""
        return dataclasses.replace(self, has_types=False)

    def fill(self, first: TokenRows, second: TokenRows) -> TokenRows:
        """Return ``N`` rows of two texts each, with special tokens, from ``N`` rows of each text."""
        texts = [self._with_type(rows, kind) for rows, kind in zip((first, second), self.types, strict=True)]
        before, between, after = (
            TokenRows.constant(run.ids, **({TOKEN_TYPES: run.types} if self.has_types else {})) for run in self.runs
        )
        return token_rows.join([before, texts[0], between, texts[1], after], len(first))

    def _with_type(self, rows: TokenRows, kind: int) -> TokenRows:
        return TokenRows(
            rows.ids, rows.offsets, {TOKEN_TYPES: np.full(len(rows.ids), kind, np.int32)} if self.has_types else {}
        )


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """Rows of two texts that are not joined yet, since each text may lose tokens.

    Attributes:
        first: The first text of each row, without special tokens.
        second: The second text.
        template: The special tokens around them.
        side: Side on which texts lose tokens.
    """

    first: TokenRows
    second: TokenRows
    template: PairTemplate
    side: str

    @property
    def special_counts(self) -> SpecialCounts:
        return SpecialCounts(len(self.template.runs[0]), len(self.template) - len(self.template.runs[0]))

    @property
    def own_lengths(self) -> Index:
        return self.first.lengths + self.second.lengths

    @property
    def lengths(self) -> Index:
        return self.own_lengths + len(self.template)

    @property
    def rows(self) -> TokenRows:
        return self.template.fill(self.first, self.second)

    def keep(self, kept: Index) -> EncodedPairs:
        first, second = (token_rows.keep_rows(rows, kept) for rows in (self.first, self.second))
        return dataclasses.replace(self, first=first, second=second)

    def truncate(self, limit: int) -> EncodedPairs:
        limits = token_rows.longest_first(self.first.lengths, self.second.lengths, limit - len(self.template))
        first, second = (
            token_rows.truncate(rows, SpecialCounts(), own_limit, self.side)
            for rows, own_limit in zip((self.first, self.second), limits, strict=True)
        )
        return dataclasses.replace(self, first=first, second=second)


@dataclasses.dataclass(frozen=True)
class PairFormat:
    """A row is two texts, with the special tokens that the tokenizer puts around pairs.

    Attributes:
        tokenizer_spec: The bare tokenizer.
        first: Column of the first text.
        second: Column of the second text.
        template: Special tokens of the tokenizer around them.
        end: Id that is put after each row, or none.
    """

    tokenizer_spec: TokenizerSpec
    first: Field
    second: Field
    template: PairTemplate
    end: tuple[int, ...] = ()

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.first.name, self.second.name

    @property
    def num_special(self) -> int:
        return len(self.template) + len(self.end)

    def fingerprint(self) -> dict[str, Json]:
        types = {"pair": [self.first.name, self.second.name], "token_types": self.template.has_types}
        return types | SpecialTokens(end=self.end).fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        return sample_two(table, self.first, self.second)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedPairs:
        first, second = encode_two(tables, self.first, self.second, engine)
        return EncodedPairs(first, second, self.template.with_end(self.end), self.tokenizer_spec.truncation_side)


def find_template(tokenizer_spec: TokenizerSpec) -> PairTemplate:
    """Return the special tokens that a tokenizer puts around two texts, found by encoding a few pairs.

    Args:
        tokenizer_spec: The tokenizer, with special tokens if they are wanted.

    Raises:
        ValueError: The tokenizer does not put the same tokens around all pairs.
    """
    tokenizer = tokenizer_spec.build()
    ids_of = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in probe_texts(tokenizer)}
    texts = [text for text, ids in ids_of.items() if ids]
    pairs = itertools.pairwise([*texts, *texts[:1]])
    encodings = [(a, b, tokenizer.encode(a, b, add_special_tokens=tokenizer_spec.special_tokens)) for a, b in pairs]
    template = _template_of(encodings[0][2])
    for a, b, encoding in encodings:
        rows = template.fill(*(TokenRows.constant(ids_of[text]) for text in (a, b)))
        if (encoding.ids, encoding.type_ids) != (rows.ids.tolist(), rows.parallel[TOKEN_TYPES].tolist()):
            rule = "put the same special tokens around all pairs of texts, the first text before the second"
            raise ValueError(f"post-processor of tokenizer {tokenizer_spec} must {rule}, got {encoding.tokens} for {(a, b)!r}")
    return template


def _template_of(encoding: Encoding) -> PairTemplate:
    """Return the template of an encoded pair of texts, neither of them empty; `find_template` checks it against other pairs."""
    owners, ids, types = encoding.sequence_ids, encoding.ids, encoding.type_ids
    first, second = ([at for at, owner in enumerate(owners) if owner == text] or [0] for text in (0, 1))
    before, between, after = (
        SpecialRun(tuple(ids[part]), tuple(types[part]))
        for part in (slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None))
    )
    return PairTemplate((before, between, after), (types[first[0]], types[second[0]]))
