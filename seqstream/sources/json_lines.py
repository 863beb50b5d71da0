"""JSON Lines: each line is an object, and its fields are columns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import evenly_spaced
from seqstream.options import names, one_of
from seqstream.records import RESERVED, Json
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.corpus_source import CorpusSource
from seqstream.sources.files.boundaries import newlines
from seqstream.sources.files.decoding import ERRORS, Errors, check_lengths, join_text
from seqstream.sources.files.folder_columns import FolderColumns, find_folder_columns, own_columns
from seqstream.sources.files.listing import Paths, find_files, normalize_paths
from seqstream.sources.files.ranges import Corpus, make_limits
from seqstream.sources.files.spans import ByteSpan
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
"""Shards whose first blocks decide on types."""
_COUNTED_BYTES, _COUNTED_SHARDS = 1 << 18, 128
"""Size of the sample in which names of fields are counted, and the most shards that it is from."""
_LISTED = 50
"""Names of fields that an error shows."""
_READ_ERRORS = (OSError, RuntimeError, ValueError)


@dataclasses.dataclass(frozen=True)
class JsonLines(CorpusSource):
    r"""Files of JSON objects, one a line; blank lines are not records.

    Files are read like `TextFiles`: plain files in byte ranges, compressed ones from their beginning. Types are inferred once,
    from at most 8 blocks spaced evenly over the files; a later value of another type is an error. Strings that look like times
    stay strings. A field that is not in these blocks is read as well, with the type of its first values.

    An object whose keys are data, more than 128 different ones of which each record has few, is read as text of JSON, just as
    it is in the file, into a column or field of strings: as a struct, its time and memory would grow with the square of the
    records. If such keys are the fields of the records themselves, ``columns`` must name the fields to read. Fields that are
    not read may hold any JSON.

    A struct of messages or tools that hold more than text gets a field ``exact_json``: the JSON of each as it is in the file,
    with its order of keys and its nulls, for chat templates. Batches do not have it.

    Folders named ``name=value`` are a column too, as in `Parquet`; a field of that name in the records takes precedence.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: Fields to read, all if ``None``. Fewer are faster.
        schema: Arrow types of fields by name, where the first records would mislead: ``{"score": pa.float64()}``. A field of
            type ``pa.json_()``, also inside of a struct or a list, is text of JSON.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost fewer reads. By default 256 KiB, or less
            so that a small corpus has 128 blocks.
        errors: Where text is not UTF-8, or has half of a surrogate pair (``"\ud83d"``), ``"strict"`` raises an error and
            ``"replace"`` puts U+FFFD.
        max_record_bytes: A longer line is an error.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        ValueError: While reading, a line is not an object, a value does not fit the type of its field, or there are more than a
            thousand names of fields.
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
        one_of("errors", self.errors, ERRORS)
        object.__setattr__(self, "columns", names("columns", self.columns))
        if not isinstance(self.schema, Mapping | None):
            raise TypeError(f"schema must be a dict of fields and their Arrow types, got {self.schema!r}")
        for name, kind in (self.schema or {}).items():
            if not isinstance(kind, pa.DataType):
                raise TypeError(f"schema must give an Arrow type for each field, got {kind!r} for {name!r}")
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        _ = self._corpus  # found here, so that the error for a missing file points at the user's line

    @functools.cached_property
    def _corpus(self) -> Corpus:
        files = find_files(normalize_paths(self.paths), "*.jsonl", self.storage_options)
        limits = make_limits(choose_block_bytes(self.block_bytes, files.text_bytes.sum()), self.max_record_bytes)
        return Corpus(files, "json", limits)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        for spans, after in self._corpus.blocks(shard, state):
            text = join_text(spans, "json", self.errors)
            check_lengths(np.diff(newlines(text), prepend=-1) - 1, spans, "line", self.max_record_bytes)
            table = self._table(text, spans) if text.strip() else self._base.empty_table()
            yield self._with_folders(table, spans), after

    def _table(self, text: bytes, spans: list[ByteSpan]) -> pa.Table:
        table, types = read_objects(text, spans, self._latest_types[0], self.errors)
        try:
            check_late_names(self._latest_types[0], types)
        except LateKeysError as error:
            raise ValueError(f"{_location(spans)}: {error}") from None
        self._latest_types[0] = types
        for name in table.column_names:
            if name in RESERVED:
                raise ValueError(
                    f"fields must be none of the reserved {', '.join(RESERVED)}, got {name!r}; leave it out with columns=[...]"
                )
            if self._folders is not None and name in self._folders.schema.names:
                remedy = f"pass schema={{{name!r}: ...}} to read it, or leave it out with columns=[...]"
                raise ValueError(f"{_location(spans)}: field {name!r} cannot come late, as folders have that name; {remedy}")
        return table

    def fingerprint(self) -> Json:
        # Without errors, schema and max_record_bytes: a user may change these after a bad record, and resume.
        columns = None if self.columns is None else list(self.columns)
        block_bytes = self._corpus.limits.block_bytes
        of_files = {"files": self._files, **self._folders_fingerprint}
        return {"kind": "JsonLines", "columns": columns, "block_bytes": block_bytes, **of_files}

    @functools.cached_property
    def _folders(self) -> FolderColumns | None:
        found = find_folder_columns(self._corpus.files.names)
        found = found and found.without(self._base.names)
        return found and found.chosen(self.columns)

    @property
    def is_read_by_workers(self) -> bool:
        # Otherwise the first value of a field decides which types it may have later.
        return super().is_read_by_workers and self.columns is not None and len(known_types(self._base)) == len(self._base)

    @property
    def _typed(self) -> frozenset[str]:
        return frozenset(self.schema or {})

    @property
    def _base(self) -> pa.Schema:
        """Types of all fields, or of ``columns``, before the first block is read."""
        return self._start.known

    @functools.cached_property
    def _start(self) -> Types:
        """The types known before the first block is read; some may still be open."""
        given = pa.schema([field.with_type(stored_type(field.type)) for field in pa.schema(list((self.schema or {}).items()))])
        texts = tuple(path for name, kind in (self.schema or {}).items() for path in json_paths(kind, (name,)))
        start = Types(given, given, self._typed, None if self.columns is None else tuple(self.columns), texts)
        if self.columns is not None and self._typed.issuperset(self.columns):
            return start.replace_known(_select(given, self.columns))
        spans = self._sample()
        if not spans:
            names = given.names if self.columns is None else self._typed.intersection(self.columns)
            return start.replace_known(_select(given, names))
        text = join_text(spans, "json", self.errors)
        if may_be_sparse(text) and is_shallow(text):
            start = expect_names(start, self._text_to_count(text), spans)
        table, _ = read_objects(text, spans, start, self.errors)
        if self.columns is None:
            return start.replace_known(table.schema)
        present = table.schema.names
        if not set(present).issuperset(self.columns):
            present = list(dict.fromkeys(name for record in load_lines(text) for name in record))
        columns = own_columns(self.columns, present, find_folder_columns(self._corpus.files.names)) or ()
        return start.replace_known(_select(table.schema, columns, present))

    @functools.cached_property
    def _latest_types(self) -> list[Types]:
        """The types of all fields read so far, as the only item: they serve early and clear errors where types conflict."""
        columns = None if self.columns is None else tuple(self._base.names)
        return [dataclasses.replace(self._start, known=known_types(self._base), columns=columns)]

    def _sample(self) -> list[ByteSpan]:
        """Return the first blocks with objects of a few shards; if these have none, the first such block of all shards."""
        sample = [
            span for shard in evenly_spaced(self.num_shards, _SAMPLED_SHARDS) for span in self._first_with_objects([shard])
        ]
        return sample or self._first_with_objects(range(self.num_shards))

    def _text_to_count(self, text: bytes) -> bytes:
        """Return the sample ``text``, or a larger one if it is small, in which the names of fields are counted."""
        if len(text) >= _COUNTED_BYTES:
            return text
        parts = []
        shards = evenly_spaced(self.num_shards, _COUNTED_SHARDS)
        for shard in shards:
            size = 0
            # Errors are raised later, when the records are read.
            with contextlib.closing(self._corpus.blocks(shard, None)) as blocks, contextlib.suppress(*_READ_ERRORS):
                for spans, _ in blocks:
                    parts += [span.text for span in spans]
                    size += sum(len(span.data) for span in spans)
                    if size * len(shards) >= _COUNTED_BYTES:
                        break
        return b"\n".join(parts)

    def _first_with_objects(self, shards: Sequence[int]) -> list[ByteSpan]:
        """Return the first block of some shards that holds an object; empty if none does."""
        for shard in shards:
            with contextlib.closing(self._corpus.blocks(shard, None)) as blocks:
                for spans, _ in blocks:
                    if join_text(spans, "json", self.errors).strip():
                        return spans
        return []


def read_objects(text: bytes, spans: list[ByteSpan], types: Types, errors: Errors) -> tuple[pa.Table, Types]:
    """Parse the objects of spans; also return ``types`` with those of the fields that are new.

    Args:
        text: The text of the spans, each line ending with a newline.
        spans: Where the text is from, for errors.
        types: Types of the fields read so far.
        errors: ``"replace"`` puts U+FFFD for each half of a surrogate pair.

    Raises:
        ValueError: A line is not an object, or a value does not fit; the message has the file and the line.
    """
    try:
        count = count_objects(text)
        # Arrow must not get such lines: a null in the first line, or deep nesting, ends the process.
        if count is None or not is_shallow(text):
            raise pa.ArrowInvalid("a line is not an object, or is nested too deeply")
        table = parse_objects(text, types)
        if len(table) == count:
            table = keep_exact(table, text, types.typed, types.texts)
        merged = types.merge(table.schema)
        if merged is None or len(table) != count:
            raise pa.ArrowInvalid("a line holds more than an object, or fields have other types than before")
    except LateKeysError as error:
        raise ValueError(f"{_location(spans)}: {error}") from None
    except (pa.ArrowException, RecursionError) as error:
        if errors == "replace" and (replaced := replace_surrogates(text)) != text:
            spans = [span._replace(data=replace_surrogates(span.data)) for span in spans]
            return read_objects(replaced, spans, types, errors)
        raise line_error(spans, TypeCheck(types)) or _unreadable(spans, error) from error
    if any(has_large_floats(table.column(field.name)) for field in table.schema if field.name not in types.typed):
        rounded = line_error(spans, lambda line: rounding_problem(line, table.schema, types.typed))
        if rounded:
            raise rounded
    return table, merged


def expect_names(types: Types, text: bytes, spans: list[ByteSpan]) -> Types:
    """Return types that read objects whose keys are data, in a sample, as text of JSON, and the number of other names.

    Raises:
        ValueError: The keys of the records themselves are data, or those of an object in a field to which the user has given
            another type.
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
            raise ValueError(f"{_location(spans)}: {describe_sparse(sparse)}")
        if is_read and not is_text and sparse.path:
            types = dataclasses.replace(types, texts=(*types.texts, sparse.path))
    return dataclasses.replace(types, num_names=count)


def _location(spans: list[ByteSpan]) -> str:
    """Return where a block begins, as text for messages."""
    return f"{spans[0].file.name}, from byte {spans[0].offset:,} on"


def _unreadable(spans: list[ByteSpan], error: Exception) -> ValueError:
    return ValueError(f"{_location(spans)}: lines must be JSON objects, got {error}")


def _select(schema: pa.Schema, columns: Iterable[str], present: Sequence[str] | None = None) -> pa.Schema:
    for name in columns:
        if name not in schema.names:
            names = schema.names if present is None else present
            more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            fields = (", ".join(names[:_LISTED]) or "none") + more
            remedy = "give a field that comes later its type in schema={...}"
            raise ValueError(f"columns must name fields of the records, got {name!r}; there are {fields}, {remedy}")
    return pa.schema([schema.field(name) for name in columns])
