"""Files of tokens as a source."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.options import one_of, yes_or_no
from seqstream.records import RECORD_BITS, Json, split_row_id
from seqstream.sources.blocks import Block, check_count
from seqstream.sources.files.listing import Paths
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tokens.formats import open_store
from seqstream.sources.tokens.token_store import TokenInfo, TokenStore, without_row_numbers

RUN_BYTES = 4 << 20
"""Bytes of rows that are read at once where rows are shuffled: in the order in which they lie in the files."""


@dataclasses.dataclass(frozen=True)
class TokenFiles(Source):
    """Rows of token ids from files, as `write_tokens` and other libraries write them.

    A block of a file is a shard, mapped into memory and not copied. A `Loader` of these files pads as one of the text does:
    stages that made the rows are known, and may be given to the loader again, which then checks that they are the same.

    Args:
        paths: A folder that `write_tokens` has made; or files of Megatron-LM (``.bin`` and ``.idx``), datatrove (``.ds``),
            llm.c and modded-nanogpt, or bare ids as OLMo, dolma and nanoGPT write them: a path, a glob, a folder or a list of
            these. What they are is found by their content.
        shuffle: What a loader that shuffles visits in random order: ``"blocks"`` of neighbouring rows, whose rows then mix
            within a window; or ``"rows"``, each by itself, so that a corpus sorted by class mixes perfectly. The order of rows
            is a function of seed and epoch, of which nothing is kept in memory. Blocks are compared with their checksums when
            a process first reads them, and single rows are not: `verify` compares all.
        end: The token that ends each document, for files that do not say where documents end; rows keep it. In files of llm.c
            the token that begins each document.
        dtype: Type of bare ids, ``"uint16"`` or ``"uint32"``.
        mmap: Whether files are mapped into memory; with ``False`` each block is read when it is needed, and rows of
            ``shuffle="rows"`` slowly.

    Raises:
        FileNotFoundError: There is no such folder, or it is not complete.
        ValueError: The files are damaged, or do not fit their manifest.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    shuffle: Literal["blocks", "rows"] = "blocks"
    end: int | None = None
    dtype: str | None = None
    mmap: bool = True

    def __post_init__(self) -> None:
        one_of("shuffle", self.shuffle, ("blocks", "rows"))
        yes_or_no("mmap", self.mmap)
        store = self._store  # opens the files, so that what is wrong is found here
        num_rows = store.count_rows() if self.shuffle == "rows" else 0
        if num_rows >> RECORD_BITS:
            raise ValueError(f"shuffle='rows' can visit up to 2**{RECORD_BITS} rows, got {num_rows:,}; use 'blocks'")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    @property
    def num_rows(self) -> int | None:
        """Number of rows; ``None`` if it is not known without reading all."""
        return self._store.num_rows

    @property
    def num_tokens(self) -> int | None:
        """Number of tokens of all rows; ``None`` if it is not known without reading all."""
        return self._store.num_tokens

    @property
    def token_info(self) -> TokenInfo:
        return self._store.info

    @property
    def num_shards(self) -> int:
        return 1 if self._is_by_row else self._store.num_blocks

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        if not self._is_by_row:
            yield without_row_numbers(self._store.read(shard)), None
            return
        num = self._store.num_blocks
        for block in range(check_count(state), num):
            yield without_row_numbers(self._store.read(block)), block + 1 if block + 1 < num else None

    @property
    def num_records(self) -> int | None:
        return self._store.num_rows if self._is_by_row else None

    def take(self, records: Index) -> pa.Table:
        return without_row_numbers(self._store.take(records))

    @functools.cached_property
    def approx_record_bytes(self) -> float:
        total = self._store.num_bytes(np.arange(self._store.num_blocks)).sum()
        return float(total / max(1, self._store.num_rows or 0))

    @property
    def records_per_block(self) -> int:
        return max(1, int(RUN_BYTES / max(self.approx_record_bytes, 1)))

    def approx_bytes(self, shards: Index) -> Index:
        return np.full(len(shards), -1) if self._is_by_row else self._store.num_bytes(shards)

    def approx_blocks(self) -> float:
        return float(self._store.num_blocks)

    def fingerprint(self) -> Json:
        return {"kind": "TokenFiles", "shuffle": self.shuffle, **self._store.fingerprint()}

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        return self._store.location_of_row(record) if self._is_by_row else self._store.location(shard, record)

    def locate(self, row_id: int) -> str:
        file, row = self.place(row_id)
        return f"{file}, row {row:,}"

    def verify(self) -> None:
        """Read all blocks and compare their checksums.

        Raises:
            ValueError: A block is damaged; the message names it.
        """
        store = self._open_store()  # anew, as the other compares each block only once
        for block in range(store.num_blocks):
            store.read(block)

    @functools.cached_property
    def _store(self) -> TokenStore:
        return self._open_store()

    def _open_store(self) -> TokenStore:
        return open_store(self.paths, end=self.end, dtype=self.dtype, mmap=self.mmap)

    @property
    def _is_by_row(self) -> bool:
        return self.shuffle == "rows"
