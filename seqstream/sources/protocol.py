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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.forms.objects import is_exact, to_objects
from seqstream.records import RECORD_BITS, Json, Record, drop_record_numbers, record_numbers, split_row_id, with_record_numbers
from seqstream.sources.locations import Location

if TYPE_CHECKING:
    from seqstream.sources.splitting import Split


Block: TypeAlias = tuple[pa.Table, Json]
"""A table of records and the state after it; ``None`` when the shard ends with it."""


BLOCK_BYTES = 256 << 10
BLOCK_RECORDS = 1_024
"""A block of records that are taken one by one has no more of them."""

SMALLEST_BLOCK_BYTES = 4 << 10
FEWEST_BLOCKS = 128
"""A corpus of two labels, one after the other, in so many blocks: any eighth of an epoch has both, and not by luck."""

_SAMPLED_RECORDS = 16

COMPARED_BYTES = 512 << 10


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
        return count_records(self, None)

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
                yield from itertools.chain.from_iterable(map(to_records, _slices(table, BLOCK_RECORDS)))

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
        from seqstream.sources.splitting import split_source

        if valid is None and test is None:
            valid = 0.05
        return split_source(self, valid=valid, test=test, by=by, stratify=stratify, seed=seed)


def check_count(state: Json) -> int:
    """Return a state that counts records, 0 for ``None``.

    Raises:
        ValueError: It is no count.
    """
    if state is None:
        return 0
    if not isinstance(state, int) or isinstance(state, bool) or state < 0:
        raise ValueError(f"state of a shard must be how many records were read, got {state!r:.80}; load it as it was saved")
    return state


def check_counts(state: Json, length: int) -> list[int]:
    """Return a state of several counts or offsets, zeros for ``None``.

    Raises:
        ValueError: It is no list of as many.
    """
    if state is None:
        return [0] * length
    if not isinstance(state, list | tuple) or len(state) != length:
        raise ValueError(f"state of a shard must be a list of {length} numbers, got {state!r:.80}; load it as it was saved")
    return [check_count(each or 0) if isinstance(each, int | None) else check_count(each) for each in state]


def choose_block_bytes(given: int | None, total: float | None) -> int:
    """Return how many bytes to read at once: those that were given, else 256 KiB, else less to have enough blocks to mix.

    Args:
        given: What the user asked for.
        total: About how many bytes the source has, ``None`` where nobody knows.
    """
    if given is not None:
        return given
    if total is None:
        return BLOCK_BYTES
    return int(min(BLOCK_BYTES, max(total / FEWEST_BLOCKS, SMALLEST_BLOCK_BYTES)))


def sampled_records(num_records: int) -> np.ndarray:
    """Return numbers of a few records, spread over all of them, ``int64 (n,)``."""
    return np.linspace(0, num_records - 1, min(num_records, _SAMPLED_RECORDS)).astype(np.int64)


def count_records(source: Source, block_bytes: int | None) -> int:
    """Return how many records of a source make a block.

    Args:
        source: Its records are taken one by one.
        block_bytes: Bytes of a block that the user asked for.
    """
    num_bytes = source.approx_record_bytes
    wanted = choose_block_bytes(block_bytes, num_bytes * (source.num_records or 0))
    return max(1, min(BLOCK_RECORDS, int(wanted / max(num_bytes, 1))))


def to_records(table: pa.Table) -> list[Record]:
    """Return the rows of a block as dicts, without the source's own record numbers."""
    table = drop_record_numbers(table)
    columns = [to_objects(column) if is_exact(column.type) else column.to_pylist() for column in table.columns]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def _slices(table: pa.Table, num_rows: int) -> Iterator[pa.Table]:
    return (table.slice(first, num_rows) for first in range(0, len(table), num_rows))
