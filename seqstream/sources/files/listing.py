"""Files by path, glob or URL: found once, remembered by size, and read by byte ranges.

A table of files is columns, not objects, so that a million files cost a few hundred bytes each.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Iterable[PathLike]
"""A path, a glob, a URL that fsspec knows, or several of these."""


UNKNOWN = -1
"""The size of a file whose server does not tell it, and the time of a file that is not local."""

# Text is compressed to between a half and a fifth.
_TEXT_PER_COMPRESSED = 3.5
_ENDS_BYTES = 4096
_SAMPLED_FILES = 16
_NEEDED_PACKAGES = {".zst": "zstandard", ".lz4": "lz4"}
_ARCHIVES = {".tar", ".tgz", ".7z", ".rar"}
_PLAIN = {"", ".txt", ".text", ".jsonl", ".json", ".csv", ".tsv", ".md", ".parquet"}
"""Extensions for which fsspec, whose import takes 10 ms, need not be asked."""


class PathList(tuple[str, ...]):
    """Several paths that print on one line."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"[{shown}, ... {len(self) - 3:,} more]" if len(self) > 3 else f"[{shown}]"


class File(NamedTuple):
    """One file as it was found."""

    name: str
    path: str
    system: Any
    """The fsspec file system; ``None`` where the operating system opens the file itself."""
    size: int
    mtime_ns: int
    compression: str | None

    @property
    def is_stream(self) -> bool:
        """Whether only reading from the front works."""
        return self.compression is not None or self.size == UNKNOWN


@dataclass(frozen=True)
class FileTable:
    """Files in reading order, a column for each thing known of them."""

    names: list[str]
    paths: list[str]
    systems: list[Any]
    sizes: Index
    times: Index
    compressions: list[str | None]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> File:
        size, time = int(self.sizes[index]), int(self.times[index])
        return File(self.names[index], self.paths[index], self.systems[index], size, time, self.compressions[index])

    @functools.cached_property
    def streams(self) -> npt.NDArray[np.bool_]:
        """Which files can only be read from the front, ``bool (files,)``."""
        return self._compressed | np.equal(self.sizes, UNKNOWN)

    @property
    def text_bytes(self) -> npt.NDArray[np.float64]:
        """Estimated bytes of text in each file, ``float64 (files,)``."""
        text: npt.NDArray[np.float64] = self.sizes.clip(min=0) * np.where(self._compressed, _TEXT_PER_COMPRESSED, 1.0)
        return text

    @functools.cached_property
    def _compressed(self) -> npt.NDArray[np.bool_]:
        return np.array([compression is not None for compression in self.compressions], np.bool_)

    def fingerprint(self) -> dict[str, int | str]:
        """Say which files these are, the same for a copy: names without folders, sizes, and both ends of at most 16."""
        names = "".join(f"{os.path.basename(name)}\t{size}\n" for name, size in zip(self.names, self.sizes, strict=True))
        return {
            "files": len(self),
            "bytes": int(self.sizes.clip(min=0).sum()),
            "names": _digest(names.encode("utf-8", "surrogateescape")),
            "ends": _digest(*(end for index in spread(len(self), _SAMPLED_FILES) for end in _ends(self[index]))),
        }


def normalize_paths(paths: Paths) -> str | PathList:
    """Return paths as text: one string, or a tuple that prints short."""
    if isinstance(paths, str | os.PathLike):
        return os.fspath(paths)
    try:
        found = None if isinstance(paths, bytes) else PathList(os.fspath(path) for path in paths)
    except (TypeError, RuntimeError):
        found = None
    if found is None or any(isinstance(path, bytes) for path in found):
        raise TypeError(f"paths must be a path or a list of paths, got {paths!r:.80}")
    return found


def find_files(paths: str | PathList, pattern: str = "*.txt", storage_options: Mapping[str, Any] | None = None) -> FileTable:
    """Find the files that paths name, in order; those of a glob by name.

    Asks for sizes and times and reads nothing.

    Args:
        paths: Paths, globs and URLs.
        pattern: The glob that an error advises where a path is a directory.
        storage_options: Arguments of the fsspec file systems that open URLs.

    Raises:
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        PermissionError: A file may not be read.
    """
    _check_options(paths, storage_options)
    try:
        listed = [paths] if isinstance(paths, str) else paths
        files = [file for path in listed for file in _find(path, storage_options or {})]
    except IsADirectoryError as error:
        name = error.args[0]
        remedy = f"pass a glob such as {name.rstrip('/') + '/' + pattern!r}"
        raise IsADirectoryError(f"paths must be files, got the directory {name!r}; {remedy}") from None
    except ValueError as error:  # a zero byte, or half of a surrogate pair
        if "\0" not in str(error) and not isinstance(error, UnicodeEncodeError) and "null byte" not in str(error):
            raise
        raise ValueError(f"paths must be names that a file can have, got {paths!r:.80}: {error}") from None
    if not files:
        raise ValueError(f"paths must name at least one file, got {paths!r}")
    names, places, systems, sizes, times, compressions = zip(*files, strict=True)
    columns = np.array(sizes, np.int64), np.array(times, np.int64)
    return FileTable(list(names), list(places), list(systems), *columns, list(compressions))


def spread(size: int, count: int) -> list[int]:
    """Return at most ``count`` positions spread evenly over ``range(size)``, from the first to the last."""
    count = min(size, count)
    return [index * (size - 1) // max(count - 1, 1) for index in range(count)]


def read_bytes(file: File, start: int, stop: int) -> bytes:
    """Read a byte range of a file and check that the file is still the one that was found.

    Raises:
        RuntimeError: The file changed or vanished since it was found.
    """
    with naming(file):
        data = _read_local(file, start, stop) if file.system is None else file.system.cat_file(file.path, start=start, end=stop)
    if len(data) > stop - start:
        raise OSError(
            f"{file.name} cannot be read in byte ranges, its server sends more than it is asked for; copy it here first"
        )
    if len(data) < stop - start:
        raise _changed(file, f"is {start + len(data):,} bytes")
    return bytes(data)


@contextlib.contextmanager
def naming(file: File) -> Iterator[None]:
    """Name a file in errors of reading it, which come from the operating system or a server.

    Raises:
        RuntimeError: The file vanished since it was found.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise vanished(file) from error
    except Exception as error:
        if file.name not in str(error):
            error.add_note(f"while reading {file.name}")
        raise


def open_local(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a local file; a named pipe in its place does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(file: File) -> None:
    """Raise if what is at a local file's path is gone, or would make whoever opens it wait, as a named pipe does."""
    with naming(file):
        if not stat.S_ISREG(os.stat(file.path).st_mode):
            raise _changed(file, "is no regular file any more")


def check_unchanged(file: File, descriptor: int) -> None:
    """Raise if an open local file is not the one that was found."""
    now = os.fstat(descriptor)
    if not stat.S_ISREG(now.st_mode):
        raise _changed(file, "is no regular file any more")
    if now.st_size != file.size:
        raise _changed(file, f"is {now.st_size:,}")
    if now.st_mtime_ns != file.mtime_ns:
        raise _changed(file, "was written again")


def vanished(file: File) -> RuntimeError:
    """Return the error for a file that was found and is gone."""
    return _changed(file, "is gone")


def _changed(file: File, now: str) -> RuntimeError:
    return RuntimeError(
        f"{file.name} changed while being read: was {file.size:,} bytes, {now}; leave it as it is, or make the source anew"
    )


def _read_local(file: File, start: int, stop: int) -> bytes:
    descriptor = open_local(file.path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            check_unchanged(file, descriptor)
        data = os.pread(descriptor, stop - start, start)
        while len(data) < stop - start and (more := os.pread(descriptor, stop - start - len(data), start + len(data))):
            data += more
        # After reading: what was read before an unseen change is still the old file.
        check_unchanged(file, descriptor)
        return data
    finally:
        os.close(descriptor)


def _check_options(paths: str | PathList, options: Mapping[str, Any] | None) -> None:
    # Their values are secret.
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"storage_options must be a dict of arguments for fsspec, got {type(options).__name__}")
    if options and not any("://" in path for path in ([paths] if isinstance(paths, str) else paths)):
        raise ValueError(f"storage_options must go with a URL, got {', '.join(map(repr, options))} for local files")


def _find(path: str, options: Mapping[str, Any]) -> Iterator[File]:
    if "://" not in path:
        yield from _find_local(os.path.expanduser(path))
        return
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path, **options)
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        yield from _find_local(inner)
    else:
        yield from _find_remote(path, system, inner)


def _find_local(path: str) -> Iterator[File]:
    # A file may be called "a[1].txt".
    is_glob = glob.has_magic(path) and not os.path.lexists(path)
    found = sorted(glob.glob(path, recursive=True)) if is_glob else [path]
    count = 0
    for name in found:
        try:
            status = os.stat(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"paths must name files that exist, got {name!r}") from error
        if stat.S_ISDIR(status.st_mode) and is_glob:
            continue
        _check_file(name, status.st_mode)
        count += 1
        yield File(name, name, None, status.st_size, status.st_mtime_ns, compression_of(name))
    if not count:
        raise FileNotFoundError(f"paths must match at least one file, got {path!r}")


def _check_file(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(name)
    if not stat.S_ISREG(mode):
        raise ValueError(f"paths must be regular files, which can be read twice, got {name!r}; write it to a file first")
    if not os.access(name, os.R_OK):
        raise PermissionError(f"paths must be files that may be read, got {name!r}")


def _find_remote(url: str, system: Any, path: str) -> Iterator[File]:
    is_glob = glob.has_magic(path) and not system.exists(path)
    details = system.glob(path, detail=True) if is_glob else {path: _remote_info(url, system, path)}
    files = [(name, info) for name, info in sorted(details.items()) if not (is_glob and info["type"] == "directory")]
    if not files:
        raise FileNotFoundError(f"paths must match at least one file, got {url!r}")
    for name, info in files:
        if info["type"] == "directory":
            raise IsADirectoryError(url)
        size = info.get("size")
        shown = system.unstrip_protocol(name)
        yield File(shown, name, system, UNKNOWN if size is None else int(size), UNKNOWN, compression_of(name))


def _remote_info(url: str, system: Any, path: str) -> Any:
    try:
        return system.info(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"paths must name files that exist, got {url!r}") from error


def compression_of(name: str) -> str | None:
    """Return fsspec's name for the compression that a file's name shows, or ``None``.

    Raises:
        ImportError: The package that reads it is not installed.
        ValueError: It is an archive of several files.
    """
    stem, extension = os.path.splitext(name)
    compression = _compression_of_extension(extension.lower())
    inner = os.path.splitext(stem)[1] if compression else extension
    if inner.lower() in _ARCHIVES:
        raise ValueError(
            f"paths must be files of text, got the archive {name!r}; unpack it, or pass a URL such as tar://*.txt::FILE"
        )
    if compression is None and extension.lower() in _NEEDED_PACKAGES:
        package = _NEEDED_PACKAGES[extension.lower()]
        raise ImportError(f"{name} cannot be read without the package {package}; pip install {package}")
    return compression


@functools.lru_cache(maxsize=256)
def _compression_of_extension(extension: str) -> str | None:
    if extension in _PLAIN:
        return None
    from fsspec.utils import infer_compression

    compression: str | None = infer_compression("file" + extension)
    return compression


def _ends(file: File) -> Iterator[bytes]:
    if file.size != UNKNOWN:
        yield read_bytes(file, 0, min(file.size, _ENDS_BYTES))
        yield read_bytes(file, max(0, file.size - _ENDS_BYTES), file.size)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
