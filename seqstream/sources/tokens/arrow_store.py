"""Folders of tokens in seqstream's own format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import no_rows, take_rows
from seqstream.records import Json
from seqstream.sources.locations import Location
from seqstream.sources.tokens.arrow_files import TokenFile
from seqstream.sources.tokens.file_arrays import map_file
from seqstream.sources.tokens.json_files import ADVICE
from seqstream.sources.tokens.manifest import MANIFEST, Manifest
from seqstream.sources.tokens.recent import Recent
from seqstream.sources.tokens.row_gather import FileLayout, gather_rows, layout_of
from seqstream.sources.tokens.token_store import TokenStore, without_row_numbers

_MOST_OPEN = 256
"""Files that are open at a time: some file systems cannot map many more."""

_LAYOUT_BYTES = 128 << 20
"""Bytes of the layouts that are kept: of about 700 GB of files where rows have one column of 16-bit ids."""


class ArrowStore(TokenStore):
    """The files of a folder of tokens.

    Args:
        folder: The folder.
        manifest: What is in it.
        mmap: Whether files are mapped into memory.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, mmap: bool = True) -> None:
        self.folder = folder
        self.manifest = manifest
        self.info = manifest.info
        self.num_tokens = manifest.num_tokens
        self._mmap = mmap
        counts = np.array([len(file.rows) for file in manifest.files], dtype=np.int64)
        self._first_blocks = np.append(0, np.cumsum(counts))
        rows = np.array([count for file in manifest.files for count in file.rows], dtype=np.int64)
        self._first_rows = np.append(0, np.cumsum(rows))
        totals = np.add.reduceat(np.append(rows, 0), self._first_blocks[:-1]) if len(counts) else counts
        row_bytes = np.array([file.num_bytes for file in manifest.files]) / np.maximum(totals, 1)
        self._block_bytes = np.rint(rows * np.repeat(row_bytes, counts)).astype(np.int64)
        self._reset()

    def _reset(self) -> None:
        self._files = Recent[TokenFile](_MOST_OPEN)
        self._mapped = Recent[pa.Buffer](_MOST_OPEN)
        self._layouts = Recent[FileLayout](_LAYOUT_BYTES, _size_of)
        self._is_verified = np.zeros(self.num_blocks, dtype=np.bool_)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_files", "_mapped", "_layouts", "_is_verified")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def num_blocks(self) -> int:
        return len(self._first_rows) - 1

    @property
    def num_rows(self) -> int:
        return int(self._first_rows[-1])

    def num_bytes(self, blocks: Index) -> Index:
        sizes: Index = self._block_bytes[blocks]
        return sizes

    def read(self, block: int) -> pa.Table:
        file = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        own = block - int(self._first_blocks[file])
        batch = self._open(file).read(own, verify=not self._is_verified[block])
        self._is_verified[block] = self._mmap  # what is not mapped is read from the disk anew each time
        expected = self.manifest.files[file].rows[own]
        if len(batch) != expected:
            place = f"{self._path(file)}, block {own}"
            raise ValueError(f"{place} must have {expected:,} rows, as the manifest says, got {len(batch):,}")
        return pa.Table.from_batches([batch])

    def take(self, rows: Index) -> pa.Table:
        if not len(rows):
            return self._empty()
        order = np.argsort(rows)
        ascending = rows[order]
        blocks = np.searchsorted(self._first_rows, ascending, side="right") - 1
        files = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        cuts = np.flatnonzero(np.diff(files, prepend=-1, append=-1))
        parts = [
            self._take_from(int(files[begin]), blocks[begin:end], ascending[begin:end] - self._first_rows[blocks[begin:end]])
            for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ]
        found = parts[0] if len(parts) == 1 else pa.concat_tables(parts, promote_options="permissive")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return take_rows(found, places)

    def _empty(self) -> pa.Table:
        """Return a table with the columns of the first file that has blocks, and no rows."""
        files = np.flatnonzero(np.diff(self._first_blocks))
        return pa.Table.from_batches([no_rows(self._open(int(files[0])).schema)]) if len(files) else pa.table({})

    def location(self, block: int, row: int) -> Location:
        file = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        first = self._first_rows[self._first_blocks[file]]
        return Location(str(self._path(file)), int(self._first_rows[block] - first) + row)

    def location_of_row(self, row: int) -> Location:
        block = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self.location(block, row - int(self._first_rows[block]))

    def fingerprint(self) -> Json:
        files = [[file.num_tokens, file.checksum, len(file.rows)] for file in self.manifest.files]
        return {"rows": self.num_rows, "tokens": self.num_tokens, "origin": self.manifest.origin, "files": files}

    def _path(self, file: int) -> Path:
        return self.folder / self.manifest.files[file].name

    def _open(self, file: int) -> TokenFile:
        return self._files.get(file, self._open_checked)

    def _open_checked(self, file: int) -> TokenFile:
        """Open a file, and check that it is the one of the manifest."""
        opened, entry = TokenFile(self._path(file), mmap=self._mmap), self.manifest.files[file]
        summary = opened.summary()
        expected, found = ((each.rows, each.num_tokens, each.checksum) for each in (entry, summary))
        if found != expected:
            raise ValueError(
                f"{opened.path} must hold the {sum(entry.rows):,} rows of {entry.num_tokens:,} tokens that {MANIFEST} says, "
                f"got other {sum(summary.rows):,} of {summary.num_tokens:,}; {ADVICE}"
            )
        return opened

    def _map(self, file: int) -> pa.Buffer:
        return self._mapped.get(file, lambda _: map_file(str(self._path(file))))

    def _find_layout(self, file: int) -> FileLayout:
        """Return where the rows of a file lie in it."""
        opened = self._open(file)
        blocks = range(len(self.manifest.files[file].rows))
        batches = [without_row_numbers(opened.read(block, verify=False)) for block in blocks]
        opened.source.seek(0)
        return layout_of(opened.source.read_buffer(), batches)

    def _take_from(self, file: int, blocks: Index, rows: Index) -> pa.Table:
        """Return rows of a file, given the block of each in all files and its number in that block, both ascending."""
        own = blocks - self._first_blocks[file]
        if not self._mmap:
            return pa.Table.from_batches(list(self._take_by_block(file, own, rows)))
        try:
            return gather_rows(self._layouts.get(file, self._find_layout), self._map(file), own, rows)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self._path(file)}: {error}; {ADVICE}") from error

    def _take_by_block(self, file: int, blocks: Index, rows: Index) -> Iterator[pa.RecordBatch]:
        cuts = np.flatnonzero(np.diff(blocks, prepend=-1, append=-1))
        for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            batch = self._open(file).read(int(blocks[begin]))
            yield from take_rows(pa.Table.from_batches([batch]), rows[begin:end]).combine_chunks().to_batches()


def _size_of(layout: FileLayout) -> int:
    """Return the size by which layouts are limited; those that keep their files mapped are limited like open files."""
    return max(layout.num_bytes, _LAYOUT_BYTES // _MOST_OPEN if layout.holds_file else 1)
