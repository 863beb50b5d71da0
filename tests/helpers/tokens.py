"""Folders of tokens for tests, and what is compared: rows without their ids, and the files of a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import seqstream as ss
from seqstream.testing.expectations import rows_of


def write(folder: Path, source: ss.Source, *stages: Any, file_bytes: int = 4096, **options: Any) -> Path:
    """Write tokens without a progress bar, to several small files, and return the folder."""
    written = ss.write_tokens(source, *stages, to=folder, progress=False, file_bytes=file_bytes, **options)
    assert written.is_complete
    return folder


def values_of(batches: Iterable[ss.Batch]) -> Counter[str]:
    """Return how often each row occurs in batches, given by its values in all columns, without padding."""
    return Counter(json.dumps(row, sort_keys=True) for row in rows_of(batches).values())


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of the files of a folder by their names."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
