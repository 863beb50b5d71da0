"""Several sources as one: their shards one source after the other, and `Concat`, which shuffles them together."""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import join_tables
from seqstream.records import RECORD_BITS, Json, Record, drop_record_numbers, record_numbers, split_row_id, with_record_numbers
from seqstream.sources.blocks import Block
from seqstream.sources.choose_source import Data, source_of
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tokens.token_store import TokenInfo, common_info

_MOST_SHARDS = 1 << (63 - RECORD_BITS)
"""Largest number of shards that a row id can hold."""


class SourceGroup(Source):
    """Several sources, whose shards are numbered one source after the other."""

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Source, ...]:
        """The sources."""

    @functools.cached_property
    def first_shards(self) -> Index:
        """Number of the first shard of each source, and after them the number of all shards, ``int64 (S + 1,)``."""
        firsts: Index = np.array([0, *itertools.accumulate(part.num_shards for part in self.parts)], dtype=np.int64)
        if firsts[-1] > _MOST_SHARDS:
            raise ValueError(
                f"sources must have at most {_MOST_SHARDS:,} shards together, got {firsts[-1]:,}; use larger blocks"
            )
        return firsts

    def part_of(self, row_ids: Index) -> Index:
        """Return the number of the source of each row id, ``int64 (n,)``."""
        found: Index = np.searchsorted(self.first_shards, row_ids >> RECORD_BITS, side="right") - 1
        return found

    @property
    def num_shards(self) -> int:
        return int(self.first_shards[-1])

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        part, own = self._part_at(shard)
        return self.parts[part].read(own, state)

    def prefetch_shard(self, shard: int) -> Callable[[], None] | None:
        part, own = self._part_at(shard)
        return self.parts[part].prefetch_shard(own)

    def fingerprint(self) -> Json:
        return {"kind": type(self).__name__, **{str(number): part.fingerprint() for number, part in enumerate(self.parts)}}

    def locate(self, row_id: int) -> str:
        part, own = self._own_id(row_id)
        return part.locate(own)

    def place(self, row_id: int) -> Location:
        part, own = self._own_id(row_id)
        return part.place(own)

    def record(self, row_id: int) -> Record:
        part, own = self._own_id(row_id)
        return part.record(own)

    def to_row_ids(self, shard: int, records: Index) -> Index:
        part, own = self._part_at(shard)
        return self.parts[part].to_row_ids(own, records) + (int(self.first_shards[part]) << RECORD_BITS)

    def approx_blocks(self) -> float | None:
        known = [blocks for part in self.parts if (blocks := part.approx_blocks()) is not None]
        return sum(known) if len(known) == len(self.parts) else None

    def approx_bytes(self, shards: Index) -> Index:
        found = np.full(len(shards), -1)
        which = np.searchsorted(self.first_shards, shards, side="right") - 1
        for number in np.unique(which).tolist():
            own = which == number
            found[own] = self.parts[number].approx_bytes(shards[own] - self.first_shards[number])
        return found

    @property
    def num_tokens(self) -> int | None:
        counts = [part.num_tokens for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def can_repeat(self) -> bool:
        return all(part.can_repeat for part in self.parts)

    @property
    def is_read_by_workers(self) -> bool:
        return all(part.is_read_by_workers for part in self.parts)

    @property
    def compared_bytes(self) -> int:
        return min(part.compared_bytes for part in self.parts)

    def _part_at(self, shard: int) -> tuple[int, int]:
        """Return the number of the source that has a shard, and the number of the shard there."""
        part = int(np.searchsorted(self.first_shards, shard, side="right")) - 1
        return part, shard - int(self.first_shards[part])

    def _own_id(self, row_id: int) -> tuple[Source, int]:
        """Return the source of a row, and its row id there."""
        shard, record = split_row_id(row_id)
        part, own = self._part_at(shard)
        return self.parts[part], own << RECORD_BITS | record


@dataclasses.dataclass(frozen=True)
class Concat(SourceGroup):
    """Several sources as one: every record once an epoch, all shuffled together.

    A large source gives more rows than a small one; to set shares or to repeat sources, use `Mixture`. If all sources can be
    read at any index, as lists and data sets can, they are shuffled as a whole.

    Args:
        sources: The sources, or what a `Loader` takes for one, such as paths and data sets; they should have the same fields.

    Raises:
        TypeError: An item is nothing that can be read, or ``sources`` is one path.
        ValueError: There are none, or one occurs twice.
    """

    sources: Sequence[Data]

    def __post_init__(self) -> None:
        if isinstance(self.sources, str | os.PathLike):
            path = os.fspath(self.sources)
            raise TypeError(f"Concat must have a list of sources, got the path {path!r}; write [{path!r}]")
        sources = sources_of("Concat", {str(number): data for number, data in enumerate(self.sources)})
        object.__setattr__(self, "sources", tuple(sources.values()))

    @property
    def parts(self) -> tuple[Source, ...]:
        return cast("tuple[Source, ...]", self.sources)

    @property
    def token_info(self) -> TokenInfo | None:
        infos = {str(number): part.token_info for number, part in enumerate(self.parts)}
        return None if all(info is None for info in infos.values()) else common_info(infos)

    @property
    def num_records(self) -> int | None:
        counts = [part.num_records for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def take(self, records: Index) -> pa.Table:
        which = np.searchsorted(self._first_records, records, side="right") - 1
        tables = []
        for number in np.unique(which).tolist():
            own = records[which == number] - self._first_records[number]
            table = with_record_numbers(self.parts[number].take(own), own)
            numbers = record_numbers(table, 0) + self._first_records[number]
            tables.append(with_record_numbers(drop_record_numbers(table), numbers))
        return join_tables(tables) if tables else self.parts[0].take(records)

    def to_row_ids(self, shard: int, records: Index) -> Index:
        if self.num_records is None:
            return super().to_row_ids(shard, records)
        records = records + self._first_records[shard]  # numbers of a part where it is read front to back
        which = np.searchsorted(self._first_records, records, side="right") - 1
        return records - self._first_records[which] + (self.first_shards[which] << RECORD_BITS)

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        total = sum(part.approx_record_bytes * (part.num_records or 0) for part in self.parts)
        return total / max(self.num_records or 0, 1)

    @functools.cached_property
    def _first_records(self) -> Index:
        """Number of the first record of each source among all, ``int64 (S,)``; valid only if every source knows its number."""
        counts = [part.num_records or 0 for part in self.parts]
        return np.array([0, *itertools.accumulate(counts)], dtype=np.int64)[:-1]


def sources_of(kind: str, given: Mapping[str, Data]) -> dict[str, Source]:
    """Return the sources that read what a user gives, by name.

    Raises:
        TypeError: Something cannot be read; a note names it.
        ValueError: There are none, or one occurs twice.
    """
    if not given:
        raise ValueError(f"{kind} must have at least one source, got none")
    sources: dict[str, Source] = {}
    for name, data in given.items():
        try:
            sources[name] = source_of(data)
        except (TypeError, ValueError, OSError) as error:
            error.add_note(f"in source {name!r} of {kind}")
            raise
    seen: dict[object, str] = {}
    for name, source in sources.items():
        identity = source.fingerprint()
        is_named = isinstance(identity, dict) and "files" in identity
        key = json.dumps(identity, sort_keys=True) if is_named else id(getattr(source, "make", source))
        if (other := seen.setdefault(key, name)) != name:
            raise ValueError(
                f"{kind} must have each source once, got the same for {other!r} and {name!r}; leave one out, and in a Mixture "
                "add its weight to that of the other"
            )
    return sources


def approx_size(source: Source) -> float | None:
    """Estimate the bytes of all records of a source as read, reading at most one block; ``None`` if it is unknown."""
    if source.num_records is not None:
        return source.num_records * source.approx_record_bytes
    blocks = source.approx_blocks()
    if blocks is None or not source.num_shards:
        return blocks
    sizes = source.approx_bytes(np.arange(source.num_shards))
    if (sizes >= 0).all():
        return float(sizes.sum())
    first = next((table.nbytes for table, _ in source.read(0)), 0)
    return max(blocks, source.num_shards) * first
