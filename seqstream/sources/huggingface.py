"""Hugging Face data sets and streams."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index, evenly_spaced
from seqstream.options import bare_name, num_bytes
from seqstream.records import Json, split_row_id
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.huggingface_streams import check_stream, copy_steps, has_separate_shards
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.nested_types import Path
from seqstream.sources.tables.python_records import batches_of, find_texts, to_table
from seqstream.sources.tables.reblocking import blocks
from seqstream.sources.tables.schema import conform, stable_schema

if TYPE_CHECKING:
    import datasets

TableOrDict: TypeAlias = pa.Table | Mapping[str, Any]
"""Rows as an Arrow table, or as a dict of columns of Python objects."""

_SAMPLED_ROWS = 16
_HEAD_ROWS = 64
_READ_ROWS = 64

_RENAME = "use dataset.rename_column or dataset.remove_columns"
_DECLARE = "say what the columns hold with dataset.cast(features)"
_MEND = "make the transform return values of one type"


@dataclasses.dataclass(frozen=True, repr=False)
class HFDataset(Source):
    """Records of a ``datasets.Dataset`` or ``datasets.IterableDataset``: one split, all its columns.

    A data set is read in ranges of rows of about ``block_bytes``, each a shard, so it is shuffled as a whole; indices of
    ``select`` or ``shuffle`` are followed. A stream is read shard by shard, front to back; to resume in the middle of a shard,
    the stream's own ``map`` and ``filter`` run again over the records before. Steps that depend on other shards (``take``,
    ``skip``, ``interleave_datasets``, ``map(with_indices=True)``) make the stream one shard.

    A transform (``with_transform``) is applied: rows are what ``dataset[i]`` returns. Of another format (``with_format``) the
    columns are used and the type is not: values stay as they are stored, images and audio undecoded, ``Json()`` as text.
    The types of a stream without features, and of a transform, are those of the first 64 rows; dicts whose keys are data,
    different in each row, become text of JSON there. A stream that is random without a seed, or in its ``map``, cannot be
    resumed; a random transform returns other values after a resume.

    Args:
        dataset: The result of ``load_dataset(..., split=...)``, with or without ``streaming=True``.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost less each. By default 256 KiB, or less
            so that a small data set has 128 blocks.

    Raises:
        TypeError: ``dataset`` is of another type, or has several splits.
        ValueError: A stream shuffles, repeats without end or is divided among nodes, all of which the loader does; or the
            format converts types.
    """

    dataset: datasets.Dataset | datasets.IterableDataset
    block_bytes: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.block_bytes is not None:
            object.__setattr__(self, "block_bytes", num_bytes("block_bytes", self.block_bytes))
        _check_kind(self.dataset)
        if self._streams:
            check_stream(self.dataset)
        else:
            _check_format(self.dataset)

    def __repr__(self) -> str:
        columns = ", ".join(self._columns or self.dataset.column_names or ["columns unknown"])
        size = f"{self.num_shards} shards" if self._streams else f"{len(self.dataset):,} rows"
        return f"HFDataset({type(self.dataset).__name__} of {columns}; {size})"

    @property
    def num_shards(self) -> int:
        if self._streams:
            count: int = self.dataset.num_shards if has_separate_shards(self.dataset._ex_iterable) else 1
            return count
        return -(-len(self.dataset) // self._rows_per_shard)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        if not self._streams:
            first = shard * self._rows_per_shard
            yield self._rows(range(first, min(first + self._rows_per_shard, len(self.dataset)))), None
            return
        tables = (conform(self._as_table(rows), self._schema, _DECLARE) for rows in self._stream_rows(shard))
        try:
            yield from blocks(tables, state, self._block_bytes)
        except Exception as error:
            error.add_note(f"while reading shard {shard} of the stream")
            raise

    def fingerprint(self) -> Json:
        sample = self._head if self._streams else self._stored(evenly_spaced(len(self.dataset), _SAMPLED_ROWS))
        transform = {} if self._transform is None else {"transform": bare_name(self._transform)}
        return {
            "kind": "HFDataset",
            "stream": self._streams,
            "rows": None if self._streams else len(self.dataset),
            "num_shards": self.num_shards,
            "block_bytes": self._block_bytes,
            "columns": {field.name: str(field.type) for field in self._schema},
            "sample": hashlib.blake2b(repr(sample.to_pydict()).encode(), digest_size=16).hexdigest(),
            **transform,
        }

    def locate(self, row_id: int) -> str:
        holder, number = self.place(row_id)
        return f"{'record' if self._streams else 'row'} {number} of {holder}"

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        if self._streams:
            return Location(f"shard {shard} of the stream", record)
        return Location("the data set", shard * self._rows_per_shard + record)

    def approx_bytes(self, shards: Index) -> Index:
        return np.full(len(shards), -1 if self._streams else self._block_bytes)

    def approx_blocks(self) -> float | None:
        return None if self._streams else float(self.num_shards)

    @functools.cached_property
    def _streams(self) -> bool:
        import datasets

        return isinstance(self.dataset, datasets.IterableDataset)

    @functools.cached_property
    def _row_bytes(self) -> float:
        stored = self.dataset.data
        return float(max(stored.nbytes, 1) / max(len(stored), 1))

    @functools.cached_property
    def _block_bytes(self) -> int:
        return choose_block_bytes(self.block_bytes, None if self._streams else self._row_bytes * len(self.dataset))

    @functools.cached_property
    def _rows_per_shard(self) -> int:
        return max(1, int(self._block_bytes / self._row_bytes))

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        schema = self._raw_head.schema if self._declared is None else self._declared
        return stable_schema(schema if self._columns is None else pa.schema(map(schema.field, self._columns)), _RENAME)

    @property
    def _transform(self) -> Callable[..., Any] | None:
        """The function of ``with_transform``, which computes rows when they are read; ``None`` without one."""
        transforms = not self._streams and self.dataset.format["type"] == "custom"
        return self.dataset.format["format_kwargs"]["transform"] if transforms else None

    @property
    def _columns(self) -> list[str] | None:
        """The columns that a format selects from a data set; ``None`` for all, or for those of a transform."""
        if self._streams or self._transform is not None or self.dataset.format["output_all_columns"]:
            return None
        return list(self.dataset.format["columns"])

    @functools.cached_property
    def _first_rows(self) -> TableOrDict:
        """The first rows of a stream or of a transform; the first shards of a stream may have none, because of a filter."""
        if not self._streams:
            return self._transformed(range(min(_HEAD_ROWS, len(self.dataset))))
        for shard in range(self.num_shards):
            for rows in self._stream_rows(shard, _HEAD_ROWS):
                if not isinstance(rows, pa.Table) or len(rows):
                    return rows
        return pa.table({})

    @functools.cached_property
    def _texts(self) -> tuple[Path, ...]:
        """Paths of dicts whose keys are data, in the first rows: they become text of JSON."""
        if self._declared is not None or isinstance(self._first_rows, pa.Table):
            return ()
        return find_texts(self._first_rows)

    @property
    def _raw_head(self) -> pa.Table:
        return self._as_table(self._first_rows)

    @property
    def _head(self) -> pa.Table:
        return conform(self._raw_head, self._schema, _DECLARE).slice(0, _SAMPLED_ROWS)

    def _rows(self, rows: range | list[int]) -> pa.Table:
        if self._transform is None:
            return conform(self._stored(rows), self._schema, _DECLARE)
        try:
            return conform(self._as_table(self._transformed(rows)), self._schema, _MEND)
        except Exception as error:
            error.add_note(f"in the transform of the data set, rows {rows[0]} to {rows[-1]}")
            raise

    def _stored(self, rows: range | list[int]) -> pa.Table:
        return self._arrow[_key(rows)].combine_chunks()

    @functools.cached_property
    def _arrow(self) -> datasets.Dataset:
        """The data set in the format of Arrow tables, which takes longer to build than a shard takes to read."""
        return self.dataset.with_format("arrow", columns=self._columns)

    def _transformed(self, rows: range | list[int]) -> Mapping[str, Any]:
        columns = self.dataset[_key(rows)] if len(rows) else {}
        if not isinstance(columns, Mapping):
            raise TypeError(f"transform must return a dict of columns, got {type(columns).__name__}")
        for name, values in columns.items():
            if len(values) != len(rows):
                raise ValueError(
                    f"transform must return a value for each row, got {len(values)} of column '{name}' for {len(rows)} rows; "
                    "use dataset.map or dataset.filter to make more or fewer rows"
                )
        return columns

    @property
    def _declared(self) -> pa.Schema | None:
        """Types of the columns that the features of the data set declare; ``None`` for those of a transform."""
        features = None if self._transform is not None else self.dataset.features
        return None if features is None else features.arrow_schema

    def _as_table(self, rows: TableOrDict) -> pa.Table:
        if isinstance(rows, pa.Table):
            return rows
        return to_table(rows, self._declared, _DECLARE if self._streams else _MEND, self._texts)

    def _stream_rows(self, shard: int, num_rows: int = _READ_ROWS) -> Iterator[TableOrDict]:
        """Yield a shard's records as the stream yields them, ``num_rows`` at once."""
        stream = self.dataset.shard(self.num_shards, shard)
        stream._ex_iterable = copy_steps(stream._ex_iterable)
        if stream._ex_iterable.iter_arrow is not None:
            yield from stream.with_format("arrow").iter(num_rows)
            return
        # Not with_format("arrow") for records that are Python objects: it builds a table of each record, and fails where a
        # value is None in one record and not in the next.
        yield from batches_of(stream.with_format(None), num_rows)


def _check_kind(dataset: object) -> None:
    import datasets

    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = ", ".join(map(repr, dataset))
        first = next(iter(dataset), "train")
        raise TypeError(f"dataset must be one split, got {type(dataset).__name__} with {splits}; pass dataset[{first!r}]")
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise TypeError(f"dataset must be a datasets.Dataset or datasets.IterableDataset, got {type(dataset).__name__}")


def _check_format(dataset: datasets.Dataset) -> None:
    kwargs = dataset.format["format_kwargs"]
    if "dtype" in kwargs:
        raise ValueError(
            f"dataset cannot have the format dtype={kwargs['dtype']}, tensors have the types of the columns; "
            "pass dataset.with_format(None), and cast with dataset.cast_column or Map"
        )


def _key(rows: range | list[int]) -> slice | list[int]:
    return slice(rows.start, rows.stop) if isinstance(rows, range) else rows
