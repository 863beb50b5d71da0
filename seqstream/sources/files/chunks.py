"""Reading of files from their beginning, in chunks: compressed files, and files of unknown size."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Generator, Iterator
from typing import Any

from seqstream.sources.files.listing import UNKNOWN, File
from seqstream.sources.files.reading import check_unchanged, naming, open_local
from seqstream.sources.files.remote import is_asynchronous
from seqstream.sources.files.remote_file import RemoteFile

_CHUNK_BYTES = 1 << 18
_ZSTD_CHUNK_BYTES = 1 << 12
"""Compressed bytes read at once: 4 bytes of them hold at most 128 KiB of text, so even one repeated letter stays bounded."""


def open_chunks(file: File, offset: int = 0) -> Generator[bytes, None, None]:
    """Yield the uncompressed bytes of a file from an offset to its end, in chunks of bounded size, none of them empty.

    A compressed file is always decompressed from its beginning.

    Raises:
        RuntimeError: The file has changed since it was found, or is gone.
        ValueError: Compressed data end too early, are damaged, or hold several files.
    """
    with naming(file), _open(file) as raw:
        _check(file, raw)
        if file.compression is not None:
            yield from _skip(_decompress(file, raw), offset)
        elif file.size == UNKNOWN:
            yield from _skip(iter(lambda: raw.read(_CHUNK_BYTES), b""), offset)
        else:
            raw.seek(offset)
            yield from iter(lambda: raw.read(_CHUNK_BYTES), b"")
        _check(file, raw)


def _open(file: File) -> Any:
    if file.system is None:
        return open(file.path, "rb", opener=open_local)
    if is_asynchronous(file) and file.size != UNKNOWN:
        return io.BufferedReader(RemoteFile(file))
    return file.system.open(file.path, "rb")


class _Reads:
    """An open file that keeps an error of reading, to distinguish it from an error of decompression."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.error: Exception | None = None

    def read(self, *size: int) -> Any:
        """Read bytes."""
        try:
            return self._raw.read(*size)
        except Exception as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _check(file: File, raw: Any) -> None:
    if file.system is None:
        check_unchanged(file, raw.fileno())


def _skip(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) > offset:
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))


def _decompress(file: File, raw: Any) -> Iterator[bytes]:
    if file.compression == "zip":
        _check_single(file, raw)
    done = 0
    reads = _Reads(raw)
    try:
        for chunk in _chunks_of(file, reads):
            done += len(chunk)
            if chunk:
                yield chunk
    except Exception as error:  # each decompressor has its own class of errors
        if reads.error is not None:
            raise reads.error from None
        _check(file, raw)
        raise ValueError(
            f"{file.name} cannot be decompressed past byte {done:,} of its text: {error}; "
            "it is truncated or damaged, write it anew or leave it out"
        ) from error


def _chunks_of(file: File, raw: Any) -> Iterator[bytes]:
    from fsspec.compression import compr

    if file.size == 0:
        raise EOFError("compressed file is empty")
    opener = compr[file.compression]
    if file.compression == "zstd" and opener.__name__ != "ZstdFile":
        yield from _zstd_chunks(raw)
        return
    with opener(raw, mode="rb") as text:
        # read1 returns what is decompressed already; read would raise if the bytes after it are damaged.
        read = getattr(text, "read1", text.read)
        yield from iter(lambda: read(_CHUNK_BYTES), b"")


def _check_single(file: File, raw: Any) -> None:
    try:
        members = zipfile.ZipFile(raw).namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file.name} cannot be decompressed: {error}; it is truncated or damaged") from error
    if len(members) != 1:
        raise ValueError(f"{file.name} must hold one file, got {len(members)}; pass zip://*::{file.name} to read them all")


def _zstd_chunks(raw: Any) -> Iterator[bytes]:
    """Yield the text of all frames; the reader of `zstandard` stops after the first, and without an error where it is cut."""
    import zstandard

    frame = None
    rest = b""
    while rest := rest or raw.read(_ZSTD_CHUNK_BYTES):
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(rest)
        rest = frame.unused_data
        frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("compressed file ended inside a frame")
