"""What the numbers mean by which a row is planned: lengths of sequences, their number, and the number of rows of a group."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqstream.arrays import Lengths
from seqstream.records import ids_columns, lengths_column


@dataclasses.dataclass(frozen=True)
class Sides:
    """The meaning of each of the ``S`` numbers by which a row is planned, or a group of rows.

    Attributes:
        lengths: Which of them are lengths of sequences.
        counts: For each of these, which of them is the number of sequences of at most that length; ``None`` for one sequence.
        group: Which of them is the number of rows of the group; ``None`` where rows are planned one by one.
    """

    lengths: tuple[int, ...]
    counts: tuple[int | None, ...]
    group: int | None = None

    @classmethod
    def plain(cls, num: int) -> Sides:
        """Return the meaning of ``num`` lengths, of one sequence each."""
        return cls(tuple(range(num)), (None,) * num)

    @classmethod
    def of(cls, columns: Sequence[str], *, has_groups: bool) -> Sides | None:
        """Return the meaning of the numbers of columns, and of groups after these; ``None`` where all are lengths.

        >>> Sides.of(("choices_ids", "choices_lengths"), has_groups=True)
        Sides(lengths=(0,), counts=(1,), group=2)
        """
        ids = ids_columns(columns)
        if not has_groups and ids == columns:
            return None
        counts = (lengths_column(name) for name in ids)
        of_ids = tuple(columns.index(name) if name in columns else None for name in counts)
        return cls(tuple(map(columns.index, ids)), of_ids, len(columns) if has_groups else None)

    @property
    def numbers(self) -> list[int]:
        """Which of them are no lengths."""
        return [at for at in (*self.counts, self.group) if at is not None]

    def tokens(self, sides: Lengths) -> Lengths:
        """Return the padded tokens of a row of each ``(..., S)``, ``int64 (...)``."""
        pairs = zip(self.lengths, self.counts, strict=True)
        parts = [sides[..., at] if count is None else sides[..., at] * sides[..., count] for at, count in pairs]
        tokens: Lengths = np.add.reduce(parts)
        return tokens

    def rows(self, sides: Lengths) -> Lengths:
        """Return the number of rows that are planned together, ``int64 (...)``: those of a group, else 1."""
        return np.ones(sides.shape[:-1], dtype=np.int64) if self.group is None else sides[..., self.group]

    def costs(self, sides: Lengths) -> Lengths:
        """Return the padded tokens of a row or group of each ``(..., S)``, ``int64 (...)``."""
        return self.tokens(sides) * self.rows(sides)

    def parts(self, sides: Lengths) -> Lengths:
        """Return what each sequence contributes to the costs, ``int64 (..., number of sequences)``."""
        alone = [Sides((at,), (count,), self.group) for at, count in zip(self.lengths, self.counts, strict=True)]
        return np.stack([each.costs(sides) for each in alone], axis=-1)

    def rounded(self, sides: Lengths, multiple_of: int) -> Lengths:
        """Return the numbers with lengths rounded up to a multiple."""
        rounded = sides.copy()
        for at in self.lengths:
            rounded[..., at] = -(-sides[..., at] // multiple_of) * multiple_of
        return rounded
