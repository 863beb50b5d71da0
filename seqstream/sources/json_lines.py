"""JSON lines: an object a line, its fields as columns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.options import names
from seqstream.records import RESERVED, Json, split_row_id
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.files.boundaries import newlines
from seqstream.sources.files.decoding import Errors, check_errors, check_lengths, join_text
from seqstream.sources.files.listing import Paths, find_files, normalize_paths, spread
from seqstream.sources.files.partitions import warn_of_partitions
from seqstream.sources.files.ranges import Corpus, make_limits
from seqstream.sources.files.spans import Piece
from seqstream.sources.locations import Location
from seqstream.sources.source import Source
from seqstream.sources.tables.exact_messages import keep_exact
from seqstream.sources.tables.json_errors import TypeCheck, line_error, rounding_problem
from seqstream.sources.tables.json_keys import (
    LateKeysError,
    describe_sparse,
    find_sparse,
    load_lines,
    may_be_sparse,
)
from seqstream.sources.tables.json_parsing import (
    Types,
    check_late_names,
    count_objects,
    is_shallow,
    known_types,
    parse_objects,
)
from seqstream.sources.tables.nested_types import json_paths, stored_type
from seqstream.sources.tables.rounding import has_large_floats
from seqstream.sources.tables.surrogates import replace_surrogates

_SAMPLED_SHARDS = 8
_COUNTED_BYTES, _COUNTED_SHARDS = 1 << 18, 128
_LISTED = 50
_READ_ERRORS = (OSError, RuntimeError, ValueError)


@dataclasses.dataclass(frozen=True)
class JsonLines(Source):
    r"""Files of JSON objects, one a line; blank lines are no records.

    Read like `TextFiles`: plain files in byte ranges, compressed ones from the front. Types are inferred once, from at most 8
    blocks spread over the files, and hold for all: a value that does not fit is an error. Strings that look like times stay
    strings. A field that first comes later is kept, with a type of its own.

    Objects whose keys are data, with more than 128 different names of which a record has few, are text of JSON in a column or
    field of strings, just as they are in the file: time and memory would grow with the square of the records. Where such keys
    are the fields of records, ``columns`` must name those to read. Fields that are not read may hold anything.

    Beside messages and tools that hold more than text, a field ``exact_json`` of the struct has each as it is in the file, keys
    in their order and nulls where there are any, for chat templates. It is left out of batches.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Fields to read, all if ``None``. Fewer are quicker.
        schema: Arrow types of fields by name, where the first records would mislead: ``{"score": pa.float64()}``. One of
            ``pa.json_()``, also inside of a struct or a list, is text of JSON.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost fewer reads. By default 256 KiB, or less
            so that a small corpus has 128 blocks.
        errors: Where text is not UTF-8, half of an emoji (``"\ud83d"``) included, ``"strict"`` raises and ``"replace"`` puts
            U+FFFD.
        max_record_bytes: A longer line is an error.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        ValueError: While reading, a line is no object, a value does not fit its type, or names grow beyond a thousand.
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        PermissionError: A file may not be read.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Sequence[str] | None = None
    schema: Mapping[str, pa.DataType] | None = None
    block_bytes: int | None = None
    errors: Errors = "strict"
    max_record_bytes: int = 64 << 20
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_errors(self.errors)
        object.__setattr__(self, "columns", names("columns", self.columns))
        if not isinstance(self.schema, Mapping | None):
            raise TypeError(f"schema must be a dict of fields and their Arrow types, got {self.schema!r}")
        for name, kind in (self.schema or {}).items():
            if not isinstance(kind, pa.DataType):
                raise TypeError(f"schema must give an Arrow type for each field, got {kind!r} for {name!r}")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        # Now, so that a missing file is an error where it is named.
        _ = self._corpus
        warn_of_partitions("JsonLines", self._corpus.files.names, lambda: self._base.names)

    @functools.cached_property
    def _corpus(self) -> Corpus:
        files = find_files(normalize_paths(self.paths), "*.jsonl", self.storage_options)
        limits = make_limits(choose_block_bytes(self.block_bytes, files.text_bytes.sum()), self.max_record_bytes)
        return Corpus(files, "json", limits)

    @property
    def num_shards(self) -> int:
        return self._corpus.num_shards

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        for pieces, after in self._corpus.blocks(shard, state):
            text = join_text(pieces, "json", self.errors)
            check_lengths(np.diff(newlines(text), prepend=-1) - 1, pieces, "line", self.max_record_bytes)
            yield self._table(text, pieces) if text.strip() else self._base.empty_table(), after

    def _table(self, text: bytes, pieces: list[Piece]) -> pa.Table:
        table, met = read_objects(text, pieces, self._met[0], self.errors)
        try:
            check_late_names(self._met[0], met)
        except LateKeysError as error:
            raise ValueError(f"{_here(pieces)}: {error}") from None
        self._met[0] = met
        for name in table.column_names:
            if name in RESERVED:
                raise ValueError(
                    f"fields must be none of the reserved {', '.join(RESERVED)}, got {name!r}; leave it out with columns=[...]"
                )
        return table

    def fingerprint(self) -> Json:
        # Not errors, schema and max_record_bytes: who meets a bad record changes these and goes on from the last state.
        columns = None if self.columns is None else list(self.columns)
        block_bytes = self._corpus.limits.block_bytes
        return {"kind": "JsonLines", "columns": columns, "block_bytes": block_bytes, "files": self._files}

    @functools.cached_property
    def _files(self) -> Json:
        return self._corpus.fingerprint()

    def locate(self, row_id: int) -> str:
        return self._corpus.locate(*split_row_id(row_id))

    def place(self, row_id: int) -> Location:
        return self._corpus.place(*split_row_id(row_id))

    def approx_bytes(self, shards: np.ndarray) -> np.ndarray:
        return self._corpus.approx_bytes(shards)

    def approx_blocks(self) -> float:
        return self._corpus.approx_blocks()

    @property
    def _typed(self) -> frozenset[str]:
        return frozenset(self.schema or {})

    @property
    def _base(self) -> pa.Schema:
        """Types of all fields, or of the columns asked for, before the first block is read."""
        return self._start.known

    @functools.cached_property
    def _start(self) -> Types:
        """What is known before the first block is read, with types that are still open."""
        given = pa.schema([field.with_type(stored_type(field.type)) for field in pa.schema(list((self.schema or {}).items()))])
        texts = tuple(path for name, kind in (self.schema or {}).items() for path in json_paths(kind, (name,)))
        start = Types(given, given, self._typed, None if self.columns is None else tuple(self.columns), texts)
        if self.columns is not None and self._typed.issuperset(self.columns):
            return start.replace_known(_select(given, self.columns))
        pieces = self._sample()
        if not pieces:
            names = given.names if self.columns is None else self._typed.intersection(self.columns)
            return start.replace_known(_select(given, names))
        text = join_text(pieces, "json", self.errors)
        if may_be_sparse(text) and is_shallow(text):
            start = expect_names(start, self._text_to_count(text), pieces)
        table, _ = read_objects(text, pieces, start, self.errors)
        if self.columns is None:
            return start.replace_known(table.schema)
        present = table.schema.names
        if not set(present).issuperset(self.columns):
            present = list(dict.fromkeys(name for record in load_lines(text) for name in record))
        return start.replace_known(_select(table.schema, self.columns, present))

    @functools.cached_property
    def _met(self) -> list[Types]:
        """The types of all fields met by this object, as one item: only for an early and clear error where they conflict."""
        columns = None if self.columns is None else tuple(self._base.names)
        return [dataclasses.replace(self._start, known=known_types(self._base), columns=columns)]

    def _sample(self) -> list[Piece]:
        """Return the first blocks of a few shards, or the first block of all that holds an object."""
        sample = [piece for shard in spread(self.num_shards, _SAMPLED_SHARDS) for piece in self._first_with_objects([shard])]
        return sample or self._first_with_objects(range(self.num_shards))

    def _text_to_count(self, text: bytes) -> bytes:
        """Return a sample, or a larger one if it is small, for names of fields to be counted in it."""
        if len(text) >= _COUNTED_BYTES:
            return text
        parts = []
        shards = spread(self.num_shards, _COUNTED_SHARDS)
        for shard in shards:
            size = 0
            # What cannot be read is an error when its turn comes.
            with contextlib.closing(self._corpus.blocks(shard, None)) as blocks, contextlib.suppress(*_READ_ERRORS):
                for pieces, _ in blocks:
                    parts += [piece.text for piece in pieces]
                    size += sum(len(piece.data) for piece in pieces)
                    if size * len(shards) >= _COUNTED_BYTES:
                        break
        return b"\n".join(parts)

    def _first_with_objects(self, shards: Sequence[int]) -> list[Piece]:
        for shard in shards:
            with contextlib.closing(self._corpus.blocks(shard, None)) as blocks:
                for pieces, _ in blocks:
                    if join_text(pieces, "json", self.errors).strip():
                        return pieces
        return []


def read_objects(text: bytes, pieces: list[Piece], types: Types, errors: Errors) -> tuple[pa.Table, Types]:
    """Parse the objects of some pieces; also return the types of all fields met so far.

    With ``errors="replace"``, U+FFFD stands for each half of a surrogate pair.

    Raises:
        ValueError: A line is no object, or a value does not fit, with its file and line.
    """
    try:
        count = count_objects(text)
        # Before Arrow sees them: it ends the process on a first line that is null, and on very deep ones.
        if count is None or not is_shallow(text):
            raise pa.ArrowInvalid("a line is no object, or nests too deeply")
        table = parse_objects(text, types)
        if len(table) == count:
            table = keep_exact(table, text, types.typed, types.texts)
        merged = types.merge(table.schema)
        if merged is None or len(table) != count:
            raise pa.ArrowInvalid("a line holds more than an object, or fields have other types than before")
    except LateKeysError as error:
        raise ValueError(f"{_here(pieces)}: {error}") from None
    except (pa.ArrowException, RecursionError) as error:
        if errors == "replace" and (replaced := replace_surrogates(text)) != text:
            pieces = [piece._replace(data=replace_surrogates(piece.data)) for piece in pieces]
            return read_objects(replaced, pieces, types, errors)
        raise line_error(pieces, TypeCheck(types)) or _unreadable(pieces, error) from error
    if any(has_large_floats(table.column(field.name)) for field in table.schema if field.name not in types.typed):
        rounded = line_error(pieces, lambda line: rounding_problem(line, table.schema, types.typed))
        if rounded:
            raise rounded
    return table, merged


def expect_names(types: Types, text: bytes, pieces: list[Piece]) -> Types:
    """Return types with text of JSON where the objects of a sample have keys that are data, and the number of other names.

    Raises:
        ValueError: So do the records themselves, or an object in a field to which the user has given another type.
    """
    found, count = find_sparse(load_lines(text))
    for sparse in found:
        is_read = types.columns is None or not sparse.path or sparse.path[0] in types.columns
        is_text = any(sparse.path[: len(path)] == path for path in types.texts)
        if (
            is_read
            and not is_text
            and ((not sparse.path and types.columns is None) or (sparse.path and sparse.path[0] in types.typed))
        ):
            raise ValueError(f"{_here(pieces)}: {describe_sparse(sparse)}")
        if is_read and not is_text and sparse.path:
            types = dataclasses.replace(types, texts=(*types.texts, sparse.path))
    return dataclasses.replace(types, num_names=count)


def _here(pieces: list[Piece]) -> str:
    return f"{pieces[0].file.name}, from byte {pieces[0].offset:,} on"


def _unreadable(pieces: list[Piece], error: Exception) -> ValueError:
    return ValueError(f"{_here(pieces)}: lines must be JSON objects, got {error}")


def _select(schema: pa.Schema, columns: Iterable[str], present: Sequence[str] | None = None) -> pa.Schema:
    for name in columns:
        if name not in schema.names:
            names = schema.names if present is None else present
            more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            fields = (", ".join(names[:_LISTED]) or "none") + more
            remedy = "give a field that comes later its type in schema={...}"
            raise ValueError(f"columns must name fields of the records, got {name!r}; there are {fields}, {remedy}")
    return pa.schema([schema.field(name) for name in columns])
