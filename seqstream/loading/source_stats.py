"""Counts of what each source of a mixture has given so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqstream.records import Json


@dataclasses.dataclass(frozen=True)
class SourceStats:
    """What one source of a mixture has given.

    Attributes:
        rows: Rows handed out.
        tokens: Real tokens in them.
        share: Share of the tokens of all sources, 0 to 1.
        epochs: Passes over the source in this epoch of the loader, fractions included.
        padding: Share of the slots of its rows that are padding, 0 to 1.
    """

    rows: int
    tokens: int
    share: float
    epochs: float
    padding: float


@dataclasses.dataclass(frozen=True, eq=False)
class StatsBySource(Mapping[str, SourceStats]):
    """The counts of each source by name; printed as a table.

    Attributes:
        names: Names of the sources.
        counts: ``float64 (4, S)``, rows, tokens, slots and passes of each.
    """

    names: Sequence[str] = ()
    counts: npt.NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((4, 0)))

    def plus(self, other: StatsBySource) -> StatsBySource:
        """Return the sum of both; passes are taken from the other, the later of the two."""
        if not other.names:
            return self
        if not self.names:
            return other
        if self.names == other.names:
            counts = self.counts + other.counts
            counts[3] = other.counts[3]
            return StatsBySource(self.names, counts)
        merged = np.zeros((4, len(other.names)))
        for number, name in enumerate(other.names):
            if name in self.names:
                merged[:3, number] = self.counts[:3, self.names.index(name)]
        gone = [number for number, name in enumerate(self.names) if name not in other.names]
        names = (*other.names, *(self.names[number] for number in gone))
        merged[:3] += other.counts[:3]
        merged[3] = other.counts[3]
        return StatsBySource(names, np.concatenate([merged, self.counts[:, gone]], axis=1))

    def minus(self, earlier: StatsBySource) -> StatsBySource:
        """Return what was counted after ``earlier``; passes are not subtracted."""
        counts = self.counts.copy()
        for number, name in enumerate(self.names):
            if name in earlier.names:
                counts[:3, number] -= earlier.counts[:3, earlier.names.index(name)]
        return StatsBySource(self.names, counts)

    def __getitem__(self, name: str) -> SourceStats:
        if name not in self.names:
            raise KeyError(name)
        rows, tokens, slots, passes = self.counts[:, self.names.index(name)].tolist()
        share = tokens / max(1.0, float(self.counts[1].sum()))
        return SourceStats(int(rows), int(tokens), share, passes, 1 - tokens / slots if slots else 0.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StatsBySource) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        width = max([len("source"), *map(len, self.names)])
        lines = [f"{'source':{width}}  {'rows':>12}  {'tokens':>16}  {'share':>7}  {'epochs':>8}  {'padding':>7}"]
        for name, each in self.items():
            lines.append(
                f"{name:{width}}  {each.rows:12,}  {each.tokens:16,}  {each.share:7.2%}  {each.epochs:8.3f}  "
                f"{each.padding:7.2%}"
            )
        return "\n".join(lines)

    def to_json(self) -> Json:
        """Return the counts by name: rows, tokens, slots and passes."""
        return {name: [round(value, 3) for value in self.counts[:, number].tolist()] for number, name in enumerate(self.names)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Sequence[float]]) -> StatsBySource:
        """Return the counts that `to_json` wrote."""
        return cls(tuple(entry), np.array(list(entry.values()), dtype=np.float64).T.reshape(4, -1))
