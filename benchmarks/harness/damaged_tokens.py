"""Ways to damage a folder of tokens, each of which must be refused when the folder is opened or read."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

import seqstream as ss
from seqstream.records import Json
from seqstream.sources.tokens.manifest import MANIFEST

FILE_BYTES = 1_000


def write_rows(folder: Path, first: int = 0) -> Path:
    """Write tokens to many small files of two sizes, to be damaged; return the folder."""
    rows = [{"input_ids": [(first + number) % 50 + 1] * 20} for number in range(200)]
    ss.write_tokens(ss.Generator(rows, block_bytes=500), to=folder, file_bytes=FILE_BYTES, progress=False)
    return folder


def _edit(folder: Path, **fields: Json) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def _truncate(folder: Path) -> None:
    path = sorted(folder.glob("*.arrow"))[1]
    path.write_bytes(path.read_bytes()[:-9])


def _extend(folder: Path) -> None:
    with sorted(folder.glob("*.arrow"))[1].open("ab") as file:
        file.write(b"\0")


def _swap(folder: Path) -> None:
    """Exchange two files of the same size."""
    by_size: dict[int, Path] = {}
    for path in sorted(folder.glob("*.arrow")):
        other = by_size.setdefault(path.stat().st_size, path)
        if other != path:
            first, second = other.read_bytes(), path.read_bytes()
            path.write_bytes(first)
            other.write_bytes(second)
            return
    raise AssertionError("no two files have the same size")


def _flip(folder: Path, find: Callable[[bytes], int]) -> None:
    path = sorted(folder.glob("*.arrow"))[1]
    data = bytearray(path.read_bytes())
    data[find(bytes(data))] ^= 4
    path.write_bytes(data)


def _ids_at(data: bytes) -> int:
    """Return a byte of the ids of the first block."""
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    ids = batch.column("input_ids").values.buffers()[1]
    return data.index(ids.to_pybytes()[:16]) + 5


def _take_other_manifest(folder: Path) -> None:
    """Take the manifest of a folder of other tokens in files of the same sizes."""
    shutil.copy(write_rows(folder.parent / "other", first=1) / MANIFEST, folder / MANIFEST)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "extra bytes": _extend,
    "missing": lambda folder: sorted(folder.glob("*.arrow"))[1].unlink(),
    "swapped": _swap,
    "flip in the data": lambda folder: _flip(folder, _ids_at),
    "flip in a checksum": lambda folder: _flip(folder, lambda data: data.index(b"seqstream.crc32") + 3),
    "flip in the name of the summary": lambda folder: _flip(folder, lambda data: data.index(b"seqstream.summary") + 3),
    "flip in the summary": lambda folder: _flip(folder, lambda data: data.index(b'"checksum"') + 1),
    "flip in the numbers of the summary": lambda folder: _flip(folder, lambda data: data.index(b'"num_tokens": ') + 14),
    "flip in the footer": lambda folder: _flip(folder, lambda data: len(data) - 10),
    "flip in the end": lambda folder: _flip(folder, lambda data: len(data) - 1),
    "manifest of another folder": _take_other_manifest,
    "manifest cut": _cut_manifest,
    "manifest of another kind": lambda folder: _edit(folder, kind="x"),
    "manifest of another version": lambda folder: _edit(folder, version=2),
    "manifest, origin": functools.partial(_edit, origin={}),
    "manifest, info": functools.partial(_edit, info={}),
    "manifest, files": functools.partial(_edit, files=[]),
    "manifest, num_rows": functools.partial(_edit, num_rows=1),
    "manifest, num_tokens": functools.partial(_edit, num_tokens=1),
    "manifest, lengths": functools.partial(_edit, lengths={}),
    "manifest, counts": functools.partial(_edit, counts={"empty": 1}),
    "manifest, digest": functools.partial(_edit, digest="0"),
}
"""Each changes a folder that `write_rows` has written."""
