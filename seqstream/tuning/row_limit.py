"""How long a row may be, and what becomes of longer records.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths, positions
from seqstream.tokenizing.stage import Overflow, Tokenize

MOST_LOST = 0.05
"""A limit that cuts off more than this share of the tokens is bad advice: rows are split instead."""


@dataclasses.dataclass(frozen=True)
class RowLimit:
    """The longest row, and what becomes of longer records.

    Attributes:
        max_length: Tokens of the longest row; ``None`` where ids are given and nothing is cut.
        overflow: ``"truncate"``, ``"split"``, ``"drop"`` or ``"error"``, as in `Tokenize`.
        num_special: Special tokens of a row: each piece of a record that is split has its own.
    """

    max_length: int | None
    overflow: Overflow = "truncate"
    num_special: int = 0

    @classmethod
    def of(cls, tokenize: Tokenize | None, lengths: Lengths, budget: int) -> RowLimit:
        """Return the limit that a `Tokenize` has, or else the best one for a budget.

        Without ``max_length`` a row may be as long as the budget. Longer records are truncated if that loses few tokens, else
        they are split.

        Args:
            tokenize: How text becomes ids; ``None`` where ids are given.
            lengths: ``int64 (N,)``, tokens of whole records.
            budget: Most tokens of a row.
        """
        if tokenize is None:
            return cls(None)
        num_special = tokenize.num_special
        if tokenize.max_length is not None:
            return cls(tokenize.max_length, tokenize.overflow, num_special)
        limit = cls(budget, tokenize.overflow, num_special)
        if limit.lost(lengths) > MOST_LOST and tokenize.overflow == "truncate" and len(tokenize.columns) == 1:
            return dataclasses.replace(limit, overflow="split")
        return limit

    def apply(self, lengths: Lengths) -> Lengths:
        """Return the lengths of the rows that are made of records, ``int64``, in their order.

        With ``max_length=8``, one special token and records of 5 and 20 tokens, ``"truncate"`` gives 5 and 8, ``"drop"`` 5, and
        ``"split"`` 5, 8, 8, 6: the 19 tokens of the second record are pieces of 7, 7 and 5.

        Args:
            lengths: ``int64 (N,)``, tokens of whole records.
        """
        if self.max_length is None or not (is_long := lengths > self.max_length).any():
            return lengths
        if self.overflow == "drop":
            return lengths[~is_long]
        if self.overflow != "split":
            return np.minimum(lengths, self.max_length)
        own, most = lengths - self.num_special, self.max_length - self.num_special
        pieces = np.where(is_long, -(-own // most), 1)
        left = np.repeat(own, pieces) - positions(pieces) * most
        fitting: Lengths = np.minimum(left, most) + self.num_special
        return fitting

    def origins(self, lengths: Lengths) -> Lengths:
        """Return the record of each row that `apply` returns, ``int64``."""
        if self.max_length is None or self.overflow in ("truncate", "error"):
            return np.arange(len(lengths))
        is_long = lengths > self.max_length
        if self.overflow == "drop":
            return np.flatnonzero(~is_long)
        pieces = np.where(is_long, -(-(lengths - self.num_special) // (self.max_length - self.num_special)), 1)
        return np.repeat(np.arange(len(lengths)), pieces)

    def lost(self, lengths: Lengths) -> float:
        """Return the share of the tokens that is cut off or left out, 0 to 1."""
        if self.max_length is None or self.overflow == "split":
            return 0.0
        return 1 - int(self.apply(lengths).sum()) / int(lengths.sum())
