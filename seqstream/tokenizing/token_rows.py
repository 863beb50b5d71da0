"""Token ids of many rows in one buffer, and how rows of it are dropped, shortened, cut and joined. Pure functions.

What is beside the ids, such as a label for each, goes where they go: places are worked out once and taken from every buffer.

Shapes: ``N`` rows, ``T`` ids of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Ids, Index, positions

_IDS_PER_SLICE = 256
"""A slice costs as much as gathering so many ids, at 1-2 ns each and more for the first touch of fresh memory."""

Flat: TypeAlias = npt.NDArray[Any]
"""A number for each id, ``(T,)``."""


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """Rows of ids: row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
        ids: ``int32 (T,)``, all rows one after the other.
        offsets: ``int64 (N + 1,)``, from 0 to ``T``.
        beside: Columns parallel to the ids, ``(T,)`` each.
    """

    ids: Ids
    offsets: Index
    beside: Mapping[str, Flat] = dataclasses.field(default_factory=dict)

    @classmethod
    def constant(cls, ids: Sequence[int], **beside: Sequence[int]) -> TokenRows:
        """Return one row, to be joined with every row of others."""
        columns = {name: np.array(values, np.int32) for name, values in beside.items()}
        return cls(np.array(ids, np.int32), np.array([0, len(ids)]), columns)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def span(self, row: int) -> slice:
        """Return where a row lies."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def picked(self, pick: Callable[[Flat], Flat], lengths: Index) -> TokenRows:
        """Return the rows that come of picking from each buffer alike, ``lengths`` ids in each."""
        return TokenRows(pick(self.ids), _offsets(lengths), {name: pick(values) for name, values in self.beside.items()})

    @functools.cached_property
    def lengths(self) -> Index:
        """Ids of each row, ``int64 (N,)``."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class SpecialCounts:
    """What stands around the own tokens of each row: as many special tokens before and after them, whatever the text.

    Attributes:
        before: Tokens before.
        after: Tokens after.
        closing: How many of those after end the text: of its pieces only the last has them.
    """

    before: int = 0
    after: int = 0
    closing: int = 0

    def __len__(self) -> int:
        return self.before + self.after

    @property
    def of_pieces(self) -> SpecialCounts:
        """What stands around each piece of a row."""
        return SpecialCounts(self.before, self.after - self.closing)


def keep_rows(rows: TokenRows, kept: Index) -> TokenRows:
    """Return the rows numbered ``kept``, ``int64``, ascending; the ids are not copied where only rows without ids go."""
    lengths = rows.lengths[kept]
    if lengths.sum() == len(rows.ids):
        return rows.picked(lambda values: values, lengths)
    return take_rows(rows, kept)


def take_rows(rows: TokenRows, taken: Index) -> TokenRows:
    """Return copies of the rows numbered ``taken``, ``int64``, in any order and as often as they are named."""
    lengths = rows.lengths[taken]
    return rows.picked(_taking(rows.offsets[taken], lengths), lengths)


def truncate(rows: TokenRows, frame: SpecialCounts, limit: int | Index, side: str) -> TokenRows:
    """Shorten rows to at most ``limit`` ids by dropping the last of their own tokens, or the first (``side="left"``).

    The special tokens around them stay. The ids are not copied where no row is too long.

    Args:
        rows: ``N`` rows.
        frame: The special tokens.
        limit: For all rows, or ``int64 (N,)`` for each.
        side: Where tokens are dropped.
    """
    lengths = rows.lengths
    limits = np.broadcast_to(np.asarray(limit, np.int64), lengths.shape)
    over = lengths > limits
    if not over.any():
        return rows
    kept = np.minimum(lengths, limits)
    head = np.full_like(limits, frame.before) if side == "left" else limits - frame.after
    if np.count_nonzero(over) * _IDS_PER_SLICE < len(rows.ids):
        return rows.picked(_leaving_out((rows.offsets[:-1] + head)[over], (lengths - limits)[over]), kept)
    head = np.where(over, head, lengths)
    tail = kept - head
    starts = np.stack([rows.offsets[:-1], rows.offsets[1:] - tail], axis=1).ravel()
    return rows.picked(_taking(starts, np.stack([head, tail], axis=1).ravel()), kept)


def longest_first(first: Index, second: Index, limit: int) -> tuple[Index, Index]:
    """Return how many tokens stay of two texts that share a row: the longer loses tokens until both are of one length.

    That is what `tokenizers` does, odd tokens included: what is left over when both are cut goes to the longer of the two, or
    to the second where they are equal.

    Args:
        first: Tokens of the first text of each row, ``int64 (N,)``.
        second: Tokens of the second.
        limit: Tokens for both.
    """
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    longer = np.minimum(longer, np.maximum(shorter, limit - shorter))
    both = shorter + longer > limit
    shorter, longer = np.where(both, limit // 2, shorter), np.where(both, limit - limit // 2, longer)
    swapped = first > second
    return np.where(swapped, longer, shorter), np.where(swapped, shorter, longer)


def split(rows: TokenRows, frame: SpecialCounts, limit: int) -> tuple[TokenRows, Index, Ids]:
    """Cut rows into pieces of at most ``limit`` ids, each with the special tokens of its row around it.

    Every token of a row's own is in exactly one piece, in order, and so are those that close a text. The ids are not copied
    where no row is too long.

    Returns:
        The pieces, ``N'`` of them; the row that each comes from, ``int64 (N',)``; and its number in that row from 0,
        ``int32 (N',)``.
    """
    frame = frame.of_pieces
    room = limit - len(frame)
    own = rows.lengths - len(frame)
    counts = np.maximum(1, -(-own // room))
    source = np.repeat(np.arange(len(rows)), counts)
    number = positions(counts)
    if len(source) == len(rows):
        return rows, source, number.astype(np.int32)
    size = np.minimum(room, own[source] - number * room)
    start, end = rows.offsets[source], rows.offsets[source + 1]
    starts = np.stack([start, start + frame.before + number * room, end - frame.after], axis=1).ravel()
    lengths = np.stack([np.full_like(size, frame.before), size, np.full_like(size, frame.after)], axis=1).ravel()
    return rows.picked(_taking(starts, lengths), size + len(frame)), source, number.astype(np.int32)


def join(parts: Sequence[TokenRows], num_rows: int) -> TokenRows:
    """Put rows together from parts: row ``i`` of the first, row ``i`` of the second, and so on.

    Args:
        parts: Rows with the same columns beside them, ``num_rows`` of them, or one that is put into every row.
        num_rows: Rows there will be.
    """
    parts = [part for part in parts if len(part.ids)] or parts[:1]
    if len(parts) == 1 and len(parts[0]) == num_rows:
        return parts[0]
    bases = _offsets(np.array([len(part.ids) for part in parts]))
    shape = (num_rows, len(parts))
    starts, lengths = np.empty(shape, np.int64), np.empty(shape, np.int64)
    for number, part in enumerate(parts):
        starts[:, number], lengths[:, number] = part.offsets[:-1] + bases[number], part.lengths
    flat = TokenRows(
        np.concatenate([part.ids for part in parts]),
        bases,
        {name: np.concatenate([part.beside[name] for part in parts]) for name in parts[0].beside},
    )
    return flat.picked(_taking(starts.ravel(), lengths.ravel()), lengths.sum(axis=1))


def _offsets(lengths: Index) -> Index:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _leaving_out(starts: Index, lengths: Index) -> Callable[[Flat], Flat]:
    """Copy all but some ranges of a buffer, ascending."""
    begins, ends = np.append(0, starts + lengths), starts.tolist()
    return lambda values: _slices(values, begins.tolist(), [*ends, len(values)])


def _taking(starts: Index, lengths: Index) -> Callable[[Flat], Flat]:
    """Copy ranges of a buffer behind each other; they may overlap: by slices if they are long, else by one gather."""
    if lengths.sum() > _IDS_PER_SLICE * len(lengths):
        begins, ends = starts.tolist(), (starts + lengths).tolist()
        return lambda values: _slices(values, begins, ends)
    shift = starts - _offsets(lengths)[:-1]
    places = np.repeat(shift, lengths) + np.arange(lengths.sum())
    return lambda values: values[places]


def _slices(values: Flat, begins: list[int], ends: list[int]) -> Flat:
    return np.concatenate([values[begin:end] for begin, end in zip(begins, ends, strict=True)])
