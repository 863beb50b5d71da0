"""What a source is: records in shards, each of which is opened by itself and read in blocks.

A source is a frozen description without a position: to go on in a shard, it is read again with the state of its last block.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import take_rows, to_arrow
from seqstream.records import (
    RECORD,
    RECORD_BITS,
    Json,
    Record,
    drop_record_numbers,
    location_of,
    record_numbers,
    split_row_id,
    with_record_numbers,
)
from seqstream.sources.blocks import BLOCK_RECORDS, Block, find_record, slices, to_records
from seqstream.sources.locations import Location
from seqstream.sources.numbered_records import NumberedRecords
from seqstream.sources.reading_hints import ReadingHints
from seqstream.sources.split_rule import SIDES, UNKNOWN, KnownSides, SplitRule, make_rule
from seqstream.sources.tokens.token_store import KnownTokens, TokenInfo


class Source(NumberedRecords, KnownTokens, ReadingHints, abc.ABC):
    """Records in shards; subclass it to read any kind of data.

    A subclass must define `num_shards` and `read`. A shard is a part of the data that can be opened by itself: a range of
    bytes, a row group, a compressed file. Many small shards mix best; a shard of one block needs no state.

    A source of one shard may also read its records by their numbers: it defines `num_records` and `take`, and a loader that
    shuffles reads them in random order.
    """

    @property
    @abc.abstractmethod
    def num_shards(self) -> int:
        """Number of shards; the loader reads each once an epoch, in an order of its own."""

    @abc.abstractmethod
    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        """Yield the blocks of a shard, front to back, each with the state after it.

        Args:
            shard: Number of the shard, ``0 <= shard < num_shards``.
            state: ``None`` to begin, else the state of a block of this shard: read on after that block.

        Yields:
            ``(table, state_after)``. A column for each field; ``state_after`` is JSON, ``None`` after the last block of the
            shard, which then need not be opened again. Blocks of about 256 KiB are a good size.
        """

    def fingerprint(self) -> Json:
        """Return what identifies the data, as JSON; a loader rejects a state that was saved with another fingerprint.

        It must be the same on every machine and in every process, without times and addresses. By default it is the name of the
        class, and the fields of a dataclass.
        """
        fields: dict[str, dataclasses.Field[Any]] = getattr(self, "__dataclass_fields__", {})
        parts = {name: repr(getattr(self, name)) for name, field in fields.items() if field.repr}
        shown = {name: re.sub(r" at 0x[0-9a-fA-F]+", "", part) for name, part in parts.items()}
        return {"kind": type(self).__name__, "num_shards": self.num_shards, **shown}

    def locate(self, row_id: int) -> str:
        """Return the location of a record as text for messages: its file and line, where it has them."""
        shard, record = split_row_id(row_id)
        return f"record {record} of shard {shard}"

    def approx_blocks(self) -> float | None:
        """Estimate the number of blocks of an epoch; ``None`` if it is unknown."""
        return float(self.num_shards)

    @property
    def can_repeat(self) -> bool:
        """Whether records can be read more than once; a generator that was already called yields them only once."""
        return True

    def to_row_ids(self, shard: int, records: Index) -> Index:
        """Return the row ids, ``int64 (n,)``, of records by their numbers in a shard; the order of reading changes none."""
        return records + (shard << RECORD_BITS)

    def place(self, row_id: int) -> Location:
        """Return the location of a record: its file and line, where it has them."""
        shard, record = split_row_id(row_id)
        return Location(f"shard {shard}", record)

    def record(self, row_id: int) -> Record:
        """Read one record; a source that reads front to back must read its shard up to the record.

        Raises:
            IndexError: There is no such record.
        """
        shard, number = split_row_id(row_id)
        numbers = np.array([number])
        if self.num_records is not None:
            tables = iter([with_record_numbers(self.take(numbers), numbers)] if number < self.num_records else [])
        else:
            tables = (table for table, _ in self.read(shard))
        if (record := find_record(tables, number)) is None:
            raise IndexError(f"row_id must be of a record of this source, got {row_id}: record {number} of shard {shard}")
        return record

    def records(self) -> Iterator[Record]:
        """Yield the records as dicts, in the order of the source: to look at them, or to use them without a loader."""
        for shard in range(self.num_shards):
            for table, _ in self.read(shard):
                yield from itertools.chain.from_iterable(map(to_records, slices(table, BLOCK_RECORDS)))

    def head(self, num: int = 5) -> list[Record]:
        """Return the first records as dicts.

        Raises:
            ValueError: Records can be read only once, and `head` would use them up.
        """
        if not self.can_repeat:
            raise ValueError("head() would use up records that a generator gives only once; pass the generator function itself")
        return list(itertools.islice(self.records(), num))

    def split(
        self,
        *,
        valid: float | None = None,
        test: float | None = None,
        by: str | Sequence[str] | None = None,
        stratify: str | Json = None,
        seed: int = 0,
    ) -> tuple[Split, ...]:
        """Split the records into parts: ``train, valid = source.split(valid=0.1)``, with ``test=0.1`` a third part.

        A hash of a record's content, and nothing else, decides which part it is in. So it stays there when data are appended to
        the files, and when these are compressed, converted, reordered or read in other blocks; and equal records are in one
        part. The content is the field ``text``, so that no text is in two parts, and for a record without it all fields that
        are read. Of ``n`` different records a part gets its share within about ``sqrt(n * share * (1 - share))``. A part can be
        split again, independently of the first split. The share for testing does not change which records are for validation.

        Records that are read by their numbers, those of lists and map-style data sets, are read before their part is known:
        each record of the other parts is read once.

        Args:
            valid: Share of the records for validation, between 0 and 1; 0.05 if neither this nor ``test`` is given.
            test: Share of the records for testing.
            by: Name of the column that is hashed instead, or names of several: records with equal values there stay together,
                such as those of one author or one conversation. A record without a value counts by itself.
            stratify: Column of classes. The share of each class is then exact within one record; all records are read once to
                count them. An exact share depends on all records: when data are appended, records of a class may move to
                another part. ``stratify=valid.cuts``, a few kilobytes of JSON from an earlier split, applies the thresholds of
                that split, and no record moves.
            seed: Another seed gives another split.

        Raises:
            ValueError: A share is not between 0 and 1, or nothing is left to train on; ``by`` and ``stratify`` are both given.
        """
        rule, sides = make_rule(valid=valid, test=test, by=by, stratify=stratify, seed=seed, level=self._split_level)
        if isinstance(stratify, str):
            if not self.can_repeat:
                raise ValueError(
                    "stratify reads all records once, and a generator gives them only once; pass the generator function"
                )
            rule = rule.with_exact_shares(table for shard in range(self.num_shards) for table, _ in self.read(shard))
        known = KnownSides()
        return tuple(Split(self, rule, side, known) for side in sides)

    @property
    def _split_level(self) -> int:
        """Number of splits that lead to this source: 1 for a part, 2 for a part of a part."""
        return 0


@dataclasses.dataclass(frozen=True)
class DerivedSource(Source):
    """Some records of another source, or all of them in another order.

    Args:
        source: The other source, which locates the records.
    """

    source: Source

    def locate(self, row_id: int) -> str:
        return self.source.locate(row_id)

    def place(self, row_id: int) -> Location:
        return self.source.place(row_id)

    def record(self, row_id: int) -> Record:
        return self.source.record(row_id)

    @property
    def token_info(self) -> TokenInfo | None:
        return self.source.token_info

    @property
    def can_repeat(self) -> bool:
        return self.source.can_repeat

    @property
    def is_read_by_workers(self) -> bool:
        return self.source.is_read_by_workers

    @property
    def compared_bytes(self) -> int:
        return self.source.compared_bytes


@dataclasses.dataclass(frozen=True)
class Split(DerivedSource):
    """One part of a source, returned by `Source.split`.

    Args:
        rule: Decides which part a record is in.
        side: Which part this is, a key of `SIDES`.
        known: Parts of the records read so far, shared by all parts of the split.
    """

    rule: SplitRule
    side: int
    known: KnownSides = dataclasses.field(repr=False, compare=False)

    def __repr__(self) -> str:
        by = f", by={self.rule.by}" if self.rule.by else ""
        return f"Split({self.source!r}, {SIDES[self.side]!r}, {self.rule.share(self.side):.4g} of the records{by})"

    @property
    def cuts(self) -> Json:
        """Thresholds of each class, as JSON: ``split(stratify=cuts)`` splits grown data as before; ``None`` without classes."""
        if self.rule.stratify is None:
            return None
        return {"column": self.rule.stratify, "cuts": {name: list(cuts) for name, cuts in self.rule.cuts.items()}}

    @property
    def num_shards(self) -> int:
        return self.source.num_shards

    def prefetch_shard(self, shard: int) -> Callable[[], None] | None:
        return self.source.prefetch_shard(shard)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        first, inner = state or (0, None)
        for table, after in self.source.read(shard, inner):
            records = record_numbers(table, first)
            first += len(table)
            try:
                kept = np.flatnonzero(self.rule.sides(table) == self.side)
            except Exception as error:
                if len(records):
                    row_id = int(self.to_row_ids(shard, records[:1])[0])
                    error.add_note(f"while splitting from {location_of(self.source.locate, row_id)}")
                raise
            table = take_rows(drop_record_numbers(table), kept).append_column(RECORD, to_arrow(records[kept]))
            yield table, None if after is None else [first, after]

    def fingerprint(self) -> Json:
        return {"source": self.source.fingerprint(), "split": self.rule.fingerprint(), "side": SIDES[self.side]}

    def approx_blocks(self) -> float | None:
        return self.source.approx_blocks()

    def approx_bytes(self, shards: Index) -> Index:
        whole = self.source.approx_bytes(shards)
        part = np.rint(whole * self.rule.share(self.side)).astype(np.int64)
        return np.where(whole < 0, -1, part)

    def to_row_ids(self, shard: int, records: Index) -> Index:
        return self.source.to_row_ids(shard, records)

    @property
    def num_records(self) -> int | None:
        return self.source.num_records

    def take(self, records: Index) -> pa.Table:
        known = self.known.of(self.num_records or 0)
        candidates = records[(known[records] == UNKNOWN) | (known[records] == self.side)]
        table = with_record_numbers(self.source.take(candidates), candidates)
        sides = known[record_numbers(table, 0)] = self.rule.sides(table)
        return take_rows(table, np.flatnonzero(sides == self.side))

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        return self.source.approx_record_bytes * self.rule.share(self.side)

    @property
    def records_per_block(self) -> int:
        return self.source.records_per_block

    @property
    def _split_level(self) -> int:
        return self.rule.level + 1
