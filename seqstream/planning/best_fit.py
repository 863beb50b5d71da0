"""Pack whole sequences into rows of one length by best fit decreasing: a pure function of lengths.

Legend: ``N`` sequences, ``D`` distinct lengths, ``R`` packed rows, ``M`` moves of several sequences.
"""

from __future__ import annotations

import bisect
import collections

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Cuts, Index, Lengths, positions


def pack_rows(lengths: Lengths, row_length: int) -> tuple[Index, Cuts]:
    """Pack sequences into rows by best fit decreasing.

    Every sequence is in one row, whole, and no row holds more than ``row_length`` tokens. Each sequence in turn goes to the
    fullest row with enough room, of equally full rows to the one that has had this room for longest, or to a new row.

    Args:
        lengths: ``int64 (N,)``, tokens of each sequence, descending, all positive. Equal lengths keep their order.
        row_length: Tokens of a row. Longer rows are filled better, as there are more ways to fill them.

    Returns:
        The order, ``int64 (N,)``: indices of ``lengths``, row after row in the order in which rows were opened, longest first
        within a row. And the cuts, ``int64 (R + 1,)``: row ``r`` holds ``order[cuts[r]:cuts[r + 1]]``.

    Raises:
        ValueError: A sequence is longer than ``row_length``, or has no tokens.
    """
    if not len(lengths):
        return np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    _check_fit(lengths, row_length)
    starts = np.flatnonzero(np.diff(lengths, prepend=0))
    first_rows, num_rows, per_row = _moves(lengths[starts], np.diff(starts, append=len(lengths)), row_length)
    moved = num_rows * per_row
    rows = np.repeat(first_rows, moved) + positions(moved) // np.repeat(per_row, moved)
    sizes = np.bincount(rows)
    order = np.argsort(rows.astype(np.uint16) if len(sizes) <= 1 << 16 else rows, kind="stable")  # 16 bits: radix sort
    return order, np.append(0, np.cumsum(sizes))


def num_packed_rows(lengths: Lengths, counts: Index, row_length: int) -> int:
    """Return the number of rows that `pack_rows` fills, without packing them.

    Args:
        lengths: ``int64 (D,)``, distinct tokens of sequences, descending, all positive.
        counts: ``int64 (D,)``, number of sequences of each length, all positive.
        row_length: Tokens of a row.

    Raises:
        ValueError: A sequence is longer than ``row_length``, or has no tokens.
    """
    if not len(lengths):
        return 0
    _check_fit(lengths, row_length)
    first_rows, num_rows, _ = _moves(lengths, counts, row_length)
    return int((first_rows + num_rows).max())


def _check_fit(lengths: Lengths, row_length: int) -> None:
    if lengths.min() < 1:
        raise ValueError(f"sequence must have at least 1 token, got {lengths.min()}")
    if lengths.max() > row_length:
        raise ValueError(
            f"sequence of {lengths.max():,} tokens cannot fit row_length={row_length}; "
            "raise row_length or set Pack(overflow=...)"
        )


def _moves(lengths: Lengths, counts: Index, row_length: int) -> npt.NDArray[np.int64]:
    """Return moves, each of several sequences of one length into neighbouring rows that are equally full.

    The fullest row with room takes as many sequences as fit before another takes any, as it stays the fullest.

    Args:
        lengths: ``int64 (D,)``, distinct tokens of sequences, descending.
        counts: ``int64 (D,)``, number of sequences of each length.
        row_length: Tokens of a row.

    Returns:
        ``int64 (3, M)``, for each move: the first row, the number of rows, and the number of sequences that each row takes.
    """
    shortest = int(lengths[-1])
    rooms = [row_length]  # room of at least one row, ascending, where the shortest sequence fits
    rows_with = {row_length: collections.deque([(0, int(counts.sum()))])}  # ranges of rows by room, in the order of getting it
    moves: list[tuple[int, int, int]] = []
    for length, left in zip(lengths.tolist(), counts.tolist(), strict=True):
        while left:
            at = bisect.bisect_left(rooms, length)
            room = rooms[at]
            first, stop = rows_with[room].popleft()
            per_row = min(room // length, left)
            end = min(stop, first + left // per_row)
            if end < stop:
                rows_with[room].appendleft((end, stop))
            elif not rows_with[room]:
                del rooms[at], rows_with[room]
            moves.append((first, end - first, per_row))
            left -= (end - first) * per_row
            room -= per_row * length
            if room in rows_with:
                rows_with[room].append((first, end))
            elif room >= shortest:
                bisect.insort(rooms, room)
                rows_with[room] = collections.deque([(first, end)])
    return np.array(moves, dtype=np.int64).T
