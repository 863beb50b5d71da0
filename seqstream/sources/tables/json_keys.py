"""Objects whose keys are data, such as ``{"votes": {"user912": 3}}``: finding them in records of JSON.

As structs they would have an Arrow field for every key of the corpus, and time and memory would grow with the square of the
number of records. They are kept as text of JSON instead.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.sources.tables.nested_types import Path, types_in

MANY_NAMES = 128
"""An object with at most this many different names is never sparse."""
MANY_COLUMNS = 512
"""The same limit for a record itself, which cannot become text."""
MANY_LATE = 1000
"""At most this many names may be new after the first records."""
_SPARSE = 16
"""A sparse object has fewer than one filled field in 16; a struct takes at most 16 times the memory of its values."""

_QUOTE, _COLON, _SPACE, _BACKSLASH = b'": \\'
_SAMPLE_STEP, _SAMPLE_BYTES = 1 << 14, 1 << 10
_SHOWN_NAMES = 3


@dataclasses.dataclass(frozen=True)
class SparseObject:
    """An object with many different names over all records, of which each record has few."""

    path: Path
    names: tuple[str, ...]


class LateKeysError(ValueError):
    """An object got many names after the first records, where it had few or was absent."""

    def __init__(self, sparse: SparseObject) -> None:
        super().__init__(describe_sparse(sparse))


def describe_sparse(sparse: SparseObject) -> str:
    """Return a message about an object with too many names, with the remedy."""
    names = f"{len(sparse.names):,} different names, such as {', '.join(map(repr, sparse.names[:_SHOWN_NAMES]))}"
    if not sparse.path:
        return f"records must have the same fields, got {names}, few of them filled; name those to read with columns=[...]"
    remedy = f"pass schema={{{sparse.path[0]!r}: pa.json_()}} to have it as text of JSON, or leave it out with columns=[...]"
    return f"objects in the field {sparse.path[0]!r} must have the same names, got {names}, few of them filled; {remedy}"


def may_be_sparse(text: bytes, known: int = 0) -> bool:
    """Return whether lines have about `MANY_NAMES` different names, or as many more than ``known``: a quick estimate.

    It looks at one sixteenth of a long text, and at the last 8 bytes of a name.
    """
    if len(text) > 2 * _SAMPLE_STEP:
        firsts = range(0, len(text) - _SAMPLE_STEP + 1, _SAMPLE_STEP)
        text = b"".join([*(text[first : first + _SAMPLE_BYTES] for first in firsts), text[-_SAMPLE_BYTES:]])
    many = MANY_NAMES // 4 + known
    if text.count(b":") <= many:
        return False
    letters = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(letters[:-2] == _QUOTE)
    after = letters[quotes + 1]
    # A backslash before it: a quote in a string, which may itself hold JSON.
    is_end = ((after == _COLON) | ((after == _SPACE) & (letters[quotes + 2] == _COLON))) & (letters[quotes - 1] != _BACKSLASH)
    ends = np.flatnonzero(is_end)
    ends = ends[np.searchsorted(ends, 1) :]
    ends = ends[np.searchsorted(quotes[ends], 8) :]
    if len(ends) <= many:
        return False
    lengths = np.minimum(quotes[ends] - quotes[ends - 1] - 1, 8)
    words = np.ndarray(len(letters) - 7, np.uint64, letters, 0, (1,))[quotes[ends] - 8]
    words = np.sort((words >> (64 - 8 * lengths).astype(np.uint64) % 64) * (lengths > 0))
    return int(np.count_nonzero(words[1:] != words[:-1])) >= many


def load_lines(text: bytes) -> list[Any]:
    """Return the values of all lines that are valid JSON."""
    values = []
    for line in text.split(b"\n"):
        try:
            values += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError):
            continue
    return values


def find_sparse(records: Iterable[Any], many: int = MANY_NAMES) -> tuple[list[SparseObject], int]:
    """Find the objects in records that have more than ``many`` different names, few of them filled.

    Returns:
        These objects, the innermost where several contain the same names; and the number of names outside of them.
    """
    found: list[SparseObject] = []
    root = _Level()
    for record in records:
        root.add(record)
    num_names, _ = root.close((), many, found)
    return found, num_names


def count_names(schema: pa.Schema) -> int:
    """Return the number of names in a schema, at all depths."""
    return sum(kind.num_fields for _, kind in types_in(pa.struct(list(schema))) if pa.types.is_struct(kind))


def widest_object(schema: pa.Schema) -> SparseObject:
    """Return the object of a schema that has the most names of its own."""
    structs = ((path, kind) for path, kind in types_in(pa.struct(list(schema))) if pa.types.is_struct(kind))
    path, widest = max(structs, key=lambda struct: struct[1].num_fields)
    return SparseObject(path, tuple(field.name for field in widest))


class _Level:
    """The objects and lists at one path of all records."""

    def __init__(self) -> None:
        self.num_objects = 0
        self.num_filled = 0
        """Fields that are not null, over all objects."""
        self.names: dict[str, _Level] = {}
        self.items: _Level | None = None

    def add(self, value: Any) -> None:
        """Count an object and its fields, or the items of a list."""
        if isinstance(value, dict):
            self.num_objects += 1
            for name, each in value.items():
                level = self.names.get(name)
                if level is None:
                    level = self.names[name] = _Level()
                if each is not None:
                    self.num_filled += 1
                    if isinstance(each, dict | list):
                        level.add(each)
        elif isinstance(value, list):
            if self.items is None:
                self.items = _Level()
            for each in value:
                if isinstance(each, dict | list):
                    self.items.add(each)

    def close(self, path: Path, many: int, found: list[SparseObject]) -> tuple[int, int]:
        """Append the sparse objects to ``found``; return the number of other names, and of other filled fields."""
        num_names, num_filled = len(self.names), self.num_filled
        for name, level in [*self.names.items(), (None, self.items)]:
            if level is not None and (level.names or level.items is not None):
                inner_names, inner_filled = level.close((*path, name), many, found)
                num_names, num_filled = num_names + inner_names, num_filled + inner_filled
        is_wide = num_names > many if path else len(self.names) > MANY_COLUMNS or num_names > 8 * MANY_COLUMNS
        if is_wide and num_names * self.num_objects > _SPARSE * num_filled:
            found[:] = [sparse for sparse in found if sparse.path[: len(path)] != path]
            found.append(SparseObject(path, tuple(self.names)))
            return 0, 0
        return num_names, num_filled
