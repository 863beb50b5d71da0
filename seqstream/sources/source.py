"""What a source is: shards that can be opened one by one and read in blocks.

A source is a frozen description. It holds no position: to go on where a shard was left, it is read again with the state
that came with the last block.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrow import take_rows, to_arrow
from seqstream.records import (
    RECORD,
    RECORD_BITS,
    Json,
    Record,
    drop_record_numbers,
    record_numbers,
    split_row_id,
    with_record_numbers,
)
from seqstream.sources.blocks import BLOCK_RECORDS, COMPARED_BYTES, Block, count_records, sampled_records, slices, to_records
from seqstream.sources.locations import Location
from seqstream.sources.split_rule import SIDES, KnownSides, SplitRule, make_rule


class Source(abc.ABC):
    """Records in shards; subclass it to read anything.

    Two members are needed: `num_shards` and `read`. A shard is what can be opened by itself: a range of bytes, a row
    group, a compressed file. Many small shards mix best; a shard of one block costs no state.

    A source of one shard may also read its records one by one, by their numbers: it gives `num_records` and `take`, and a
    loader that shuffles reads them in random order.
    """

    @property
    @abc.abstractmethod
    def num_shards(self) -> int:
        """Number of shards; the loader visits each once an epoch, in an order of its own."""

    @abc.abstractmethod
    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        """Yield the blocks of a shard, front to back, each with the state after it.

        Args:
            shard: Which shard, ``0 <= shard < num_shards``.
            state: ``None`` to begin, else the state that came with some block of this shard: go on after that block.

        Yields:
            ``(table, state_after)``. Columns are named fields; ``state_after`` is JSON, and ``None`` says that the shard
            is finished, so that it need not be opened again. A block of about 256 KiB mixes and overlaps well.
        """

    def fingerprint(self) -> Json:
        """Say which data this is, so that a state saved for other data is refused.

        The same on every machine and in every process: no times, no addresses. The default takes the class and its fields.
        """
        fields: dict[str, dataclasses.Field[Any]] = getattr(self, "__dataclass_fields__", {})
        parts = {name: repr(getattr(self, name)) for name, field in fields.items() if field.repr}
        shown = {name: re.sub(r" at 0x[0-9a-fA-F]+", "", part) for name, part in parts.items()}
        return {"kind": type(self).__name__, "num_shards": self.num_shards, **shown}

    def locate(self, row_id: int) -> str:
        """Name the place of a record, as an error message would: the file and the line where there are such."""
        shard, record = split_row_id(row_id)
        return f"record {record} of shard {shard}"

    def approx_blocks(self) -> float | None:
        """Estimate how many blocks an epoch has, or ``None`` where nobody can know."""
        return float(self.num_shards)

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        """Say about how many bytes shards of one block have, without reading them; -1 for those of any number of blocks.

        A shard that says it need not be read by ranks that do not tokenise it.

        Args:
            shards: ``int64 (n,)``.

        Returns:
            ``int64 (n,)``.
        """
        return np.full(len(shards), -1)

    @property
    def can_repeat(self) -> bool:
        """Whether records can be read again: those of a generator that was already called come only once."""
        return True

    @property
    def compared_bytes(self) -> int:
        """About how many bytes of records ranks read at the beginning of an epoch to see that all have the same.

        The first block always is; of sources whose blocks cost much to read it should be all.
        """
        return COMPARED_BYTES

    def to_row_ids(self, shard: int, records: np.ndarray) -> np.ndarray:
        """Return the row ids of records of a shard, which are the same in whatever order they are read.

        Args:
            shard: Which shard.
            records: ``int64 (n,)``, their numbers in the shard.

        Returns:
            ``int64 (n,)``.
        """
        ids: np.ndarray = records + (shard << RECORD_BITS)
        return ids

    @property
    def num_records(self) -> int | None:
        """Number of records that `take` reads, those of the only shard; ``None`` where they cannot be read one by one."""
        return None

    def take(self, records: np.ndarray) -> pa.Table:
        """Read records of the only shard by their numbers, in the order given.

        Args:
            records: ``int64 (n,)``, each ``0 <= record < num_records``.

        Returns:
            A row for each; or fewer, with their numbers in a column ``record``.
        """
        raise NotImplementedError(f"{type(self).__name__} must have take(records), as it has num_records")

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        """About how many bytes a record has that `take` reads, by a few that lie far apart."""
        table = self.take(sampled_records(self.num_records or 0))
        return float(table.nbytes / max(len(table), 1))

    @property
    def records_per_block(self) -> int:
        """How many records `take` reads at once."""
        return count_records(None, num_records=self.num_records or 0, record_bytes=self.approx_record_bytes)

    def place(self, row_id: int) -> Location:
        """Return the place of a record: its file and line, where there are such."""
        shard, record = split_row_id(row_id)
        return Location(f"shard {shard}", record)

    def record(self, row_id: int) -> Record:
        """Read one record, as the source has it; what comes before it in its shard may have to be read as well.

        Raises:
            IndexError: There is no such record.
        """
        shard, number = split_row_id(row_id)
        numbers = np.array([number])
        if self.num_records is not None:
            tables = iter([with_record_numbers(self.take(numbers), numbers)] if number < self.num_records else [])
        else:
            tables = (table for table, _ in self.read(shard))
        first = 0
        for table in tables:
            at = np.flatnonzero(record_numbers(table, first) == number)
            if len(at):
                return to_records(table.slice(int(at[0]), 1))[0]
            first += len(table)
        raise IndexError(f"row_id must be of a record of this source, got {row_id}: record {number} of shard {shard}")

    def records(self) -> Iterator[Record]:
        """Yield the records as dicts, in the order of the source: to look at them, or to use them without a loader."""
        for shard in range(self.num_shards):
            for table, _ in self.read(shard):
                yield from itertools.chain.from_iterable(map(to_records, slices(table, BLOCK_RECORDS)))

    def head(self, num: int = 5) -> list[Record]:
        """Return the first records as dicts.

        Raises:
            ValueError: Records can be read once only, and looking would use them up.
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
        """Divide the records: ``train, valid = source.split(valid=0.1)``, with ``test=0.1`` a third part.

        On which side a record is depends on what it holds and on nothing else. So it stays there whatever is appended to the
        files, and if they are compressed, converted, put in another order or read in other blocks; and records that hold the
        same are on one side. What counts is the field ``text`` where a record has one, so that no text is on two sides, and all
        its fields that are read where it has none. Of ``n`` different records a side gets its share within about
        ``sqrt(n * share * (1 - share))``. A part can be split again, independently of how it came about; and those for
        validation are the same whatever the share for testing is.

        Records read by their numbers, those of lists and map-style data sets, are read to know on which side they are: those of
        the other sides once.

        Args:
            valid: Share of the records that are for validation, between 0 and 1; 0.05 if neither this nor ``test`` is given.
            test: Share of the records that are for testing.
            by: The column that decides, or several: records of one value there stay together, such as all of an author or of a
                conversation. Those without a value count one by one.
            stratify: Column of the classes whose shares shall be exact, within one record each: all records are read once to
                count them. A side that never changes can depend on nothing but the record, so an exact share cannot last: as
                data is appended, as many records of its class may move. ``stratify=valid.cuts``, of which a split has some
                kilobytes of JSON, divides by what was counted then, and moves none.
            seed: Another seed, another choice.

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
        """How many splits the records have been through."""
        return 0


@dataclasses.dataclass(frozen=True)
class DerivedSource(Source):
    """Some records of another source, or all of them in another order.

    Args:
        source: The other one, which knows where its records are.
    """

    source: Source

    def locate(self, row_id: int) -> str:
        return self.source.locate(row_id)

    def place(self, row_id: int) -> Location:
        return self.source.place(row_id)

    def record(self, row_id: int) -> Record:
        return self.source.record(row_id)

    @property
    def can_repeat(self) -> bool:
        return self.source.can_repeat

    @property
    def compared_bytes(self) -> int:
        return self.source.compared_bytes


@dataclasses.dataclass(frozen=True)
class Split(DerivedSource):
    """One part of a source, made by `Source.split`."""

    rule: SplitRule
    side: int
    known: KnownSides = dataclasses.field(repr=False, compare=False)

    def __repr__(self) -> str:
        by = f", by={self.rule.by}" if self.rule.by else ""
        return f"Split({self.source!r}, {SIDES[self.side]!r}, {self.rule.share(self.side):.4g} of the records{by})"

    @property
    def cuts(self) -> Json:
        """What ``split(stratify=...)`` takes to divide grown data as it was: the limits of each class, as JSON."""
        if self.rule.stratify is None:
            return None
        return {"column": self.rule.stratify, "cuts": {name: list(cuts) for name, cuts in self.rule.cuts.items()}}

    @property
    def num_shards(self) -> int:
        return self.source.num_shards

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        first, inner = state or (0, None)
        for table, after in self.source.read(shard, inner):
            records = record_numbers(table, first)
            first += len(table)
            try:
                kept = np.flatnonzero(self.rule.sides(table) == self.side)
            except Exception as error:
                if len(records):
                    error.add_note(f"while splitting from {self.source.locate(int(self.to_row_ids(shard, records[:1])[0]))}")
                raise
            table = take_rows(drop_record_numbers(table), kept).append_column(RECORD, to_arrow(records[kept]))
            yield table, None if after is None else [first, after]

    def fingerprint(self) -> Json:
        return {"source": self.source.fingerprint(), "split": self.rule.fingerprint(), "side": SIDES[self.side]}

    def approx_blocks(self) -> float | None:
        return self.source.approx_blocks()

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        whole = self.source.approx_bytes(shards)
        part = np.rint(whole * self.rule.share(self.side)).astype(np.int64)
        return np.where(whole < 0, -1, part)

    def to_row_ids(self, shard: int, records: np.ndarray) -> np.ndarray:
        return self.source.to_row_ids(shard, records)

    @property
    def num_records(self) -> int | None:
        return self.source.num_records

    def take(self, records: np.ndarray) -> pa.Table:
        known = self.known.of(self.num_records or 0)
        wanted = records[(known[records] == 0) | (known[records] == self.side)]
        table = with_record_numbers(self.source.take(wanted), wanted)
        numbers = record_numbers(table, 0)
        sides = known[numbers] = self.rule.sides(table)
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
