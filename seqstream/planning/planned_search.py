"""How many rows of a window, from its first, are planned now: a pure search, which is given the lengths it needs as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

from seqstream.planning.length_counts import LengthCounts

_NUM_GUESSES = 6
"""So many attempts guess by proportion; those that follow halve."""


class PlannedSearch(Protocol):
    """The number of rows that are planned now, or the state of the search for it: frozen, and the same on every rank."""

    @property
    def num_planned(self) -> int:
        """Number of rows that are planned; the best one so far where lengths are needed."""

    @property
    def num_needed(self) -> int | None:
        """Number of first rows of the window whose lengths are needed next; ``None`` if the search is at its end."""

    def with_lengths(self, runs: LengthCounts) -> PlannedSearch:
        """Return the search that knows the lengths of the first ``num_needed`` rows."""


@dataclasses.dataclass(frozen=True)
class PlannedRows:
    """Rows that are planned without a search.

    Attributes:
        num_planned: Number of rows.
    """

    num_planned: int
    num_needed: None = None

    def with_lengths(self, runs: LengthCounts) -> PlannedSearch:
        return self


@dataclasses.dataclass(frozen=True)
class FillingSearch:
    """The search for the most sequences that fill at most a wanted number of packed rows: by guessing, then by halving.

    Attributes:
        num_packed: Returns the number of packed rows that sequences fill.
        wanted: The wanted number.
        may_lack: Number of missing packed rows at which the search may end.
        attempts: Largest number of attempts.
        more: The fewest sequences known to fill more packed rows than wanted, and the number of rows that they fill.
        fewer: The most sequences known to fill no more than wanted, and the number of rows that they fill.
        attempt: Number of attempts so far.
    """

    num_packed: Callable[[LengthCounts], int]
    wanted: int
    may_lack: int
    attempts: int
    more: tuple[int, int]
    fewer: tuple[int, int] = (0, 0)
    attempt: int = 0

    @property
    def num_planned(self) -> int:
        return self.fewer[0] or self.more[0]

    @property
    def num_needed(self) -> int | None:
        lacking = self.wanted - self.fewer[1]
        if self.attempt == self.attempts or lacking <= self.may_lack:
            return None
        share = lacking / (self.more[1] - self.fewer[1]) if self.attempt < _NUM_GUESSES else 0.5
        num = self.fewer[0] + math.floor(share * (self.more[0] - self.fewer[0]))
        return num if self.fewer[0] < num < self.more[0] else None

    def with_lengths(self, runs: LengthCounts) -> FillingSearch:
        found = self.num_needed or 0, self.num_packed(runs)
        more, fewer = (found, self.fewer) if found[1] > self.wanted else (self.more, found)
        return dataclasses.replace(self, more=more, fewer=fewer, attempt=self.attempt + 1)
