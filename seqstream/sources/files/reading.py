"""Reading of byte ranges of a file, with checks that the file has not changed since it was found."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from seqstream.sources.files.listing import File
from seqstream.sources.files.remote import ByteRange, read_remote


def read_bytes(file: File, start: int, stop: int) -> bytes:
    """Return the bytes ``start`` to ``stop - 1`` of a file.

    Raises:
        RuntimeError: The file has changed since it was found, or is gone.
        OSError: A remote file cannot be read, or its server ignores byte ranges.
    """
    with naming(file):
        data = _read_local(file, start, stop) if file.system is None else read_remote(ByteRange(file, start, stop))
    if len(data) > stop - start:
        raise OSError(
            f"{file.name} cannot be read in byte ranges, its server sends more than was requested; copy it here first"
        )
    if len(data) < stop - start:
        raise _changed(file, f"is {start + len(data):,} bytes")
    return data


@contextlib.contextmanager
def naming(file: File) -> Iterator[None]:
    """Add the name of a file to errors of the operating system or of a server while reading it.

    Raises:
        RuntimeError: The file is gone since it was found.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise _changed(file, "is gone") from error
    except Exception as error:
        if file.name not in str(error):
            error.add_note(f"while reading {file.name}")
        raise


def open_local(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a local file and return its descriptor; does not block if a named pipe has taken its place."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(file: File) -> None:
    """Raise if a local file is gone, or if something else has taken its place, such as a named pipe, which would block."""
    with naming(file):
        if not stat.S_ISREG(os.stat(file.path).st_mode):
            raise _changed(file, "is no regular file any more")


def check_unchanged(file: File, opened: int | str) -> None:
    """Raise if an open local file, by its descriptor or its path, has changed since it was found."""
    now = os.stat(opened)
    if not stat.S_ISREG(now.st_mode):
        raise _changed(file, "is no regular file any more")
    if now.st_size != file.size:
        raise _changed(file, f"is {now.st_size:,}")
    if now.st_mtime_ns != file.mtime_ns:
        raise _changed(file, "was written again")


def _changed(file: File, now: str) -> RuntimeError:
    return RuntimeError(
        f"{file.name} changed while being read: was {file.size:,} bytes, {now}; leave it as it is, or create the source again"
    )


def _read_local(file: File, start: int, stop: int) -> bytes:
    descriptor = open_local(file.path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            check_unchanged(file, descriptor)
        data = os.pread(descriptor, stop - start, start)
        while len(data) < stop - start and (more := os.pread(descriptor, stop - start - len(data), start + len(data))):
            data += more
        # After reading: a file that is unchanged now was so while it was read.
        check_unchanged(file, descriptor)
        return data
    finally:
        os.close(descriptor)
