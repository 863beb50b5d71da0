"""The limits of a batch of rows of several sides, or of groups of rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqstream.arrays import Lengths
from seqstream.planning.bucket_cuts import fitting_rows
from seqstream.planning.sides import Sides


class TooLargeError(ValueError):
    """A row, or a group of rows, is larger than a batch; ``sides``, ``int64 (S,)``, are its numbers."""

    def __init__(self, message: str, sides: Lengths) -> None:
        super().__init__(message)
        self.sides = sides


@dataclasses.dataclass(frozen=True)
class SideLimits:
    """The limits of a batch, of all ranks that share it.

    Attributes:
        sides: What the numbers of each side are.
        max_tokens: Budget of a rank's batch in padded tokens; ``None`` for none.
        max_rows: Most rows of a rank's batch; ``None`` for no limit.
        world_size: Number of ranks.
    """

    sides: Sides
    max_tokens: int | None
    max_rows: int | None
    world_size: int

    def most(self, longest: Lengths) -> Lengths:
        """Return the most rows, or groups, of a batch with the greatest numbers ``(..., S)`` of its rows, ``int64 (...)``."""
        return fitting_groups(self.sides, longest, self.max_tokens, self.max_rows) * self.world_size

    def most_by_cost(self, largest: int) -> Lengths:
        """Return about the most rows of a batch by the cost of each, from 0 to ``largest``."""
        return fitting_rows(np.maximum(np.arange(largest + 1), 1), self.max_tokens, self.max_rows) * self.world_size

    def check_fit(self, lengths: Lengths) -> None:
        """Raise if a row or group alone exceeds a limit.

        Args:
            lengths: ``int64 (N, S)``, of at least one row.

        Raises:
            TooLargeError: One does; the message has its numbers and the limit.
        """
        costs, num_rows = self.sides.costs(lengths), self.sides.rows(lengths)
        if self.max_rows is not None and num_rows.max() > self.max_rows:
            what = f"group of {num_rows.max():,} rows cannot fit batch_size={self.max_rows}"
            raise TooLargeError(f"{what}; raise batch_size or make groups smaller", lengths[num_rows.argmax()])
        if self.max_tokens is None or costs.max() <= self.max_tokens:
            return
        worst, fits = lengths[costs.argmax()], f"cannot fit max_tokens={self.max_tokens}"
        remedy = "raise max_tokens or set Tokenize(max_length=...)"
        if self.sides.group is not None:
            what = f"group of {self.sides.rows(worst):,} rows of up to {self.sides.tokens(worst):,} tokens"
            raise TooLargeError(f"{what} {fits}; {remedy}, or make groups smaller", worst)
        *several, last = (
            f"{worst[at]:,}" if count is None or worst[count] == 1 else f"{worst[count]:,} x {worst[at]:,}"
            for at, count in zip(self.sides.lengths, self.sides.counts, strict=True)
        )
        what = f"sequences of {', '.join(several)} and {last}" if several else f"sequences of {last}"
        raise TooLargeError(f"{what} tokens {fits} together; {remedy}", worst)


def fitting_groups(sides: Sides, longest: Lengths, max_tokens: int | None, max_rows: int | None) -> Lengths:
    """Return the most rows, or groups, of a batch by the greatest numbers of its rows, ``(..., S)``, of which one fits."""
    limits = [] if max_tokens is None else [max_tokens // np.maximum(sides.costs(longest), 1)]
    if max_rows is not None:
        limits.append(max_rows // np.maximum(sides.rows(longest), 1))
    if not limits:
        raise ValueError("max_tokens or max_rows must be given, got neither")
    most: Lengths = np.minimum.reduce(limits)
    return most
