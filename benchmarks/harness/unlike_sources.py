"""Sources whose rows differ in length, and the ways in which others mix them: which source gives the next row.

Legend: ``S`` sources, ``N`` rows in the order in which they are served.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import seqstream as ss
from seqstream.arrays import Index

Numbers = npt.NDArray[np.float64]

LONGEST = 8_192
BLOCK_BYTES = 32_768
MEANS = (20, 2_000)
_SIGMA = 0.8
_SPARE = 1.3
"""Each source has this many times the rows that any of the ways needs, about."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows in the order in which they are served.

    Attributes:
        sources: ``int64 (N,)``, the source of each.
        lengths: ``int64 (N,)``, its tokens.
    """

    sources: Index
    lengths: Index

    def deviations(self, weights: Numbers, ends: Index) -> Numbers:
        """Return how far each source is from its share of the tokens, in tokens, ``float64 (len(ends), S)``.

        >>> Rows(np.array([0, 1, 0]), np.array([6, 2, 4])).deviations(np.array([0.5, 0.5]), np.array([6, 7])).tolist()
        [[3.0, -3.0], [2.0, -2.0]]

        Args:
            weights: ``float64 (S,)``, the shares, which add up to 1.
            ends: Numbers of tokens, each of which is measured after the row that reaches it.
        """
        stops = np.minimum(np.searchsorted(np.cumsum(self.lengths), ends) + 1, len(self.lengths))
        given = [np.bincount(self.sources[:stop], self.lengths[:stop], minlength=len(weights)) for stop in stops.tolist()]
        return np.array([each - each.sum() * weights for each in given])


@dataclasses.dataclass(frozen=True)
class UnlikeSources:
    """Sources of random lengths.

    Attributes:
        weights: ``float64 (S,)``, the share of each in the tokens.
        lengths: The tokens of each row of each source, in its order.
    """

    weights: Numbers
    lengths: Sequence[Index]

    @classmethod
    def draw(cls, num: int, tokens: int) -> UnlikeSources:
        """Return sources with mean lengths of 20 to 2,000 tokens, log-normal, and weights of 1, 1/2, 1/3, ... by Zipf's law.

        Args:
            num: Number of sources.
            tokens: Tokens of all that are served, for which the rows of each source suffice.
        """
        draw = np.random.default_rng(num)
        weights = 1 / np.arange(1, num + 1)
        weights /= weights.sum()
        means = draw.permutation(np.geomspace(*MEANS, num))
        least = np.minimum(means, weights @ means)
        sizes = np.ceil(_SPARE * tokens * weights / least).astype(np.int64) + 1
        return cls(weights, [_log_normal(draw, mean, size) for mean, size in zip(means, sizes.tolist(), strict=True)])

    @property
    def names(self) -> list[str]:
        """The names of the sources in a mixture."""
        return [f"s{number:03}" for number in range(len(self.lengths))]

    @property
    def row_weights(self) -> Numbers:
        """The share of each source in the rows by which it has its share of the tokens in the mean, ``float64 (S,)``."""
        shares: Numbers = self.weights / np.array([lengths.mean() for lengths in self.lengths])
        return shares / shares.sum()

    def mixture(self, weights: Numbers, tokens: int) -> ss.Mixture:
        """Return a mixture of lists of ids, with a share of the tokens for each source."""
        ids = np.zeros(LONGEST, dtype=np.int32)
        items = [[{"input_ids": ids[:length]} for length in lengths.tolist()] for lengths in self.lengths]
        return ss.Mixture(
            dict(zip(self.names, (ss.Generator(own, block_bytes=BLOCK_BYTES) for own in items), strict=True)),
            dict(zip(self.names, weights.tolist(), strict=True)),
            tokens=tokens,
        )

    def interleaved(self, shares: Numbers, tokens: int) -> Rows:
        """Return rows of `datasets.interleave_datasets`, at least of a number of tokens; ``shares`` are of the rows."""
        from datasets import Dataset, interleave_datasets

        parts = [
            Dataset.from_dict({"source": np.full(len(lengths), number), "length": lengths}).to_iterable_dataset()
            for number, lengths in enumerate(self.lengths)
        ]
        mixed = interleave_datasets(parts, probabilities=shares.tolist(), seed=0, stopping_strategy="all_exhausted")
        sources, lengths, total = [], [], 0
        for row in mixed:
            sources.append(row["source"])
            lengths.append(row["length"])
            total += row["length"]
            if total >= tokens:
                break
        return Rows(np.array(sources, dtype=np.int64), np.array(lengths, dtype=np.int64))

    def drawn(self, shares: Numbers, tokens: int) -> Rows:
        """Return the rows that `interleaved` returns, which takes long for many sources: each from a source drawn at random."""
        draw = np.random.default_rng(0)
        return self._rows(draw.choice(len(shares), self._most_rows(shares, tokens), p=shares))

    def by_deficit(self, shares: Numbers, tokens: int) -> Rows:
        """Return rows of which each is from the source that lacks most rows of its share of the rows, as in Megatron-LM."""
        given, chosen = np.zeros(len(shares)), []
        for number in range(1, self._most_rows(shares, tokens) + 1):
            source = int((shares * number - given).argmax())
            given[source] += 1
            chosen.append(source)
        return self._rows(np.array(chosen, dtype=np.int64))

    def _most_rows(self, shares: Numbers, tokens: int) -> int:
        """Return more rows than have a number of tokens."""
        mean = shares @ np.array([lengths.mean() for lengths in self.lengths])
        return math.ceil(_SPARE * tokens / mean) + 100

    def _rows(self, sources: Index) -> Rows:
        """Return the rows of sources that are chosen one after the other, each again and again in its order."""
        lengths = np.empty(len(sources), dtype=np.int64)
        for number, own in enumerate(self.lengths):
            places = np.flatnonzero(sources == number)
            lengths[places] = np.resize(own, len(places))
        return Rows(sources, lengths)


def _log_normal(draw: np.random.Generator, mean: float, size: int) -> Index:
    """Return log-normal lengths of some mean, ``int64 (size,)``."""
    found = draw.lognormal(math.log(mean) - _SIGMA**2 / 2, _SIGMA, size)
    lengths: Index = np.clip(np.rint(found), 1, LONGEST).astype(np.int64)
    return lengths
