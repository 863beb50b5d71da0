"""Fingerprints of files: the same for a copy of them in another folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from seqstream.arrays import evenly_spaced
from seqstream.records import Json
from seqstream.sources.files.listing import UNKNOWN, File, FileTable
from seqstream.sources.files.reading import read_bytes
from seqstream.sources.files.remote import ByteRange, reading_ahead

_ENDS_BYTES = 4096
_SAMPLED_FILES = 16


def fingerprint_files(files: FileTable) -> Json:
    """Return what identifies files: their names without folders, their sizes, and both ends of at most 16 of them."""
    names = "".join(f"{os.path.basename(name)}\t{size}\n" for name, size in zip(files.names, files.sizes, strict=True))
    ends = [end for index in evenly_spaced(len(files), _SAMPLED_FILES) for end in _ends(files[index])]
    with reading_ahead(ends):
        read = [read_bytes(*end) for end in ends]
    return {
        "files": len(files),
        "bytes": int(files.sizes.clip(min=0).sum()),
        "names": _digest(names.encode("utf-8", "surrogateescape")),
        "ends": _digest(*read),
    }


def _ends(file: File) -> Iterator[ByteRange]:
    if file.size != UNKNOWN:
        yield ByteRange(file, 0, min(file.size, _ENDS_BYTES))
        yield ByteRange(file, max(0, file.size - _ENDS_BYTES), file.size)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
