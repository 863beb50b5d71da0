"""Hugging Face data sets and streams, read as Arrow tables."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.options import num_bytes
from seqstream.records import Json, split_row_id
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.files.listing import spread
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.nested_types import Path
from seqstream.sources.tables.python_records import batches_of, find_texts, to_table
from seqstream.sources.tables.reblocking import blocks
from seqstream.sources.tables.schema import conform, plain_schema

if TYPE_CHECKING:
    import datasets

Batch: TypeAlias = pa.Table | Mapping[str, Any]
"""Rows as Arrow has them, or as columns of Python objects."""

_SAMPLED_ROWS = 16
_HEAD_ROWS = 64
_READ_ROWS = 64
_APART = {
    "ExamplesIterable",
    "ArrowExamplesIterable",
    "RebatchedArrowExamplesIterable",
    "SelectColumnsIterable",
    "FormattedExamplesIterable",
    "VerticallyConcatenatedMultiSourcesExamplesIterable",
}
"""Steps of a stream that treat each shard by itself."""

_RENAME = "use dataset.rename_column or dataset.remove_columns"
_DECLARE = "say what the columns hold with dataset.cast(features)"
_MEND = "make the transform give one kind of value"


@dataclasses.dataclass(frozen=True, repr=False)
class HFDataset(Source):
    """Records of a ``datasets.Dataset`` or ``datasets.IterableDataset``: one split, all its columns.

    A data set is read in ranges of rows of about ``block_bytes``, each a shard, so it is shuffled as a whole; indices
    made by ``select`` or ``shuffle`` are followed. A stream is read shard by shard, front to back; going on in the middle of
    a shard runs the stream's own ``map`` and ``filter`` again over what comes before. Steps that depend on what other shards
    hold (``take``, ``skip``, ``interleave_datasets``, ``map(with_indices=True)``) make the stream one shard.

    A transform (``with_transform``) is applied: rows are what ``dataset[i]`` gives. Of other formats (``with_format``) the
    columns are heeded and the type is not: values come as they are stored, images and sounds undecoded, ``Json()`` as text.
    A stream without features, and a transform, take their types from the first 64 rows; dicts whose keys are data, with others
    in each row, become text of JSON there. A stream that is random without a seed,
    or in its ``map``, cannot be resumed; a random transform gives other values then.

    Args:
        dataset: What ``load_dataset(..., split=...)`` gives, with or without ``streaming=True``.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost less each. By default 256 KiB, or less
            so that a small data set has 128 blocks.

    Raises:
        TypeError: ``dataset`` is something else, or has several splits.
        ValueError: A stream shuffles, repeats without end or is divided among nodes: the loader does that. The format casts.
    """

    dataset: datasets.Dataset | datasets.IterableDataset
    block_bytes: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.block_bytes is not None:
            object.__setattr__(self, "block_bytes", num_bytes("block_bytes", self.block_bytes))
        _check_kind(self.dataset)
        if self._streams:
            _check_stream(self.dataset)
        else:
            _check_format(self.dataset)

    def __repr__(self) -> str:
        columns = ", ".join(self._columns or self.dataset.column_names or ["columns unknown"])
        size = f"{self.num_shards} shards" if self._streams else f"{len(self.dataset):,} rows"
        return f"HFDataset({type(self.dataset).__name__} of {columns}; {size})"

    @property
    def num_shards(self) -> int:
        if self._streams:
            count: int = self.dataset.num_shards if _shards_apart(self.dataset._ex_iterable) else 1
            return count
        return -(-len(self.dataset) // self._rows_per_shard)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        if not self._streams:
            first = shard * self._rows_per_shard
            yield self._rows(range(first, min(first + self._rows_per_shard, len(self.dataset)))), None
            return
        tables = (conform(self._as_table(batch), self._schema, _DECLARE) for batch in self._stream_batches(shard))
        try:
            yield from blocks(tables, state, self._block_bytes)
        except Exception as error:
            error.add_note(f"while reading shard {shard} of the stream")
            raise

    def fingerprint(self) -> Json:
        sample = self._head if self._streams else self._stored(spread(len(self.dataset), _SAMPLED_ROWS))
        transform = {} if self._transform is None else {"transform": _name_of(self._transform)}
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
        place, number = self.place(row_id)
        return f"{'record' if self._streams else 'row'} {number} of {place}"

    def place(self, row_id: int) -> Location:
        shard, record = split_row_id(row_id)
        if self._streams:
            return Location(f"shard {shard} of the stream", record)
        return Location("the data set", shard * self._rows_per_shard + record)

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
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
        if self._transform is not None:
            return plain_schema(self._raw_head.schema, _RENAME)
        features = self.dataset.features
        schema = features.arrow_schema if features is not None else self._raw_head.schema
        return plain_schema(schema if self._columns is None else pa.schema(map(schema.field, self._columns)), _RENAME)

    @property
    def _transform(self) -> Callable[..., Any] | None:
        """The function of ``with_transform``, which makes rows when they are read."""
        transforms = not self._streams and self.dataset.format["type"] == "custom"
        return self.dataset.format["format_kwargs"]["transform"] if transforms else None

    @property
    def _columns(self) -> list[str] | None:
        """The columns that a format leaves of a data set, ``None`` for all, or for those that a transform makes."""
        if self._streams or self._transform is not None or self.dataset.format["output_all_columns"]:
            return None
        return list(self.dataset.format["columns"])

    @functools.cached_property
    def _first_batch(self) -> Batch:
        """The first rows of a stream or of a transform; a filter may leave nothing of the first shards of a stream."""
        if not self._streams:
            return self._transformed(range(min(_HEAD_ROWS, len(self.dataset))))
        for shard in range(self.num_shards):
            for batch in self._stream_batches(shard, _HEAD_ROWS):
                if not isinstance(batch, pa.Table) or len(batch):
                    return batch
        return pa.table({})

    @functools.cached_property
    def _texts(self) -> tuple[Path, ...]:
        """Where dicts have keys that are data, by the first rows: they become text of JSON."""
        is_said = self._transform is None and self.dataset.features is not None
        return () if is_said or isinstance(self._first_batch, pa.Table) else find_texts(self._first_batch)

    @property
    def _raw_head(self) -> pa.Table:
        return self._as_table(self._first_batch)

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
        """The data set that gives tables of Arrow: to make one takes longer than to read a shard."""
        return self.dataset.with_format("arrow", columns=self._columns)

    def _transformed(self, rows: range | list[int]) -> Mapping[str, Any]:
        made = self.dataset[_key(rows)] if len(rows) else {}
        if not isinstance(made, Mapping):
            raise TypeError(f"transform must return a dict of columns, got {type(made).__name__}")
        for name, values in made.items():
            if len(values) != len(rows):
                raise ValueError(
                    f"transform must return a value for each row, got {len(values)} of column '{name}' for {len(rows)} rows; "
                    "use dataset.map or dataset.filter to make more or fewer rows"
                )
        return made

    def _as_table(self, batch: Batch) -> pa.Table:
        if isinstance(batch, pa.Table):
            return batch
        said = None if self._transform is not None or self.dataset.features is None else self.dataset.features.arrow_schema
        return to_table(batch, said, _DECLARE if self._streams else _MEND, self._texts)

    def _stream_batches(self, shard: int, rows: int = _READ_ROWS) -> Iterator[Batch]:
        """Yield a shard's records as the stream gives them, ``rows`` at once."""
        stream = self.dataset.shard(self.num_shards, shard)
        stream._ex_iterable = _own_copy(stream._ex_iterable)
        if stream._ex_iterable.iter_arrow is not None:
            yield from stream.with_format("arrow").iter(rows)
            return
        # Records that are Python objects are not left to with_format("arrow"): it makes a table of each record, and fails
        # where a value is None in one and not in the next.
        yield from batches_of(stream.with_format(None), rows)


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


def _name_of(function: Callable[..., Any]) -> str:
    """Return a name that is the same in every process."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _check_stream(dataset: datasets.IterableDataset) -> None:
    if dataset._distributed is not None:
        raise ValueError(
            "dataset cannot be divided by split_dataset_by_node; pass all of it, the loader divides it among the ranks"
        )
    for step in _walk(dataset._ex_iterable):
        if "BufferShuffledExamplesIterable" in _kinds(step):
            raise ValueError(
                "dataset cannot have a shuffle buffer, which is lost on resume; the loader shuffles, remove .shuffle()"
            )
        if "RepeatExamplesIterable" in _kinds(step) and step.num_times is None:
            raise ValueError("dataset cannot repeat without end; remove .repeat() and set Loader(epochs=None)")


def _children(step: Any) -> list[Any]:
    return [step.ex_iterable] if hasattr(step, "ex_iterable") else list(getattr(step, "ex_iterables", ()))


def _walk(step: Any) -> Iterator[Any]:
    yield step
    for child in _children(step):
        yield from _walk(child)


def _shards_apart(step: Any) -> bool:
    """Say whether the shards, read one by one, hold just what the stream read whole would."""
    kinds = _kinds(step)
    if "MappedExamplesIterable" in kinds:  # filtered ones, too
        apart = not step.with_indices and not step.drop_last_batch and (step.batch_size or 0) > 0
    else:
        apart = not _APART.isdisjoint(kinds)
    return apart and all(map(_shards_apart, _children(step)))


def _kinds(step: Any) -> set[str]:
    """Return the names of a step's classes: not every version of the package has each of them."""
    return {kind.__name__ for kind in type(step).__mro__}


def _own_copy(step: Any) -> Any:
    """Copy the steps of a stream, not their data: steps keep their position in themselves, and two readers would share it."""
    own = copy.copy(step)
    if hasattr(own, "ex_iterable"):
        own.ex_iterable = _own_copy(own.ex_iterable)
    elif hasattr(own, "ex_iterables"):
        own.ex_iterables = [_own_copy(child) for child in own.ex_iterables]
    return own
