"""Results that later processes use again, as files in the user's cache folder.

A file has a checksum, its whole key and the result. A file that is damaged, or that has another key, is ignored. No error of
the file system is raised: a result that cannot be stored is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

from seqstream.records import Json

VARIABLE = "SEQSTREAM_CACHE"
"""The environment variable that names the folder; empty, ``0`` or ``off`` for none."""

MOST_FILES = {"tokenizers": 16, "proofs": 1024}
"""For each kind of result, the number of files beyond which those written first are removed."""

_CHECKSUM_BYTES = hashlib.sha256().digest_size
_logger = logging.getLogger("seqstream")


def cache_folder() -> Path | None:
    """Return the folder of the files, which may not exist; ``None`` where nothing is to be stored."""
    named = os.environ.get(VARIABLE)
    try:
        if named is not None:
            return None if named.lower() in ("", "0", "off") else Path(named).expanduser()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "seqstream"
        variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
        return Path(os.environ.get(variable) or Path.home() / ".cache", "seqstream")
    except RuntimeError:  # there is no home
        return None


def load(kind: str, key: Json) -> bytes | None:
    """Return the result that was stored for a key; ``None`` if there is none, or its file is damaged.

    Args:
        kind: A key of `MOST_FILES`.
        key: Everything that the result depends on.
    """
    folder = cache_folder()
    if folder is None:
        return None
    head = _head(key)
    try:
        data = _file(folder, kind, head).read_bytes()
    except OSError:
        return None
    checked = memoryview(data)[_CHECKSUM_BYTES:]
    is_whole = hashlib.sha256(checked).digest() == data[:_CHECKSUM_BYTES] and checked[: len(head)] == head
    return bytes(checked[len(head) :]) if is_whole else None


def save(kind: str, key: Json, result: bytes = b"") -> None:
    """Store a result for a key, whole or not at all, also if other processes store the same.

    Args:
        kind: A key of `MOST_FILES`.
        key: Everything that the result depends on.
        result: The result; empty where all that counts is that there is one.
    """
    folder = cache_folder()
    if folder is None:
        return
    head = _head(key)
    path = _file(folder, kind, head)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, hashlib.sha256(head + result).digest() + head + result)
        _remove_oldest(path.parent, MOST_FILES[kind])
    except OSError as error:
        _logger.debug("%s cannot be written, so the next process computes it again: %s", path, error)


def environment_of(package: str) -> Json:
    """Return what identifies an installed package, and the Python that runs it: versions, and size and time of its files."""
    return {"machine": [platform.machine(), sys.platform, sys.version], package: _package(package)}


@functools.cache
def own_code() -> str:
    """Return a digest of the code of this folder."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py*")):
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _package(name: str) -> Json:
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).iterdir() if file.is_file()]
    files = files or [Path(spec.origin)] if spec and spec.origin else files
    found = [(file.name, file.stat()) for file in sorted(files)]
    version = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
    return {"version": version, "files": [[name, status.st_size, status.st_mtime_ns] for name, status in found]}


def _head(key: Json) -> bytes:
    return json.dumps(key, sort_keys=True).encode() + b"\n"


def _file(folder: Path, kind: str, head: bytes) -> Path:
    return folder / kind / hashlib.sha256(head).hexdigest()[:32]


def _write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    descriptor, temporary = tempfile.mkstemp(prefix="new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _remove_oldest(folder: Path, most: int) -> None:
    """Remove the files that were written first, until ``most`` are left; another process may do the same."""
    paths = list(folder.iterdir())
    if len(paths) <= most:
        return
    times: list[tuple[int, Path]] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            times.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(times)[: len(times) - most]:
        path.unlink(missing_ok=True)
