"""Files of ids without an index, in which a token ends each document, or begins it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import take_rows
from seqstream.records import Json
from seqstream.sources.locations import Location
from seqstream.sources.tokens.file_arrays import ArraySpec, FileArray
from seqstream.sources.tokens.flat_tokens import FlatStore

_FIRST_SEARCH = 1 << 16
_LONGEST_SEARCH = 1 << 24
"""Tokens in which the next document is searched at a time."""


class DelimitedStore(FlatStore):
    """Documents that a token bounds; rows keep this token.

    A block has the rows that begin in its range of ids, which a scan of this range finds. How many there are in each block, and
    so the number of a row, is known after one scan of all files: see `count_rows`.

    Args:
        kind: Name of the format.
        ids: The array of ids of each file.
        token: The token that bounds documents.
        begins: Whether each document begins with the token; otherwise it ends with it. What lies in a file before its first
            token, or after its last, is a row, too.
        mmap: Whether files are mapped into memory.
        block_bytes: Size of a block; by default 256 KiB, and less in a small corpus.

    Raises:
        ValueError: The ids of a file cannot be ``token``.
    """

    def __init__(
        self,
        kind: str,
        ids: Sequence[ArraySpec],
        *,
        token: int,
        begins: bool = False,
        mmap: bool = True,
        block_bytes: int | None = None,
    ) -> None:
        super().__init__(kind, ids, mmap=mmap, block_bytes=block_bytes)
        self._token = token
        self._shift = 0 if begins else 1
        for spec in ids:
            if not np.iinfo(spec.dtype).min <= token <= np.iinfo(spec.dtype).max:
                raise ValueError(f"end must be an id that {spec.dtype} can hold, got {token:,} for {spec.path}; check dtype")
        self._counts: dict[int, Index] = {}
        self._first_rows: Index | None = None

    @property
    def num_rows(self) -> int | None:
        return None if self._first_rows is None else int(self._first_rows[-1])

    def count_rows(self) -> int:
        """Return the number of rows; the first call reads all files once."""
        return int(self._count()[-1])

    def read(self, block: int) -> pa.Table:
        file, start, stop = self._range_of(block)
        values = self._files.open(self._ids[file])
        starts = self._starts(values, start, stop)
        if not len(starts):
            return self._table(values[0:0], np.zeros(1, dtype=np.int64), "")
        end = self._next_start(values, stop)
        if len(starts) == 1 and starts[0] == 0 and end == len(values) > self._block_size:
            self._check_token(file, values)
        offsets = np.append(starts, end) - starts[0]
        return self._table(values[int(starts[0]) : end], offsets, f"a row of {self._ids[file].path} that tokens bound")

    def location_of_row(self, row: int) -> Location:
        first_rows = self._count()
        block = int(np.searchsorted(first_rows, row, side="right")) - 1
        return self.location(block, row - int(first_rows[block]))

    def fingerprint(self) -> Json:
        return {**super().fingerprint(), "token": self._token, "begins": not self._shift}

    def _first_row(self, file: int, block: int) -> int:
        return int(self._counts_of(file)[:block].sum())

    def _groups(self, rows: Index) -> Index:
        return np.searchsorted(self._count(), rows, side="right") - 1

    def _take_from(self, group: int, rows: Index) -> pa.Table:
        return take_rows(self.read(group), rows - self._count()[group])

    def _count(self) -> Index:
        """Return the number of the first row of each block, and of all rows, ``int64 (blocks + 1,)``."""
        if self._first_rows is None:
            counts = [self._counts_of(file) for file in range(len(self._ids))]
            self._first_rows = np.append(0, np.cumsum(np.concatenate(counts))).astype(np.int64)
        return self._first_rows

    def _counts_of(self, file: int) -> Index:
        """Return the number of rows of each block of a file."""
        if file not in self._counts:
            blocks = range(int(self._first_blocks[file]), int(self._first_blocks[file + 1]))
            values = self._files.open(self._ids[file])
            self._counts[file] = np.array([len(self._starts(values, *self._range_of(block)[1:])) for block in blocks])
        return self._counts[file]

    def _starts(self, values: FileArray, start: int, stop: int) -> Index:
        """Return where documents begin in a range of tokens."""
        first = max(0, start - self._shift)
        found: Index = np.flatnonzero(values[first : max(first, stop - self._shift)] == self._token) + (first + self._shift)
        is_new = start == 0 < stop and not (len(found) and found[0] == 0)
        return np.append(0, found) if is_new else found

    def _next_start(self, values: FileArray, token: int) -> int:
        """Return where the first document begins at a token or after it; the end of the file if there is none."""
        first, size = token - self._shift, _FIRST_SEARCH
        while first < len(values):
            is_bound = values[first : first + size] == self._token
            if is_bound.any():
                return first + int(np.argmax(is_bound)) + self._shift
            first, size = first + size, min(2 * size, _LONGEST_SEARCH)
        return len(values)

    def _check_token(self, file: int, values: FileArray) -> None:
        """Raise unless a file that is one row ends, or begins, with the token."""
        if values[-1 if self._shift else 0] != self._token:
            raise ValueError(
                f"{self._ids[file].path} must have the token {self._token:,} between documents, got none in {len(values):,} "
                "tokens; check end and dtype"
            )
