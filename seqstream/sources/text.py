"""Plain text: a record is a line, a paragraph or a file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from seqstream.options import column_name, one_of
from seqstream.records import RESERVED, Json
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.corpus_source import CorpusSource
from seqstream.sources.files.aligned import Aligned
from seqstream.sources.files.decoding import ERRORS, Errors, decode_records
from seqstream.sources.files.folder_columns import FolderColumns, find_folder_columns
from seqstream.sources.files.listing import Paths, find_files, normalize_paths
from seqstream.sources.files.ranges import Corpus, make_limits

Unit: TypeAlias = Literal["line", "paragraph", "file"]


@dataclasses.dataclass(frozen=True)
class TextFiles(CorpusSource):
    r"""Plain or compressed text files; a record is a line, a paragraph or a whole file.

    Plain files are read in byte ranges, as if they were one concatenated file, so that many small files and one huge file both
    start at once and shuffle well. Compressed files and aligned files are read from their beginning. A record ends with its
    file.

    Lines end with ``\n`` or ``\r\n`` and nothing else; an empty line is an empty record. Paragraphs are separated by blank
    lines, which have white space only; within them ``\r\n`` becomes ``\n``. A byte order mark at a file's beginning is dropped.

    Folders named ``name=value`` are a column too, as in `Parquet`; aligned files do not have it.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these; or, for files aligned
            line by line, a dict of these, ``{"source": "train.de", "target": "train.fr"}``: a column for each key.
        unit: What a record is: ``"line"``, ``"paragraph"`` or ``"file"``.
        field: Name of the column of text.
        folder: Name of a column for the name of the folder that each file is in, ``"label"`` for ``train/pos/1.txt`` and
            ``train/neg/2.txt``; `ClassLabels` makes numbers of it. ``None`` for no such column.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost fewer reads. By default 256 KiB, or less
            so that a small corpus has 128 blocks.
        errors: Where text is not UTF-8, ``"strict"`` raises an error and ``"replace"`` puts U+FFFD.
        max_record_bytes: A longer record is an error.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        PermissionError: A file may not be read.
    """

    paths: Paths | Mapping[str, Paths]
    _: dataclasses.KW_ONLY
    unit: Unit = "line"
    field: str = "text"
    folder: str | None = None
    block_bytes: int | None = None
    errors: Errors = "strict"
    max_record_bytes: int = 64 << 20
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        column_name("field", self.field)
        one_of("unit", self.unit, ("line", "paragraph", "file"))
        one_of("errors", self.errors, ERRORS)
        object.__setattr__(self, "paths", _normalize(self.paths, self.unit))
        for name in self._fields:
            if name in RESERVED:
                raise ValueError(f"field must be none of the reserved {', '.join(RESERVED)}, got {name!r}")
        if self.folder is not None:
            column_name("folder", self.folder)
            if self.folder in self._fields or isinstance(self.paths, Mapping):
                rule = f"a column besides {', '.join(map(repr, self._fields))}, of files that are not aligned"
                raise ValueError(f"folder must be the name of {rule}, got {self.folder!r}")
        _ = self._folders  # found here, so that the error for a missing file points at the user's line

    @functools.cached_property
    def _corpus(self) -> Corpus | Aligned:
        paths = self.paths if isinstance(self.paths, Mapping) else {self.field: self.paths}
        files = {name: find_files(normalize_paths(own), storage_options=self.storage_options) for name, own in paths.items()}
        first = next(iter(files.values()))
        limits = make_limits(choose_block_bytes(self.block_bytes, first.text_bytes.sum()), self.max_record_bytes)
        return Aligned(files, limits) if isinstance(self.paths, Mapping) else Corpus(first, self.unit, limits)

    @functools.cached_property
    def _folders(self) -> FolderColumns | None:
        if isinstance(self._corpus, Aligned):
            return None
        found = find_folder_columns(self._corpus.files.names, self.folder)
        found = found and found.without(self._fields)
        return found and found.chosen(None)

    @property
    def _fields(self) -> list[str]:
        return list(self.paths) if isinstance(self.paths, Mapping) else [self.field]

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        fields = self._fields
        for spans, after in self._corpus.blocks(shard, state):
            # A block of aligned files is one span for each column.
            columns = [spans] if isinstance(self._corpus, Corpus) else [[span] for span in spans]
            arrays = [decode_records(column, self.unit, self.errors, self.max_record_bytes) for column in columns]
            yield self._with_folders(pa.table(arrays, names=fields), spans), after

    def fingerprint(self) -> Json:
        # Without errors and max_record_bytes: a user may change these after a bad record, and resume from the last state.
        return {
            "kind": "TextFiles",
            "unit": self.unit,
            "fields": self._fields,
            "block_bytes": self._corpus.limits.block_bytes,
            "files": self._files,
            **self._folders_fingerprint,
        }


def _normalize(paths: Paths | Mapping[str, Paths], unit: Unit) -> Paths | Mapping[str, Paths]:
    if not isinstance(paths, Mapping):
        return normalize_paths(paths)
    if not paths:
        raise ValueError("paths must name at least one file, got {}")
    if unit != "line":
        raise ValueError(f"unit must be 'line' for aligned files, got {unit!r}")
    return {name: normalize_paths(each) for name, each in paths.items()}
