"""Ids of each file as one flat array: its blocks, which are ranges of ids, and the rows that begin in each."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import take_rows, to_arrow
from seqstream.records import Json
from seqstream.sources.blocks import choose_block_bytes
from seqstream.sources.files.fingerprints import fingerprint_files
from seqstream.sources.files.listing import FileTable
from seqstream.sources.locations import Location
from seqstream.sources.tokens.file_arrays import ArraySpec, Numbers, OpenFiles
from seqstream.sources.tokens.token_store import TokenInfo, TokenStore

_MOST_TOKENS = 2**31 - 1
"""Tokens that the rows of one table can have: its offsets are 32-bit."""


class FlatStore(TokenStore):
    """Rows of one column ``input_ids``, as they lie one after the other in files.

    A block is a range of ids of a file, and has the rows that begin in it; so the sizes of the files give all blocks. The ids
    have the type of the files; the type that holds all, where files differ.

    Args:
        kind: Name of the format.
        ids: The array of ids of each file.
        mmap: Whether files are mapped into memory.
        block_bytes: Size of a block; by default 256 KiB, and less in a small corpus.
    """

    def __init__(self, kind: str, ids: Sequence[ArraySpec], *, mmap: bool = True, block_bytes: int | None = None) -> None:
        self.info = TokenInfo()
        self._kind = kind
        self._ids = tuple(ids)
        common = np.result_type(*{spec.dtype for spec in ids}) if ids else np.dtype(np.uint16)
        self._dtype = np.dtype(np.int64) if common.kind == "f" else common  # for uint64 beside signed numbers
        self._sizes = np.array([spec.size for spec in ids], dtype=np.int64)
        self.num_tokens: int | None = int(self._sizes.sum())
        width = self._dtype.itemsize
        self._block_size = max(1, choose_block_bytes(block_bytes, int(self._sizes.sum()) * width) // width)
        counts = np.maximum(1, -(-self._sizes // self._block_size))
        self._first_blocks = np.append(0, np.cumsum(counts))
        self._files = OpenFiles(mmap=mmap)

    @property
    def num_blocks(self) -> int:
        return int(self._first_blocks[-1])

    def num_bytes(self, blocks: Index) -> Index:
        files = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        left = self._sizes[files] - (blocks - self._first_blocks[files]) * self._block_size
        sizes: Index = np.minimum(left, self._block_size) * self._dtype.itemsize
        return sizes

    def take(self, rows: Index) -> pa.Table:
        if not len(rows):
            return self._table(np.empty(0, dtype=self._dtype), np.zeros(1, dtype=np.int64), "")
        is_ascending = bool((np.diff(rows) >= 0).all())
        order = np.arange(len(rows)) if is_ascending else np.argsort(rows, kind="stable")
        ascending = rows[order]
        groups = self._groups(ascending)
        cuts = np.flatnonzero(np.diff(groups, prepend=-1, append=-1))
        found = pa.concat_tables(
            self._take_from(int(groups[begin]), ascending[begin:end])
            for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        )
        if is_ascending:
            return found.combine_chunks()
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return take_rows(found, places)

    def location(self, block: int, row: int) -> Location:
        file = self._file_of(block)
        return Location(self._ids[file].path, self._first_row(file, block - int(self._first_blocks[file])) + row)

    def fingerprint(self) -> Json:
        paths = [spec.path for spec in self._ids] + self._index_paths()
        stats = [os.stat(path) for path in paths]
        sizes = np.array([found.st_size for found in stats], dtype=np.int64)
        times = np.array([found.st_mtime_ns for found in stats], dtype=np.int64)
        files = FileTable(paths, paths, [None] * len(paths), sizes, times, [None] * len(paths))
        dtypes = sorted({spec.dtype for spec in self._ids})
        own = {"format": self._kind, "tokens": self.num_tokens, "block_size": self._block_size, "dtypes": dtypes}
        return {**own, **fingerprint_files(files)}

    @abc.abstractmethod
    def _first_row(self, file: int, block: int) -> int:
        """Return the number, in its file, of the first row that begins in a block of the file or after it."""

    @abc.abstractmethod
    def _groups(self, rows: Index) -> Index:
        """Return what each of these rows is taken from, such as the number of its file, ``int64 (n,)``, ascending as rows."""

    @abc.abstractmethod
    def _take_from(self, group: int, rows: Index) -> pa.Table:
        """Return rows of one group, by their numbers in all files, ascending."""

    def _index_paths(self) -> list[str]:
        """Return the paths of files that say where rows end."""
        return []

    def _file_of(self, block: int) -> int:
        return int(np.searchsorted(self._first_blocks, block, side="right")) - 1

    def _range_of(self, block: int) -> tuple[int, int, int]:
        """Return the file of a block, its first token there, and one past its last."""
        file = self._file_of(block)
        start = (block - int(self._first_blocks[file])) * self._block_size
        return file, start, min(start + self._block_size, int(self._sizes[file]))

    def _table(self, values: Numbers, offsets: Index, place: str) -> pa.Table:
        """Return rows as a table that shares the memory of ``values``, unless another file has wider ids.

        Args:
            values: Ids of all rows.
            offsets: ``int64 (rows + 1,)``, where each row begins in ``values``, and where the last ends.
            place: Names the rows in the error.
        """
        if offsets[-1] > _MOST_TOKENS:
            raise ValueError(f"{place} must have at most {_MOST_TOKENS:,} tokens, got {offsets[-1]:,}; cut the documents")
        items = to_arrow(values.astype(self._dtype, copy=False))
        buffers = [None, pa.py_buffer(offsets.astype(np.int32))]
        rows = pa.Array.from_buffers(pa.list_(items.type), len(offsets) - 1, buffers, children=[items])
        return pa.table({"input_ids": rows})
