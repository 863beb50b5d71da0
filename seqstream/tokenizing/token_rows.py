"""Token ids of many rows in one buffer, and pure functions that drop, shorten, split and join rows.

Parallel columns, such as a label for each id, are changed as the ids are: indices are computed once, for every buffer.

Shapes: ``N`` rows, ``T`` ids of all rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Ids, Index, positions, ranges

_IDS_PER_SLICE = 256
"""Number of ids that are gathered in the time of one slice: 1-2 ns per id, more at the first touch of fresh memory."""

Flat: TypeAlias = npt.NDArray[Any]
"""One number for each id, ``(T,)``."""


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """Rows of ids: row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
        ids: ``int32 (T,)``, all rows one after the other.
        offsets: ``int64 (N + 1,)``, from 0 to ``T``.
        parallel: Other columns with one value per id, ``(T,)`` each, such as labels.
    """

    ids: Ids
    offsets: Index
    parallel: Mapping[str, Flat] = dataclasses.field(default_factory=dict)

    @classmethod
    def constant(cls, ids: Sequence[int], **parallel: Sequence[int]) -> TokenRows:
        """Return a single row, which `join` repeats in every row."""
        columns = {name: np.array(values, np.int32) for name, values in parallel.items()}
        return cls(np.array(ids, np.int32), np.array([0, len(ids)]), columns)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def span(self, row: int) -> slice:
        """Return the range of a row in the buffer."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def picked(self, pick: Callable[[Flat], Flat], lengths: Index) -> TokenRows:
        """Return rows of ``lengths`` ids, ``int64 (n,)``, whose buffers are ``pick`` of the buffers of these rows."""
        return TokenRows(pick(self.ids), _offsets(lengths), {name: pick(values) for name, values in self.parallel.items()})

    @functools.cached_property
    def lengths(self) -> Index:
        """Ids of each row, ``int64 (N,)``."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class SpecialCounts:
    """Number of special tokens around a row's own tokens, the same for all rows.

    Attributes:
        before: Special tokens before the own tokens.
        after: Special tokens after them, those of ``end`` included.
        end: Tokens of `Tokenize(end=...)`, 0 or 1: only the last piece of a row has them.
    """

    before: int = 0
    after: int = 0
    end: int = 0

    def __len__(self) -> int:
        return self.before + self.after

    @property
    def of_pieces(self) -> SpecialCounts:
        """Special tokens around each piece of a row."""
        return SpecialCounts(self.before, self.after - self.end)


def keep_rows(rows: TokenRows, kept: Index) -> TokenRows:
    """Return the rows ``kept``, ``int64 (n,)``, ascending; the ids are not copied if all other rows are empty."""
    lengths = rows.lengths[kept]
    if lengths.sum() == len(rows.ids):
        return rows.picked(lambda values: values, lengths)
    return take_token_rows(rows, kept)


def take_token_rows(rows: TokenRows, taken: Index) -> TokenRows:
    """Return a copy of the rows ``taken``, ``int64 (n,)``, in any order; a row may be taken several times."""
    lengths = rows.lengths[taken]
    return rows.picked(_take_ranges(rows.offsets[taken], lengths), lengths)


def truncate(rows: TokenRows, special: SpecialCounts, limit: int | Index, side: str) -> TokenRows:
    """Shorten rows to at most ``limit`` ids by dropping the last of their own tokens, or the first (``side="left"``).

    Special tokens are kept. The ids are not copied if no row is too long.

    Args:
        rows: ``N`` rows.
        special: Special tokens of each row.
        limit: Most tokens of a row, special tokens included: one limit for all rows, or ``int64 (N,)``.
        side: Side on which tokens are dropped.
    """
    lengths = rows.lengths
    limits = np.broadcast_to(np.asarray(limit, np.int64), lengths.shape)
    too_long = lengths > limits
    if not too_long.any():
        return rows
    kept = np.minimum(lengths, limits)
    head = np.full_like(limits, special.before) if side == "left" else limits - special.after
    if np.count_nonzero(too_long) * _IDS_PER_SLICE < len(rows.ids):
        return rows.picked(_drop_ranges((rows.offsets[:-1] + head)[too_long], (lengths - limits)[too_long]), kept)
    head = np.where(too_long, head, lengths)
    tail = kept - head
    starts = np.stack([rows.offsets[:-1], rows.offsets[1:] - tail], axis=1).ravel()
    return rows.picked(_take_ranges(starts, np.stack([head, tail], axis=1).ravel()), kept)


def longest_first(first: Index, second: Index, limit: int) -> tuple[Index, Index]:
    """Return how many tokens of the two texts of each row are kept: the longer text loses tokens until both are equally long.

    That is what `tokenizers` does, for odd limits as well: if both texts are cut, the one token that remains goes to the longer
    text, or to the second if both have the same length.

    Args:
        first: ``int64 (N,)``, tokens of the first text of each row.
        second: ``int64 (N,)``, tokens of the second text.
        limit: Most tokens of both texts together.

    Returns:
        Tokens of the first and of the second text, ``int64 (N,)`` each.
    """
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    longer = np.minimum(longer, np.maximum(shorter, limit - shorter))
    are_both_cut = shorter + longer > limit
    shorter, longer = np.where(are_both_cut, limit // 2, shorter), np.where(are_both_cut, limit - limit // 2, longer)
    is_first_longer = first > second
    return np.where(is_first_longer, longer, shorter), np.where(is_first_longer, shorter, longer)


def split(rows: TokenRows, special: SpecialCounts, limit: int) -> tuple[TokenRows, Index, Ids]:
    """Cut rows into pieces of at most ``limit`` ids, each with the special tokens of its row around it.

    Each of a row's own tokens is in exactly one piece, in order, and so is the token of ``special.end``. The ids are not copied
    if no row is too long.

    Args:
        rows: ``N`` rows.
        special: Special tokens of each row.
        limit: Most tokens of a piece, special tokens included.

    Returns:
        The ``N'`` pieces; the row of each, ``int64 (N',)``; and its number in that row from 0, ``int32 (N',)``.
    """
    special = special.of_pieces
    room = limit - len(special)
    own = rows.lengths - len(special)
    counts = np.maximum(1, -(-own // room))
    source = np.repeat(np.arange(len(rows)), counts)
    number = positions(counts)
    if len(source) == len(rows):
        return rows, source, number.astype(np.int32)
    size = np.minimum(room, own[source] - number * room)
    begin, end = rows.offsets[source], rows.offsets[source + 1]
    starts = np.stack([begin, begin + special.before + number * room, end - special.after], axis=1).ravel()
    lengths = np.stack([np.full_like(size, special.before), size, np.full_like(size, special.after)], axis=1).ravel()
    return rows.picked(_take_ranges(starts, lengths), size + len(special)), source, number.astype(np.int32)


def join(parts: Sequence[TokenRows], num_rows: int) -> TokenRows:
    """Return rows of several parts each: row ``i`` is row ``i`` of the first part, then row ``i`` of the second, and so on.

    Args:
        parts: ``num_rows`` rows each, or a single row that is repeated in every row; all with the same parallel columns.
        num_rows: Number of rows of the result.
    """
    parts = [part for part in parts if len(part.ids)] or parts[:1]
    if len(parts) == 1 and len(parts[0]) == num_rows:
        return parts[0]
    bases = _offsets(np.array([len(part.ids) for part in parts]))
    shape = (num_rows, len(parts))
    starts, lengths = np.empty(shape, np.int64), np.empty(shape, np.int64)
    for column, part in enumerate(parts):
        starts[:, column], lengths[:, column] = part.offsets[:-1] + bases[column], part.lengths
    flat = TokenRows(
        np.concatenate([part.ids for part in parts]),
        bases,
        {name: np.concatenate([part.parallel[name] for part in parts]) for name in parts[0].parallel},
    )
    return flat.picked(_take_ranges(starts.ravel(), lengths.ravel()), lengths.sum(axis=1))


def _offsets(lengths: Index) -> Index:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _drop_ranges(starts: Index, lengths: Index) -> Callable[[Flat], Flat]:
    """Return a function that copies a buffer without some ranges, which ascend."""
    begins, ends = np.append(0, starts + lengths).tolist(), starts.tolist()
    return lambda values: _join_slices(values, begins, [*ends, len(values)])


def _take_ranges(starts: Index, lengths: Index) -> Callable[[Flat], Flat]:
    """Return a function that copies ranges of a buffer one after the other: by slices if they are long, else by one gather."""
    if lengths.sum() > _IDS_PER_SLICE * len(lengths):
        begins, ends = starts.tolist(), (starts + lengths).tolist()
        return lambda values: _join_slices(values, begins, ends)
    indices = ranges(starts, lengths)
    return lambda values: values[indices]


def _join_slices(values: Flat, begins: list[int], ends: list[int]) -> Flat:
    return np.concatenate([values[begin:end] for begin, end in zip(begins, ends, strict=True)])
