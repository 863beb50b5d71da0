"""Pack whole sequences into rows of one length: a pure function of lengths.

Legend: ``N`` sequences, ``R`` rows, ``M`` moves.
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
    fullest row that has room for it, of equally full ones to that which has been so for longest, and to a new row where none
    has room.

    Args:
        lengths: ``int64 (N,)``, tokens of each sequence, descending, all positive. Equal ones are taken in the order given.
        row_length: Tokens of a row. Larger fills better: there are more ways to fill a row.

    Returns:
        The order, ``int64 (N,)``: positions in ``lengths``, row after row as rows were opened, and in a row longest first. And
        the cuts, ``int64 (R + 1,)``: row ``r`` holds ``order[cuts[r]:cuts[r + 1]]``.

    Raises:
        ValueError: A sequence is longer than ``row_length``, or has no tokens.
    """
    if not len(lengths):
        return np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    _check_fit(lengths, row_length)
    first, num_rows, each = _moves(lengths, row_length)
    taken = num_rows * each
    place = positions(taken)
    rows = np.repeat(first, taken) + place // np.repeat(each, taken)
    sizes = np.bincount(rows)
    order = np.argsort(rows.astype(np.uint16) if len(sizes) <= 1 << 16 else rows, kind="stable")  # 16 bits: radix sort
    return order, np.append(0, np.cumsum(sizes))


def _check_fit(lengths: Lengths, row_length: int) -> None:
    if lengths.min() < 1:
        raise ValueError(f"sequence must have at least 1 token, got {lengths.min()}")
    if lengths.max() > row_length:
        raise ValueError(
            f"sequence of {lengths.max():,} tokens cannot fit row_length={row_length}; "
            "raise row_length or set Pack(overflow=...)"
        )


def _moves(lengths: Lengths, row_length: int) -> npt.NDArray[np.int64]:
    """Place many sequences of one length at a time, into neighbouring rows that are equally full.

    The fullest row with room takes as many as fit before another takes any: with room for one more it is the fullest still.

    Returns:
        ``int64 (3, M)``, for each move: the first row, the number of rows, and how many sequences each of them takes.
    """
    starts = np.flatnonzero(np.diff(lengths, prepend=0))
    shortest = int(lengths.min())
    rooms = [row_length]  # that some row has, ascending, without those in which nothing fits
    stretches = {row_length: collections.deque([(0, len(lengths))])}  # by room, that first which has had it for longest
    moves: list[tuple[int, int, int]] = []
    for length, left in zip(lengths[starts].tolist(), np.diff(starts, append=len(lengths)).tolist(), strict=True):
        while left:
            at = bisect.bisect_left(rooms, length)
            room = rooms[at]
            first, stop = stretches[room].popleft()
            each = min(room // length, left)
            last = min(stop, first + left // each)
            if last < stop:
                stretches[room].appendleft((last, stop))
            elif not stretches[room]:
                del rooms[at], stretches[room]
            moves.append((first, last - first, each))
            left -= (last - first) * each
            room -= each * length
            if room in stretches:
                stretches[room].append((first, last))
            elif room >= shortest:
                bisect.insort(rooms, room)
                stretches[room] = collections.deque([(first, last)])
    return np.array(moves, dtype=np.int64).T
