"""What a source is: shards that can be opened one by one and read in blocks.

A source is a frozen description. It holds no position: to go on where a shard was left, it is read again with the state
that came with the last block.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrow import to_arrow, to_numpy
from seqstream.order import hash_index

Json: TypeAlias = Any
"""What ``json.dumps`` takes: dicts with string keys, lists, strings, numbers, booleans, ``None``."""

Block: TypeAlias = tuple[pa.Table, Json]
"""A table of records and the state after it; ``None`` when the shard ends with it."""

RECORD = "record"
"""An optional column of a block: the number of each record in its shard, where they are not consecutive."""

BLOCK_BYTES = 256 << 10
SMALLEST_BLOCK_BYTES = 4 << 10
FEWEST_BLOCKS = 128
"""A corpus of two labels, one after the other, in so many blocks: any eighth of an epoch has both, and not by luck."""

RECORD_BITS = 32
"""A row id is ``shard << 32 | record``."""

ROW_ID = "row_id"
"""The column by which a row is known from source to batch."""

PIECE = "piece"
"""The column that numbers the pieces of a record which `Tokenize(overflow="split")` has cut."""

RESERVED = (ROW_ID, PIECE, RECORD)
"""Columns that belong to the loader: no source gives ``row_id`` or ``piece``, and users' functions see none of them."""


class Source(abc.ABC):
    """Records in shards; subclass it to read anything.

    Two members are needed: `num_shards` and `read`. A shard is what can be opened by itself: a range of bytes, a row
    group, a compressed file. Many small shards mix best; a shard of one block costs no state.
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
        shown = {name: repr(getattr(self, name)) for name, field in fields.items() if field.repr}
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

    def split(self, *, valid: float = 0.05, seed: int = 0) -> tuple[Split, Split]:
        """Split into a training and a validation source, by a hash of the row id.

        Every record is in exactly one of the two, and always in the same one for the same ``seed``.

        Args:
            valid: Share of the records that the second source gets, ``0 < valid < 1``.
            seed: Another seed, another choice.
        """
        return Split(self, valid, seed, held_out=False), Split(self, valid, seed, held_out=True)


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


def split_row_id(row_id: int) -> tuple[int, int]:
    """Return the shard and the record of a row id."""
    return row_id >> RECORD_BITS, row_id & ((1 << RECORD_BITS) - 1)


@dataclasses.dataclass(frozen=True)
class Split(Source):
    """One part of a source, made by `Source.split`."""

    source: Source
    valid: float
    seed: int
    held_out: bool

    def __post_init__(self) -> None:
        if not 0 < self.valid < 1:
            raise ValueError(f"valid must be a share between 0 and 1, got {self.valid}")

    @property
    def num_shards(self) -> int:
        return self.source.num_shards

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        first, inner = state or (0, None)
        for table, after in self.source.read(shard, inner):
            records = record_numbers(table, first)
            first += len(table)
            kept = np.flatnonzero(self._keep(shard, records))
            table = drop_record_numbers(table).take(to_arrow(kept)).append_column(RECORD, to_arrow(records[kept]))
            yield table, None if after is None else [first, after]

    def _keep(self, shard: int, records: np.ndarray) -> np.ndarray:
        held_out = hash_index(records + (shard << RECORD_BITS), self.seed, "split") < np.uint64(self.valid * 2**64)
        return held_out if self.held_out else ~held_out

    def fingerprint(self) -> Json:
        return {"source": self.source.fingerprint(), "valid": self.valid, "seed": self.seed, "held_out": self.held_out}

    def locate(self, row_id: int) -> str:
        return self.source.locate(row_id)

    def approx_blocks(self) -> float | None:
        return self.source.approx_blocks()

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        whole = self.source.approx_bytes(shards)
        part = np.rint(whole * (self.valid if self.held_out else 1 - self.valid)).astype(np.int64)
        return np.where(whole < 0, -1, part)

    @property
    def can_repeat(self) -> bool:
        return self.source.can_repeat


def record_numbers(table: pa.Table, first: int) -> np.ndarray:
    """Return the numbers of a block's records in their shard, ``int64 (rows,)``: given by the source, or consecutive."""
    if RECORD in table.column_names:
        return to_numpy(table.column(RECORD))
    return np.arange(first, first + len(table), dtype=np.int64)


def drop_record_numbers(table: pa.Table) -> pa.Table:
    """Return the table without the source's own record numbers."""
    return table.drop_columns([RECORD]) if RECORD in table.column_names else table
