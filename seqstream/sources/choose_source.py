"""Which source reads what a user gives to a loader: a path, a list, a data set, a generator function."""

from __future__ import annotations

import codecs
import glob
import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any, TypeAlias

import pyarrow as pa
from torch import nn
from torch.utils.data import DataLoader, Dataset

from seqstream.sources.arrow_files import ArrowFiles
from seqstream.sources.conll import Conll
from seqstream.sources.csv_files import Csv
from seqstream.sources.files.listing import PathLike, Paths
from seqstream.sources.generator import Generator, Make
from seqstream.sources.huggingface import HFDataset
from seqstream.sources.json_arrays import JsonArrays
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles
from seqstream.sources.token_files import TokenFiles
from seqstream.sources.tokens.formats import is_companion
from seqstream.sources.tokens.manifest import MANIFEST, PLAN

Data: TypeAlias = Source | Make | PathLike | Dataset[Any]
"""What `source_of` takes."""

SUFFIXES = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    **dict.fromkeys((".conll", ".conllu"), "conll"),
    **dict.fromkeys((".bin", ".idx", ".ds", ".npy"), "tokens"),
}
"""The format of files by the ending of their names, behind which one of a compression may be."""

COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".lzma"}

_SAVED_DATASET = {"dataset_info.json", "state.json"}
"""What ``datasets.Dataset.save_to_disk`` writes beside files of Arrow."""


def _read_json(paths: Paths) -> JsonLines:
    """Return the source of JSON lines, or of JSON arrays where the first file begins with one."""
    first = paths if isinstance(paths, str | os.PathLike) else next(iter(paths))
    local = os.path.expanduser(os.fspath(first).removeprefix("file://"))
    name = local if os.path.isfile(local) else next(glob.iglob(local, recursive=True), "")
    if name.lower().endswith(".json"):
        with open(name, "rb") as file:
            if file.read(4_096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
                return JsonArrays(paths)
    return JsonLines(paths)


_READERS: dict[str, Callable[[Any], Source]] = {
    "text": TextFiles,
    "jsonl": _read_json,
    "csv": Csv,
    "tsv": partial(Csv, delimiter="\t"),
    "parquet": Parquet,
    "arrow": ArrowFiles,
    "conll": Conll,
    "tokens": TokenFiles,
}

_KNOWN = (
    "a path, a glob or a folder of files, a datasets.Dataset, a list of strings, ids or tensors, a data set with __len__ and "
    "__getitem__, an iterable, a generator function, or a source such as TextFiles(...)"
)

_REMEDIES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (DataLoader, "it makes batches itself; pass its dataset"),
    (
        (Mapping, pa.Table, pa.RecordBatch),
        "it has columns, not records; pass datasets.Dataset.from_dict(...) or datasets.Dataset(table)",
    ),
    ((set, frozenset), "it has no order that a resume could follow; pass sorted(...)"),
    (io.IOBase, "an open file cannot be read twice; pass its path"),
    (nn.Module, "a model gives no records; pass the data first"),
    (type, "pass an object of this class, not the class"),
)


def source_of(data: Any) -> Source:
    """Return the source that reads what a user gives; where options are needed, the user makes the source.

    The first rule that fits decides:

    ================================================================  ======================================================
    what is given                                                     what reads it
    ================================================================  ======================================================
    a `Source`                                                        itself
    a ``datasets.Dataset`` or ``IterableDataset``                     `HFDataset`
    a folder of `write_tokens`                                        `TokenFiles`
    a path, a glob, a URL, a folder, or a list of ``os.PathLike``:    the source of its format, by the ending of the names:
    - ``.txt .text .md .rst``                                         `TextFiles`, a record for each line
    - ``.jsonl .ndjson .json``                                        `JsonLines`; `JsonArrays` if a ``.json`` begins with ``[``
    - ``.csv``, ``.tsv``                                              `Csv`
    - ``.parquet``; ``.arrow .feather``                               `Parquet`; `ArrowFiles`
    - ``.conll .conllu``                                              `Conll`
    - ``.bin .idx .ds .npy``                                          `TokenFiles`
    a list of strings, of ids, of tensors or of records; an array;    `Generator`, which reads them by their numbers
    a data set with ``__len__`` and ``__getitem__``
    an iterable, a generator function                                 `Generator`
    ================================================================  ======================================================

    Raises:
        TypeError: It is none of these.
        ValueError: Files have an ending that is not known, or a folder has files of several formats, which the message lists;
            or a list of strings may be one of texts or of paths.
        FileNotFoundError: A path names no file.
    """
    if isinstance(data, Source):
        return data
    if _is_hugging_face(data):
        return HFDataset(data)
    if isinstance(data, str | os.PathLike):
        return _source_of_path(os.fspath(data))
    first = data[0] if isinstance(data, list | tuple) and len(data) else None
    if isinstance(first, os.PathLike):
        return _read(_one_format([os.fspath(path) for path in data], "the list"), list(data))
    if isinstance(first, str) and format_of(first) and os.path.isfile(first):
        raise ValueError(
            f"source must be texts or a path, got a list whose first text {first!r} is the name of a file; pass a source such "
            "as TextFiles([...]) to read the files, or Generator([...]) to read the names as texts"
        )
    for kinds, remedy in _REMEDIES:
        if isinstance(data, kinds):
            raise TypeError(f"source cannot be a {type(data).__name__}, {remedy}")
    if hasattr(type(data), "keys"):
        raise TypeError(
            f"source cannot be a {type(data).__name__}, whose iteration gives the names of its columns; pass "
            "datasets.Dataset.from_pandas(...), or its records as a list of dicts"
        )
    if not _gives_records(data):
        raise TypeError(f"source must be {_KNOWN}, got {type(data).__name__}")
    return Generator(data)


def format_of(name: str) -> str | None:
    """Return the format of a file by the ending of its name, a value of `SUFFIXES`; ``None`` for an unknown ending."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def _is_hugging_face(data: Any) -> bool:
    """Return whether an object is of the library ``datasets``, which is not imported to know it."""
    library = sys.modules.get("datasets")
    names = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    return isinstance(data, tuple(getattr(library, name) for name in names if hasattr(library, name)))


def _gives_records(data: Any) -> bool:
    """Return whether an object is an iterable, has items by their numbers, or is a function."""
    if isinstance(data, bytes | bytearray | memoryview):
        return False
    kind = type(data)
    if hasattr(kind, "__iter__") or (hasattr(kind, "__len__") and hasattr(kind, "__getitem__")):
        return getattr(data, "ndim", 1) > 0  # an array of no dimension has no items
    return inspect.isroutine(data) or isinstance(data, partial)


def _source_of_path(path: str) -> Source:
    if "://" in path:
        return _read(_one_format([path], path), path)
    local = os.path.expanduser(path)
    if os.path.isdir(local):
        if any(os.path.isfile(os.path.join(local, name)) for name in (MANIFEST, PLAN)):
            return TokenFiles(path)
        names = sorted(_files_in(local))
        if not names:
            raise FileNotFoundError(f"source must be a folder that has files, got {path!r}, which has none")
        kind = _one_format(names, f"the folder {path!r}", f"; pass a glob such as {os.path.join(path, '**', '*.txt')!r}")
        return _read(kind, path if kind == "tokens" else names)
    names = [local]
    if glob.has_magic(local) and not os.path.lexists(local):
        names = [name for name in glob.iglob(local, recursive=True) if os.path.isfile(name)] or [local]
    return _read(_one_format(names, path), path)


def _files_in(folder: str) -> Iterator[str]:
    """Yield the files in a folder and below, but not hidden ones, ``_SUCCESS`` and its like, and companions of token files."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        if {*names} >= _SAVED_DATASET:
            names = [name for name in names if name not in _SAVED_DATASET]
        paths = (os.path.join(parent, name) for name in names if not name.startswith((".", "_")))
        yield from itertools.filterfalse(is_companion, paths)


def _one_format(names: list[str], given: str, remedy: str = "") -> str:
    """Return the format that all files have.

    Args:
        names: Names of the files.
        given: What has named them, for messages.
        remedy: The end of the message for files of several formats.

    Raises:
        ValueError: They have several formats, or an ending that is not known.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(format_of(name) or f"unknown {''.join(PurePath(name).suffixes[-1:])}".strip(), []).append(name)
    if len(found) > 1:
        listed = ", ".join(f"{len(own):,} {kind} (such as {os.path.basename(own[0])})" for kind, own in sorted(found.items()))
        raise ValueError(f"source must be files of one format, got {listed} in {given}{remedy}")
    ((kind, _),) = found.items()
    if kind not in _READERS:
        raise ValueError(
            f"source must be files whose names end in one of {' '.join(SUFFIXES)}, got {given}; pass a source such as "
            f"TextFiles({names[0]!r}) to say what it holds, or a list for texts of your own"
        )
    return kind


def _read(kind: str, paths: Paths) -> Source:
    return _READERS[kind](paths)
