"""The limits of a batch: a budget of padded tokens, or of what attention costs too, and a number of rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths
from seqstream.planning.batch_spec import meant_as_rows
from seqstream.planning.sides import Sides


@dataclasses.dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold, as the arguments of `Bucket` of the same names say.

    Costs are whole numbers: they count fractions of a token, of which a token has `unit`.

    Attributes:
        max_tokens: Budget of a batch in tokens; ``None`` for none.
        batch_size: Most rows of a batch; ``None`` for no limit.
        multiple_of: Padded lengths are a multiple of it.
        rows_multiple_of: Numbers of rows are a multiple of it.
        hidden_size: Width of the model where the budget counts attention, else ``None``.
        num_sides: Number of sequences of a row that the budget counts.
        sides: What the numbers are that a row of several sides is planned by; ``None`` for lengths.
    """

    max_tokens: int | None
    batch_size: int | None
    multiple_of: int
    rows_multiple_of: int
    hidden_size: int | None
    num_sides: int
    sides: Sides | None = None

    @property
    def unit(self) -> int:
        """Cost of a token without attention."""
        return 1 if self.hidden_size is None else 6 * self.hidden_size

    @property
    def budget(self) -> int | None:
        """Most that a batch may cost; ``None`` for no limit."""
        return None if self.max_tokens is None else self.max_tokens * self.unit

    def rounded(self, lengths: Lengths) -> Lengths:
        """Return the padded length of each length."""
        return -(-lengths // self.multiple_of) * self.multiple_of

    def costs(self, padded: Lengths) -> Lengths:
        """Return the cost of a row of each padded length, ``int64``."""
        return padded if self.hidden_size is None else self.unit * padded + padded**2

    def rows_of(self, length: int) -> int:
        """Return the most rows of a padded length that a batch may have.

        Raises:
            ValueError: Not even the least number of rows fits.
        """
        limits = [] if self.batch_size is None else [self.batch_size]
        if self.budget is not None:
            limits.append(self.budget // (int(self.costs(np.array(length))) * self.num_sides))
        rows = min(limits) // self.rows_multiple_of * self.rows_multiple_of
        if not rows:
            self.check_fit(length)
        return rows

    def check_fit(self, length: int) -> None:
        """Raise if the least number of rows of a padded length exceeds the budget.

        Raises:
            ValueError: It does; the message has the length and the budget.
        """
        if self.max_tokens is None:
            return
        rows = self.rows_multiple_of
        cost = -(-int(self.costs(np.array(length))) * rows // self.unit)
        if cost <= self.max_tokens:
            return
        what = f"sequence of {length:,} tokens" if rows == 1 else f"{rows} sequences of {length:,} tokens"
        counted = "" if self.hidden_size is None else f", which count as {cost:,},"
        also = "" if rows == 1 else ", lower rows_multiple_of"
        raise ValueError(
            f"{what}{counted} cannot fit max_tokens={self.max_tokens}; raise max_tokens{also} or set Tokenize(max_length=...)"
            f"{meant_as_rows(self.max_tokens)}"
        )
