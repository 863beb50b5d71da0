"""The members that sources of text files share: their shards are those of a corpus of files."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence

import pyarrow as pa

from seqstream.arrays import Index
from seqstream.records import Json, split_row_id
from seqstream.sources.files.aligned import Aligned
from seqstream.sources.files.folder_columns import FolderColumns
from seqstream.sources.files.ranges import RULES, Corpus
from seqstream.sources.files.spans import ByteSpan
from seqstream.sources.locations import Location
from seqstream.sources.source import Source


class CorpusSource(Source):
    """A source whose shards are those of a corpus of files."""

    @property
    @abc.abstractmethod
    def _corpus(self) -> Corpus | Aligned:
        """The files, and how they are cut into shards and blocks."""

    @property
    @abc.abstractmethod
    def _folders(self) -> FolderColumns | None:
        """The columns in the names of folders that the records do not have themselves; ``None`` if there are none."""

    def _with_folders(self, table: pa.Table, spans: Sequence[ByteSpan]) -> pa.Table:
        """Return a table of the records of spans with the columns in the names of their folders."""
        if self._folders is None or not isinstance(self._corpus, Corpus):
            return table
        rule = RULES[self._corpus.unit]
        counts = [len(table)] if len(spans) == 1 else [len(span.starts(rule)) for span in spans]
        return self._folders.append(table, [span.file.name for span in spans], counts)

    @property
    def _folders_fingerprint(self) -> dict[str, Json]:
        return {} if self._folders is None else self._folders.fingerprint()

    @property
    def num_shards(self) -> int:
        return self._corpus.num_shards

    def prefetch_shard(self, shard: int) -> Callable[[], None] | None:
        return self._corpus.prefetch_shard(shard) if isinstance(self._corpus, Corpus) else None

    def locate(self, row_id: int) -> str:
        return self._corpus.locate(*split_row_id(row_id))

    def place(self, row_id: int) -> Location:
        return self._corpus.location(*split_row_id(row_id))

    def approx_bytes(self, shards: Index) -> Index:
        return self._corpus.approx_bytes(shards)

    @property
    def is_read_by_workers(self) -> bool:
        # A file system that was used before a process was forked cannot be used in it.
        return isinstance(self._corpus, Corpus) and all(system is None for system in self._corpus.files.systems)

    def approx_blocks(self) -> float:
        return self._corpus.approx_blocks()

    @functools.cached_property
    def _files(self) -> Json:
        """What identifies the files, for fingerprints."""
        return self._corpus.fingerprint()
