"""Files by path, glob or URL: found once, with their sizes and times.

A table of files is columns, not objects, so that each of a million files needs only a few hundred bytes.
"""

from __future__ import annotations

import collections
import functools
import glob
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from seqstream.arrays import Index, Mask

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Iterable[PathLike]
"""A path, a glob, a URL that fsspec knows, or several of these."""

UNKNOWN = -1
"""The size of a file whose server does not send it, and the time of a remote file."""

_TEXT_PER_COMPRESSED = 3.5
"""Bytes of text in a byte of a compressed file: compression leaves between a half and a fifth."""
_NEEDED_PACKAGES = {".zst": "zstandard", ".lz4": "lz4"}
_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".lzma"}
_ARCHIVES = {".tar", ".tgz", ".7z", ".rar"}
_SPREADSHEET = "the spreadsheet {0!r}; save it as CSV for Csv, or run pandas.read_excel({0!r}).to_parquet(...) for Parquet"
_DOCUMENT = "the document {0!r}; write its text to a file of its own first"
_UNREAD = {**dict.fromkeys((".xlsx", ".xls", ".ods"), _SPREADSHEET), **dict.fromkeys((".pdf", ".docx", ".odt"), _DOCUMENT)}
"""What the error says for files that no source reads."""
_LISTED_FILES, _LISTED_ENDINGS = 10_000, 8
_PLAIN = {"", ".txt", ".text", ".jsonl", ".json", ".csv", ".tsv", ".md", ".parquet"}
"""Extensions of files without compression: for these fsspec need not be imported, which takes 10 ms."""


class PathList(tuple[str, ...]):
    """Several paths; ``repr`` shows the first three."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"[{shown}, ... {len(self) - 3:,} more]" if len(self) > 3 else f"[{shown}]"


class File(NamedTuple):
    """One file as it was found."""

    name: str
    """Its path or URL, for messages and fingerprints."""
    path: str
    """Its path in its file system."""
    system: Any
    """The fsspec file system; ``None`` for a local file."""
    size: int
    """Bytes, or `UNKNOWN`."""
    mtime_ns: int
    """Time of the last modification in nanoseconds, or `UNKNOWN`."""
    compression: str | None
    """Name of the compression in fsspec; ``None`` for a plain file."""

    @property
    def is_stream(self) -> bool:
        """Whether the file can only be read from its beginning."""
        return self.compression is not None or self.size == UNKNOWN


@dataclass(frozen=True)
class FileTable:
    """Files in reading order: a column for each attribute of `File`."""

    names: list[str]
    paths: list[str]
    systems: list[Any]
    sizes: Index
    times: Index
    compressions: list[str | None]
    is_sequential: bool = False
    """Whether all files are read from their beginning, plain ones too."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> File:
        size, time = int(self.sizes[index]), int(self.times[index])
        return File(self.names[index], self.paths[index], self.systems[index], size, time, self.compressions[index])

    @functools.cached_property
    def streams(self) -> Mask:
        """Which files are read from their beginning, ``bool (files,)``."""
        return self._compressed | np.equal(self.sizes, UNKNOWN) | self.is_sequential

    @property
    def text_bytes(self) -> npt.NDArray[np.float64]:
        """Estimated bytes of text in each file, ``float64 (files,)``."""
        text: npt.NDArray[np.float64] = self.sizes.clip(min=0) * np.where(self._compressed, _TEXT_PER_COMPRESSED, 1.0)
        return text

    @functools.cached_property
    def _compressed(self) -> Mask:
        return np.array([compression is not None for compression in self.compressions], np.bool_)


def normalize_paths(paths: Paths) -> str | PathList:
    """Return paths as text: one string, or a list of strings.

    Raises:
        TypeError: ``paths`` is neither a path nor an iterable of paths.
    """
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
    """Return the files that paths name, in their order, and those of a glob by name. Reads sizes and times, no content.

    Args:
        paths: Paths, globs and URLs.
        pattern: The glob that the error for a directory recommends.
        storage_options: Arguments of the fsspec file systems that open URLs.

    Raises:
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        PermissionError: A file may not be read.
        ValueError: A path is an archive or not a regular file, or no file can have its name.
    """
    _check_options(paths, storage_options)
    try:
        listed = [paths] if isinstance(paths, str) else paths
        files = [file for path in listed for file in _find(path, storage_options or {})]
    except IsADirectoryError as error:
        name = error.args[0]
        raise IsADirectoryError(f"paths must be files, got the directory {name!r}{_describe_folder(name, pattern)}") from None
    except ValueError as error:  # a zero byte, or half of a surrogate pair
        if "\0" not in str(error) and not isinstance(error, UnicodeEncodeError) and "null byte" not in str(error):
            raise
        raise ValueError(f"paths must be names that a file can have, got {paths!r:.80}: {error}") from None
    if not files:
        raise ValueError(f"paths must name at least one file, got {paths!r}")
    names, own_paths, systems, sizes, times, compressions = zip(*files, strict=True)
    columns = np.array(sizes, np.int64), np.array(times, np.int64)
    return FileTable(list(names), list(own_paths), list(systems), *columns, list(compressions))


def _describe_folder(folder: str, pattern: str) -> str:
    """Return how many files of each ending a folder has, also in folders below, and a glob to pass instead, for a message."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(os.path.expanduser(folder)) for name in names)
    found = list(itertools.islice(paths, _LISTED_FILES))
    endings = collections.Counter(map(_ending, found)).most_common()
    listed = [f"{count:,} {ending or 'without an ending'}" for ending, count in endings[:_LISTED_ENDINGS]]
    listed += [f"{len(endings) - _LISTED_ENDINGS:,} other endings"] * (len(endings) > _LISTED_ENDINGS)
    counts = f", whose {'first ' * (len(found) == _LISTED_FILES)}files are {', '.join(listed)}" if found else ""
    ending = os.path.splitext(pattern)[1]
    if endings and ending not in dict(endings):
        ending = endings[0][0]
    top = os.path.abspath(os.path.expanduser(folder))
    is_deep = "**" in pattern or any(os.path.dirname(os.path.abspath(path)) != top for path in found)
    return f"{counts}; pass a glob such as {folder.rstrip('/') + '/**' * is_deep + '/*' + ending!r}"


def _ending(path: str) -> str:
    """Return the ending of a file's name in lower case: ``.txt``, ``.txt.gz``, or none."""
    stem, ending = os.path.splitext(path.lower())
    return os.path.splitext(stem)[1] + ending if ending in _COMPRESSED else ending


def _check_options(paths: str | PathList, options: Mapping[str, Any] | None) -> None:
    # Messages show no values: these may be secret.
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
    # A file may have a name such as "a[1].txt".
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
    """Return fsspec's name for the compression of a file, by the extension of its name; ``None`` for a plain file.

    Raises:
        ImportError: The package that decompresses it is not installed.
        ValueError: The file is an archive of several files.
    """
    stem, extension = os.path.splitext(name)
    if extension.lower() in _UNREAD:
        raise ValueError(f"paths must be files of records, got {_UNREAD[extension.lower()].format(name)}")
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
