"""The first batches of a loader, with some of their rows decoded."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seqstream.arrays import evenly_spaced
from seqstream.batches.batch import Batch
from seqstream.loading.loader import Loader
from seqstream.planning.bucket import Bucket
from seqstream.sources.source import Source
from seqstream.tokenizing.stage import Tokenize
from seqstream.tokenizing.tokenizer_reading import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class PreviewRow:
    """One row of a batch: its number of real tokens, where its record is in the data, and its ids decoded."""

    tokens: int
    location: str
    text: str


@dataclasses.dataclass(frozen=True)
class Preview:
    """One batch: its rows, padded length and real tokens, and some of its rows decoded, longest first."""

    rows: int
    width: int
    tokens: int
    shown: tuple[PreviewRow, ...]

    @property
    def padding(self) -> float:
        """Share of the slots that is padding, 0 to 1."""
        return 1 - self.tokens / (self.rows * self.width)


def take_previews(
    source: Source, tokenize: Tokenize, spec: Bucket, *, num_batches: int, num_rows: int, seed: int = 0
) -> Iterator[Preview]:
    """Yield the first batches of a loader, with up to ``num_rows`` rows of each, from its longest to its shortest.

    Args:
        source: Where records come from.
        tokenize: How they are tokenised, with one tokenizer that can decode.
        spec: How they are batched.
        num_batches: Number of batches.
        num_rows: Number of rows of each batch that are decoded.
        seed: Seed of the loader's order.
    """
    tokenizer = read_tokenizer(tokenize.tokenizer, special_tokens=True).build()
    for batch in itertools.islice(Loader(source, tokenize, spec, seed=seed), num_batches):
        shown = tuple(_decode(batch, row, source, tokenizer) for row in evenly_spaced(batch.num_rows, num_rows))
        yield Preview(batch.num_rows, batch.mask.shape[1], batch.num_tokens, shown)


def _decode(batch: Batch, row: int, source: Source, tokenizer: Tokenizer) -> PreviewRow:
    length = int(batch.lengths[row])
    text = tokenizer.decode(batch.input_ids[row, :length].tolist(), skip_special_tokens=False)
    return PreviewRow(length, source.locate(int(batch.row_ids[row])), text)
