"""Datatrove's files of tokens: ids in NAME.ds, ends of documents in NAME.ds.index, and the tokenizer in NAME.ds.metadata."""

from __future__ import annotations

import os

from seqstream.sources.tokens.file_arrays import ArraySpec, read_at
from seqstream.sources.tokens.indexed_tokens import EndsIndex

INDEX = ".index"
METADATA = ".metadata"
COMPANIONS = (INDEX, METADATA, ".loss", ".datalist")
"""Endings of files that lie beside the ids."""

_TYPES = {2: "<u2", 4: "<u4"}
_REWRITE = "copy the files again"


def open_datatrove(path: str) -> tuple[ArraySpec, EndsIndex]:
    """Return the ids and the index of a file; reads the last end and the metadata only.

    Raises:
        FileNotFoundError: The ids or their index are missing.
        ValueError: The sizes of the files contradict each other.
    """
    index = path + INDEX
    for each, other in ((path, index), (index, path)):
        if not os.path.isfile(each):
            raise FileNotFoundError(f"{each} must be beside {other}, but is not there; {_REWRITE}")
    size, index_size = os.stat(path).st_size, os.stat(index).st_size
    if index_size % 8:
        raise ValueError(f"{index} must have 8 bytes a document, got {index_size:,} bytes; {_REWRITE}")
    num_tokens = read_at(index, "<i8", index_size - 8)[0] if index_size else 0
    width = _stated_width(path) or (size // num_tokens if num_tokens > 0 else 2)
    if width not in _TYPES or num_tokens * width != size:
        widths = f"{width} bytes" if width in _TYPES else "2 or 4 bytes"
        raise ValueError(
            f"{path} must have {widths} for each of the {num_tokens:,} tokens of {index}, got {size:,} bytes; {_REWRITE}"
        )
    return ArraySpec(path, _TYPES[width], 0, num_tokens), EndsIndex(ArraySpec(index, "<i8", 0, index_size // 8))


def _stated_width(path: str) -> int | None:
    """Return the bytes of an id, as the metadata says: "tokenizer|4"; ``None`` if they do not."""
    if not os.path.isfile(path + METADATA):
        return None
    with open(path + METADATA, encoding="utf-8", errors="replace") as file:
        stated = file.readline().rstrip("\n").rpartition("|")[2]
    return int(stated) if stated in ("2", "4") else None
