"""Rows of blocks that were tokenised, kept in a folder: a later epoch, or a later run, reads them there.

A block is found by the hash of its records and of what its stages are, so that no wrong rows can be: records that have changed,
another tokenizer or a damaged file are computed again. The folder has files of tokens, each with many blocks; they are written
by one process, read by all, and never changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.records import ROW_ID, Counts, Json
from seqstream.sources.tokens.arrow_files import SUFFIX, UNFINISHED, FileWriter, TokenFile, compact, decoded
from seqstream.windows.block_reader import ReadBlock

_logger = logging.getLogger("seqstream")

FILE_BYTES = 16 << 20
"""Size at which a file ends. What a killed process has not finished is lost, and computed again."""

_ABANDONED_SECONDS = 86_400.0
"""An unfinished file of this age was left by a process that was killed."""

_KEY_BYTES = 16
_KEYS = b"seqstream.keys"
_COUNTS = b"seqstream.counts"


@dataclasses.dataclass
class _CacheFile:
    """A file of the cache; ``file`` is ``None`` until a block of it is read."""

    path: Path
    file: TokenFile | None = None


class TokenCache:
    """The rows of blocks in a folder, which several processes may share.

    Args:
        folder: The folder.
        limit: Bytes that its files may have together; the ones that were not used for longest go. ``None`` for no limit.
        stages: What each list of stages does to a block.
    """

    def __init__(self, folder: Path, limit: int | None, stages: Sequence[Json]) -> None:
        self._arguments = folder, limit, stages
        self._folder = folder
        self._limit = limit
        self._stages = [hashlib.blake2b(json.dumps(each, sort_keys=True, default=str).encode()).digest() for each in stages]
        self._lock = threading.RLock()
        self._files: dict[str, _CacheFile] = {}
        self._places: dict[bytes, tuple[_CacheFile, int]] = {}
        self._writers: dict[pa.Schema, tuple[FileWriter, list[bytes]]] = {}
        self._modified = -1
        self._is_busy = self._is_full = False

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache, self._arguments

    def key_of(self, block: ReadBlock) -> bytes:
        """Return what a block is found by: a hash of its records and of its stages."""
        table = block.table
        batch = compact(decoded(table.drop_columns([ROW_ID])))
        digest = hashlib.blake2b(self._stages[block.stages], digest_size=_KEY_BYTES)
        digest.update(f"{table.schema.to_string()} {len(batch)}".encode())  # a function may see that a column is a dictionary
        for column in batch.columns:
            for buffer in column.buffers():
                digest.update(b"\0" if buffer is None else len(buffer).to_bytes(8, "little"))
                digest.update(b"" if buffer is None else buffer)
        return digest.digest()

    def find(self, key: bytes, block: ReadBlock) -> tuple[pa.Table, Counts] | None:
        """Return the rows of a block and its counts; ``None`` if they are not known."""
        with self._lock:
            self._look_for_files()
            place = self._places.get(key)
            if place is None:
                return None
            cached, number = place
            try:
                if cached.file is None:
                    cached.file = TokenFile(cached.path)
                    os.utime(cached.path)
                batch, counts = cached.file.read(number), cached.file.metadata(number)[_COUNTS]
                return _with_row_ids(pa.Table.from_batches([batch]), block.table), json.loads(counts)
            except (ValueError, KeyError, IndexError, OSError, pa.ArrowException) as error:
                self._forget(cached, error)
                return None

    def add(self, key: bytes, block: ReadBlock, table: pa.Table, counts: Counts) -> None:
        """Keep the rows of a block."""
        with self._lock:
            if self._is_full or key in self._places:
                return
            self._is_busy = True
            try:
                table = _with_places(decoded(table), block.table)
                writer, keys = self._writer(table.schema)
                writer.write(table, {}, {_COUNTS: json.dumps(counts).encode()})
                keys.append(key)
                if writer.num_bytes >= FILE_BYTES:
                    self._finish(table.schema)
            except (OSError, pa.ArrowException) as error:
                self._stop_writing(error)
            finally:
                self._is_busy = False

    def flush(self) -> None:
        """Finish the files that are being written."""
        with self._lock:
            if self._is_busy:  # garbage collection has ended an iteration while this thread writes
                return
            try:
                for schema in list(self._writers):
                    self._finish(schema)
            except (OSError, pa.ArrowException) as error:
                self._stop_writing(error)

    def _writer(self, schema: pa.Schema) -> tuple[FileWriter, list[bytes]]:
        if schema not in self._writers:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writers[schema] = FileWriter(self._folder / f"{secrets.token_hex(8)}{SUFFIX}", schema), []
        return self._writers[schema]

    def _finish(self, schema: pa.Schema) -> None:
        writer, keys = self._writers.pop(schema)
        try:
            writer.finish(metadata={_KEYS: b"".join(keys).hex().encode()})
        except BaseException:
            writer.discard()
            raise
        self._evict()

    def _look_for_files(self) -> None:
        """Read the keys of files that were finished since this was last called."""
        try:
            modified = self._folder.stat().st_mtime_ns
        except OSError:
            return
        if modified == self._modified:
            return
        self._modified = modified
        found = {path.name: path for path in self._folder.glob(f"*{SUFFIX}")}
        for name in self._files.keys() - found.keys():
            self._drop(self._files[name])
        for name in sorted(found.keys() - self._files.keys()):
            cached = self._files[name] = _CacheFile(found[name])
            try:
                file = TokenFile(cached.path)
                keys = bytes.fromhex(file.metadata(-1)[_KEYS].decode())
                file.close()
            except (ValueError, KeyError, OSError, pa.ArrowException) as error:
                self._forget(cached, error)
                continue
            for number, first in enumerate(range(0, len(keys), _KEY_BYTES)):
                self._places.setdefault(keys[first : first + _KEY_BYTES], (cached, number))

    def _evict(self) -> None:
        """Delete files until the others are within the limit, the one that was not used for longest first."""
        for path in self._folder.glob(f"*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        if self._limit is None:
            return
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _forget(self, cached: _CacheFile, error: Exception) -> None:
        """Delete a file that is damaged; one that is gone was deleted by another process."""
        self._drop(cached)
        if not isinstance(error, FileNotFoundError):
            _logger.warning("%s of the cache is damaged and is computed again: %s", cached.path, error)
            with contextlib.suppress(OSError):
                cached.path.unlink()

    def _drop(self, cached: _CacheFile) -> None:
        self._files.pop(cached.path.name, None)
        self._places = {key: place for key, place in self._places.items() if place[0] is not cached}

    def _stop_writing(self, error: Exception) -> None:
        """Go on without writing, such as on a full disk."""
        self._is_full = True
        for writer, _ in self._writers.values():
            writer.discard()
        self._writers.clear()
        _logger.warning("no more is kept in the cache %s: %s", self._folder, error)


def _with_places(table: pa.Table, records: pa.Table) -> pa.Table:
    """Return rows with the place of their record in its block in place of its row id."""
    row_ids, wanted = to_numpy(records.column(ROW_ID)), to_numpy(table.column(ROW_ID))
    order = np.argsort(row_ids, kind="stable")
    places = order[np.searchsorted(row_ids[order], wanted)] if len(row_ids) else wanted
    return table.set_column(table.column_names.index(ROW_ID), ROW_ID, to_arrow(places.astype(np.int32)))


def _with_row_ids(table: pa.Table, records: pa.Table) -> pa.Table:
    """Return rows with the row ids of their records in place of their places in the block."""
    row_ids = to_numpy(records.column(ROW_ID))[to_numpy(table.column(ROW_ID))]
    return table.set_column(table.column_names.index(ROW_ID), ROW_ID, to_arrow(row_ids))
