"""The members that sources of text files share: their shards are those of a corpus of files."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable

from seqstream.arrays import Index
from seqstream.records import Json, split_row_id
from seqstream.sources.files.aligned import Aligned
from seqstream.sources.files.ranges import Corpus
from seqstream.sources.locations import Location
from seqstream.sources.source import Source


class CorpusSource(Source):
    """A source whose shards are those of a corpus of files."""

    @property
    @abc.abstractmethod
    def _corpus(self) -> Corpus | Aligned:
        """The files, and how they are cut into shards and blocks."""

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
