"""Two texts in one row, as encoders compare them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from tokenizers import Encoding

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.tokenizing import token_rows
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.fields import Field, naming_records, read_texts, text_column
from seqstream.tokenizing.formats.row_format import TOKEN_TYPES, SpecialTokens, halve
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec, probe_texts


@dataclasses.dataclass(frozen=True)
class Run:
    """Special tokens that stand together.

    Attributes:
        ids: What they are.
        types: The type of each.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Template:
    """What a tokenizer puts around two texts, whatever they are.

    Attributes:
        runs: Before the first text, between the two, and after the second.
        types: The types of the tokens of each text.
        has_types: Whether models of this tokenizer want types at all.
    """

    runs: tuple[Run, Run, Run]
    types: tuple[int, int]
    has_types: bool = True

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def closed(self, closing: Sequence[int]) -> Template:
        """Return the template with an id that closes each row, of the type of the second text."""
        before, between, after = self.runs
        last = Run((*after.ids, *closing), (*after.types, *(self.types[1] for _ in closing)))
        return dataclasses.replace(self, runs=(before, between, last))

    def untyped(self) -> Template:
        """Return the template for models that want no types."""
        return dataclasses.replace(self, has_types=False)

    def fill(self, first: TokenRows, second: TokenRows) -> TokenRows:
        """Return rows made of two texts each."""
        texts = [self._typed(part, kind) for part, kind in zip((first, second), self.types, strict=True)]
        before, between, after = (
            TokenRows.constant(run.ids, **({TOKEN_TYPES: run.types} if self.has_types else {})) for run in self.runs
        )
        return token_rows.join([before, texts[0], between, texts[1], after], len(first))

    def _typed(self, part: TokenRows, kind: int) -> TokenRows:
        beside = {TOKEN_TYPES: np.full(len(part.ids), kind, np.int32)} if self.has_types else {}
        return TokenRows(part.ids, part.offsets, beside)


@dataclasses.dataclass(frozen=True)
class PairSequences:
    """Rows of two texts that are not put together yet, since each may lose tokens.

    Attributes:
        first: The first text of each row, without special tokens.
        second: The second.
        template: What stands around them.
        side: Where texts lose tokens.
    """

    first: TokenRows
    second: TokenRows
    template: Template
    side: str

    @property
    def frame(self) -> SpecialCounts:
        return SpecialCounts(len(self.template.runs[0]), len(self.template) - len(self.template.runs[0]))

    @property
    def own(self) -> Index:
        return self.first.lengths + self.second.lengths

    @property
    def lengths(self) -> Index:
        return self.own + len(self.template)

    @property
    def rows(self) -> TokenRows:
        return self.template.fill(self.first, self.second)

    def keep(self, kept: Index) -> PairSequences:
        first, second = (token_rows.keep_rows(part, kept) for part in (self.first, self.second))
        return dataclasses.replace(self, first=first, second=second)

    def truncate(self, limit: int) -> PairSequences:
        limits = token_rows.longest_first(self.first.lengths, self.second.lengths, limit - len(self.template))
        first, second = (
            token_rows.truncate(part, SpecialCounts(), most, self.side)
            for part, most in zip((self.first, self.second), limits, strict=True)
        )
        return dataclasses.replace(self, first=first, second=second)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A row is two texts in the tokenizer's form for pairs.

    Attributes:
        tokenizer_spec: The tokenizer, bare.
        first: Column of the first text.
        second: Column of the second.
        template: What the tokenizer puts around them.
        closing: The id that closes each row, or none.
    """

    tokenizer_spec: TokenizerSpec
    first: Field
    second: Field
    template: Template
    closing: tuple[int, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return self.first.name, self.second.name

    @property
    def num_special(self) -> int:
        return len(self.template) + len(self.closing)

    def fingerprint(self) -> dict[str, Json]:
        types = {"pair": [self.first.name, self.second.name], "token_types": self.template.has_types}
        return types | SpecialTokens(closing=self.closing).fingerprint()

    def sample(self, table: pa.Table) -> Iterable[str]:
        columns = [text_column(table, field) for field in (self.first, self.second)]
        return (value.as_py() for pair in zip(*columns, strict=True) for value in pair)

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> PairSequences:
        texts = [*read_texts(tables, self.first), *read_texts(tables, self.second)]
        with naming_records(tables, lambda row: row % (len(texts) // 2)):
            first, second = halve(engine(texts))
        return PairSequences(first, second, self.template.closed(self.closing), self.tokenizer_spec.truncation_side)


def find_template(tokenizer_spec: TokenizerSpec) -> Template:
    """Find out what a tokenizer puts around two texts, by looking at a few pairs.

    Args:
        tokenizer_spec: The tokenizer, special tokens as they are wanted.

    Raises:
        ValueError: It does not put the same around all of them.
    """
    tokenizer = tokenizer_spec.build()
    alone = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in probe_texts(tokenizer)}
    texts = [text for text, ids in alone.items() if ids]
    pairs = itertools.pairwise([*texts, *texts[:1]])
    wholes = [(a, b, tokenizer.encode(a, b, add_special_tokens=tokenizer_spec.special_tokens)) for a, b in pairs]
    template = _take_apart(wholes[0][2])
    for a, b, whole in wholes:
        first, second = (TokenRows.constant(alone[text]) for text in (a, b))
        rows = template.fill(first, second)
        if (whole.ids, whole.type_ids) != (rows.ids.tolist(), rows.beside[TOKEN_TYPES].tolist()):
            rule = "put the same special tokens around all pairs of texts, the first text before the second"
            raise ValueError(f"post-processor of tokenizer {tokenizer_spec} must {rule}, got {whole.tokens} for {(a, b)!r}")
    return template


def _take_apart(whole: Encoding) -> Template:
    """Return the template of one pair of texts, neither of which is empty; what is no template is found out afterwards."""
    owners, ids, types = whole.sequence_ids, whole.ids, whole.type_ids
    first, second = ([at for at, owner in enumerate(owners) if owner == number] or [0] for number in (0, 1))
    before, between, after = (
        Run(tuple(ids[part]), tuple(types[part]))
        for part in (slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None))
    )
    return Template((before, between, after), (types[first[0]], types[second[0]]))
