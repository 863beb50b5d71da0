"""Files of ids beside which an index says where each document lies."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import Json
from seqstream.sources.locations import Location
from seqstream.sources.tokens.file_arrays import ArraySpec, FileArray
from seqstream.sources.tokens.flat_tokens import FlatStore

OpenArray: TypeAlias = Callable[[ArraySpec], FileArray]
"""Opens an array of the index."""


@dataclasses.dataclass(frozen=True)
class Spans:
    """Where documents lie in the ids of a file, of which each is one or several spans.

    Attributes:
        starts: ``int64 (spans,)``, first token of each span.
        lengths: ``int64 (spans,)``, tokens of each span.
        counts: ``int64 (documents,)``, spans of each document.
    """

    starts: Index
    lengths: Index
    counts: Index

    @property
    def are_adjacent(self) -> bool:
        """Whether each span begins where the one before it ends."""
        return bool((self.starts[1:] == (self.starts + self.lengths)[:-1]).all())

    @property
    def offsets(self) -> Index:
        """Where each document begins in the gathered spans, and where the last ends, ``int64 (documents + 1,)``."""
        ends = np.append(0, np.cumsum(self.lengths))
        found: Index = ends[np.append(0, np.cumsum(self.counts))]
        return found


class DocumentIndex(Protocol):
    """The index of a file."""

    @property
    def path(self) -> str:
        """The file of the index."""

    @property
    def has_all_ids(self) -> bool:
        """Whether each id of the file is in one document, as far as the size of the file says."""

    @property
    def num_rows(self) -> int:
        """Number of documents."""

    def first_row(self, open_array: OpenArray, token: int) -> int:
        """Return the number of the first document that begins at a token or after it."""

    def spans(self, open_array: OpenArray, rows: Index) -> Spans:
        """Return where documents lie.

        Raises:
            ValueError: The index contradicts itself.
        """


@dataclasses.dataclass(frozen=True)
class EndsIndex:
    """An index that has, for each document, the number of tokens up to its end.

    Attributes:
        ends: The array of ends; as signed numbers.
    """

    ends: ArraySpec

    @property
    def path(self) -> str:
        return self.ends.path

    @property
    def has_all_ids(self) -> bool:
        return True

    @property
    def num_rows(self) -> int:
        return self.ends.size

    def first_row(self, open_array: OpenArray, token: int) -> int:
        ends: Any = open_array(self.ends)
        # A document begins where the one before it ends.
        return 0 if token == 0 else min(self.num_rows, bisect.bisect_left(ends, token) + 1)

    def spans(self, open_array: OpenArray, rows: Index) -> Spans:
        ends = open_array(self.ends)
        starts = np.where(rows == 0, 0, ends[np.maximum(rows - 1, 0)])
        return Spans(starts, ends[rows] - starts, np.ones(len(rows), dtype=np.int64))


class IndexedStore(FlatStore):
    """Documents of files that have an index each; a row is a document.

    Args:
        kind: Name of the format.
        ids: The array of ids of each file.
        indexes: The index of each file.
        mmap: Whether files are mapped into memory.
        block_bytes: Size of a block; by default 256 KiB, and less in a small corpus.
    """

    def __init__(
        self,
        kind: str,
        ids: Sequence[ArraySpec],
        indexes: Sequence[DocumentIndex],
        *,
        mmap: bool = True,
        block_bytes: int | None = None,
    ) -> None:
        super().__init__(kind, ids, mmap=mmap, block_bytes=block_bytes)
        self._indexes = tuple(indexes)
        if not all(index.has_all_ids for index in indexes):
            self.num_tokens = None
        self._first_rows = np.append(0, np.cumsum(np.array([index.num_rows for index in indexes], dtype=np.int64)))

    @property
    def num_rows(self) -> int:
        return int(self._first_rows[-1])

    def read(self, block: int) -> pa.Table:
        file = self._file_of(block)
        number = block - int(self._first_blocks[file])
        return self._rows(file, np.arange(self._first_row(file, number), self._first_row(file, number + 1)))

    def location_of_row(self, row: int) -> Location:
        file = int(self._groups(np.array([row]))[0])
        return Location(self._ids[file].path, row - int(self._first_rows[file]))

    def fingerprint(self) -> Json:
        return {**super().fingerprint(), "rows": self.num_rows}

    def _first_row(self, file: int, block: int) -> int:
        # The last block has the empty documents at the end of the file, too.
        is_end = block == self._first_blocks[file + 1] - self._first_blocks[file]
        index = self._indexes[file]
        return index.num_rows if is_end else index.first_row(self._files.open, block * self._block_size)

    def _groups(self, rows: Index) -> Index:
        return np.searchsorted(self._first_rows, rows, side="right") - 1

    def _take_from(self, group: int, rows: Index) -> pa.Table:
        return self._rows(group, rows - self._first_rows[group])

    def _index_paths(self) -> list[str]:
        return [index.path for index in self._indexes]

    def _rows(self, file: int, rows: Index) -> pa.Table:
        spec, index = self._ids[file], self._indexes[file]
        spans = index.spans(self._files.open, rows)
        _check(spans, rows, spec, index)
        offsets = spans.offsets
        values = self._files.open(spec)
        if len(spans.starts) and spans.are_adjacent:
            flat = values[int(spans.starts[0]) : int(spans.starts[0] + offsets[-1])]
        else:
            flat = values.gather(spans.starts, spans.lengths)
        return self._table(flat, offsets, f"rows {rows.min(initial=0):,} to {rows.max(initial=0):,} of {spec.path}")


def _check(spans: Spans, rows: Index, spec: ArraySpec, index: DocumentIndex) -> None:
    """Raise if documents do not lie in the ids of their file."""
    ends = spans.starts + spans.lengths
    is_wrong = (spans.starts < 0) | (spans.lengths < 0) | (ends > spec.size)
    if not is_wrong.any():
        return
    at = int(np.argmax(is_wrong))
    row = int(rows[np.searchsorted(np.cumsum(spans.counts), at, side="right")])
    raise ValueError(
        f"{index.path}, document {row:,} must lie in the {spec.size:,} tokens of {spec.path}, got tokens "
        f"{spans.starts[at]:,} to {ends[at]:,}; write the files again"
    )
