"""Token ids of many rows in one buffer, and how rows of it are dropped, shortened and cut. Pure functions.

Shapes: ``N`` rows, ``T`` ids of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_IDS_PER_SLICE = 256
"""Rows are cut by slices where the ids of all rows are so many times as many as the rows to cut, else by one gather."""

Ids: TypeAlias = npt.NDArray[np.int32]
Index: TypeAlias = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """Rows of ids: row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
        ids: ``int32 (T,)``, all rows one after the other.
        offsets: ``int64 (N + 1,)``, from 0 to ``T``.
    """

    ids: Ids
    offsets: Index

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @functools.cached_property
    def lengths(self) -> Index:
        """Ids of each row, ``int64 (N,)``."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around each text: as many special tokens before it and after it, whatever the text."""

    before: int = 0
    after: int = 0

    def __len__(self) -> int:
        return self.before + self.after


def keep_rows(rows: TokenRows, kept: Index) -> TokenRows:
    """Return the rows numbered ``kept``, ``int64``, ascending; the ids are not copied where only rows without ids go."""
    lengths = rows.lengths[kept]
    offsets = _offsets(lengths)
    if offsets[-1] == len(rows.ids):
        return TokenRows(rows.ids, offsets)
    return TokenRows(_gather(rows.ids, rows.offsets[kept], lengths), offsets)


def truncate(rows: TokenRows, frame: Frame, limit: int, side: str) -> TokenRows:
    """Shorten rows to at most ``limit`` ids by dropping the last of their own tokens, or the first (``side="left"``).

    The special tokens around them stay. The ids are not copied where no row is too long.
    """
    lengths = rows.lengths
    over = lengths > limit
    if not over.any():
        return rows
    if np.count_nonzero(over) * _IDS_PER_SLICE < len(rows.ids):
        begin = rows.offsets[:-1][over] + (frame.before if side == "left" else limit - frame.after)
        return TokenRows(_cut_out(rows.ids, begin, lengths[over] - limit), _offsets(np.minimum(lengths, limit)))
    head = np.where(over, frame.before if side == "left" else limit - frame.after, lengths)
    tail = np.where(over, limit - head, 0)
    starts = np.stack([rows.offsets[:-1], rows.offsets[1:] - tail], axis=1).ravel()
    return TokenRows(_gather(rows.ids, starts, np.stack([head, tail], axis=1).ravel()), _offsets(head + tail))


def split(rows: TokenRows, frame: Frame, limit: int) -> tuple[TokenRows, Index, Ids]:
    """Cut rows into pieces of at most ``limit`` ids, each with the special tokens of its row around it.

    Every token of a row's own is in exactly one piece, in order. The ids are not copied where no row is too long.

    Returns:
        The pieces, ``N'`` of them; the row that each comes from, ``int64 (N',)``; and its number in that row from 0,
        ``int32 (N',)``.
    """
    room = limit - len(frame)
    own = rows.lengths - len(frame)
    counts = np.maximum(1, -(-own // room))
    source = np.repeat(np.arange(len(rows)), counts)
    number = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    if len(source) == len(rows):
        return rows, source, number.astype(np.int32)
    size = np.minimum(room, own[source] - number * room)
    start, end = rows.offsets[source], rows.offsets[source + 1]
    starts = np.stack([start, start + frame.before + number * room, end - frame.after], axis=1).ravel()
    lengths = np.stack([np.full_like(size, frame.before), size, np.full_like(size, frame.after)], axis=1).ravel()
    return TokenRows(_gather(rows.ids, starts, lengths), _offsets(size + len(frame))), source, number.astype(np.int32)


def _cut_out(ids: Ids, starts: Index, lengths: Index) -> Ids:
    """Copy all but some ranges of the buffer, ascending; a slice costs as much as gathering some hundred ids."""
    begins = np.append(0, starts + lengths).tolist()
    ends = np.append(starts, len(ids)).tolist()
    return np.concatenate([ids[begin:end] for begin, end in zip(begins, ends, strict=True)])


def _offsets(lengths: Index) -> Index:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _gather(ids: Ids, starts: Index, lengths: Index) -> Ids:
    """Copy ranges of the buffer behind each other; they may overlap (1-2 ns an id, whatever the size of the ranges)."""
    shift = starts - _offsets(lengths)[:-1]
    copied: Ids = ids[np.repeat(shift, lengths) + np.arange(lengths.sum())]
    return copied
