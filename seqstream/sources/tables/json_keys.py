"""Keys that are data, as in ``{"votes": {"user912": 3}}``: objects that would make a field of Arrow of every name there is.

Time and memory of such a struct grow with the square of the records. So these objects are kept as text of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

Path: TypeAlias = tuple[str | None, ...]
"""Names on the way to a value, ``None`` for the items of a list; of the record itself ``()``."""
Tree: TypeAlias = dict[str | None, Any]
"""Paths by their first names; that of a whole value is an empty one."""

MANY_NAMES = 128
"""An object may have so many different names, whatever they are."""
MANY_COLUMNS = 512
"""So may a record, of which no text can be made."""
MANY_LATE = 1000
"""So many may come after the first records."""
_SPARSE = 16
"""Beyond that, at least one of so many must be filled: fields of Arrow then take at most so many times what the values take."""

_QUOTE, _COLON, _SPACE, _BACKSLASH = b'": \\'
_STRETCH, _LOOKED_AT = 1 << 14, 1 << 10
_SHOWN = 3
_GAP = re.compile(r"[ \t\r\n]*")
_encode = json.JSONEncoder(ensure_ascii=False).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed lacks it


@dataclasses.dataclass(frozen=True)
class Sparse:
    """An object with many names of which few are filled."""

    path: Path
    names: tuple[str, ...]
    """Its different names."""


def may_be_sparse(text: bytes, known: int = 0) -> bool:
    """Return whether lines have about `MANY_NAMES` different names, or so many more than are ``known``: a quick look.

    Of a long text a sixteenth is looked at, and of a name the last 8 bytes.
    """
    if len(text) > 2 * _STRETCH:
        firsts = range(0, len(text) - _STRETCH + 1, _STRETCH)
        text = b"".join([*(text[first : first + _LOOKED_AT] for first in firsts), text[-_LOOKED_AT:]])
    many = MANY_NAMES // 4 + known
    if text.count(b":") <= many:
        return False
    letters = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(letters[:-2] == _QUOTE)
    after = letters[quotes + 1]
    # A quote of a string within a string, which may hold JSON, has a backslash before it.
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
    """Return what lines hold, without those that are no JSON."""
    objects = []
    for line in text.split(b"\n"):
        try:
            objects += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError):
            continue
    return objects


def find_sparse(records: Iterable[Any], many: int = MANY_NAMES) -> tuple[list[Sparse], int]:
    """Find the objects in records that have more than ``many`` names, few of them filled.

    Returns:
        These, the innermost where several hold the same names; and the number of all names that are in none of them.
    """
    found: list[Sparse] = []
    root = _Level()
    for record in records:
        root.add(record)
    names, _ = root.close((), many, found)
    return found, names


class LateKeysError(ValueError):
    """An object with many names came after the first records, when it had few or was not there."""

    def __init__(self, sparse: Sparse) -> None:
        super().__init__(describe_sparse(sparse))


def describe_sparse(sparse: Sparse) -> str:
    """Say which object has too many names, and what to do."""
    names = f"{len(sparse.names):,} different names, such as {', '.join(map(repr, sparse.names[:_SHOWN]))}"
    if not sparse.path:
        return f"records must have the same fields, got {names}, few of them filled; name those to read with columns=[...]"
    remedy = f"pass schema={{{sparse.path[0]!r}: pa.json_()}} to have it as text of JSON, or leave it out with columns=[...]"
    return f"objects in the field {sparse.path[0]!r} must have the same names, got {names}, few of them filled; {remedy}"


class _Level:
    """What stands at one path of all records."""

    def __init__(self) -> None:
        self.count = 0
        self.filled = 0
        self.names: dict[str, _Level] = {}
        self.items: _Level | None = None

    def add(self, value: Any) -> None:
        """Count the fields of a value, and those that are filled."""
        if isinstance(value, dict):
            self.count += 1
            for name, each in value.items():
                level = self.names.get(name)
                if level is None:
                    level = self.names[name] = _Level()
                if each is not None:
                    self.filled += 1
                    if isinstance(each, dict | list):
                        level.add(each)
        elif isinstance(value, list):
            if self.items is None:
                self.items = _Level()
            for each in value:
                if isinstance(each, dict | list):
                    self.items.add(each)

    def close(self, path: Path, many: int, found: list[Sparse]) -> tuple[int, int]:
        """Return the numbers of different names and of values below a path; what is sparse is found and counts as none."""
        names, filled = len(self.names), self.filled
        for name, level in self.names.items():
            if level.names or level.items is not None:
                inner = level.close((*path, name), many, found)
                names, filled = names + inner[0], filled + inner[1]
        if self.items is not None:
            inner = self.items.close((*path, None), many, found)
            names, filled = names + inner[0], filled + inner[1]
        is_wide = names > many if path else len(self.names) > MANY_COLUMNS or names > 8 * MANY_COLUMNS
        if is_wide and names * self.count > _SPARSE * filled:
            found[:] = [sparse for sparse in found if sparse.path[: len(path)] != path]
            found.append(Sparse(path, tuple(self.names)))
            return 0, 0
        return names, filled


def as_tree(paths: Iterable[Path]) -> Tree:
    """Return paths by their first names."""
    tree: Tree = {}
    for path in paths:
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch.clear()
    return tree


def rewrite(text: bytes, columns: Collection[str] | None, texts: Collection[Path]) -> bytes:
    """Return lines with strings in place of the values at some paths, and without the fields that are not wanted.

    A string holds the text of its value as it was; strings and nulls at these paths stay. A line that is no object stays too.
    """
    tree = as_tree(texts)
    lines = text.decode().split("\n")
    return "\n".join([_rewrite(line, columns, tree) for line in lines]).encode()


def text_at(value: Any, tree: Tree) -> Any:
    """Return a Python object with text of JSON in place of the values at some paths."""
    if value is None or isinstance(value, str):
        return value
    if not tree:
        return _encode(value)
    if isinstance(value, dict):
        return {name: text_at(each, tree[name]) if name in tree else each for name, each in value.items()}
    if isinstance(value, list) and None in tree:
        return [text_at(each, tree[None]) for each in value]
    return value


def json_paths(kind: pa.DataType, path: Path) -> Iterator[Path]:
    """Yield the paths in a type that are to be text of JSON."""
    if isinstance(kind, pa.JsonType):
        yield path
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from json_paths(field.type, (*path, field.name))
    elif pa.types.is_list(kind):
        yield from json_paths(kind.value_type, (*path, None))


def count_names(schema: pa.Schema) -> int:
    """Return how many names there are in a schema, at all depths."""
    return sum(1 + _count_names(field.type) for field in schema)


def widest_object(schema: pa.Schema) -> Sparse:
    """Return the object with the most names of its own that a schema has."""
    objects: list[Sparse] = []
    _add_objects(pa.struct(list(schema)), (), objects)
    return max(objects, key=lambda each: len(each.names))


def _add_objects(kind: pa.DataType, path: Path, objects: list[Sparse]) -> None:
    if pa.types.is_list(kind):
        _add_objects(kind.value_type, (*path, None), objects)
    elif pa.types.is_struct(kind):
        objects.append(Sparse(path, tuple(field.name for field in kind)))
        for field in kind:
            _add_objects(field.type, (*path, field.name), objects)


def _count_names(kind: pa.DataType) -> int:
    if pa.types.is_list(kind):
        return _count_names(kind.value_type)
    return sum(1 + _count_names(field.type) for field in kind) if pa.types.is_struct(kind) else 0


def _rewrite(line: str, columns: Collection[str] | None, tree: Tree) -> str:
    start = _after_gap(line, 0)
    if not line.startswith("{", start):
        return line
    spans: list[tuple[int, int]] = []
    fields: list[str] = []

    def take(name: str | None, at: int, value_at: int) -> int:
        if columns is not None and name not in columns:
            return _scan(line, value_at)[1]
        end = _find_spans(line, value_at, tree[name], spans) if name in tree else _scan(line, value_at)[1]
        fields.append(_quoted(line, at, end, spans))
        spans.clear()
        return end

    try:
        end = _walk(line, start, take)
    except (StopIteration, ValueError, IndexError):
        return line
    return f"{line[:start]}{{{', '.join(fields)}}}{line[end:]}"


def _quoted(line: str, start: int, end: int, spans: list[tuple[int, int]]) -> str:
    """Return a part of a line with strings in place of some spans of it."""
    parts = []
    for first, last in spans:
        parts += [line[start:first], _encode(line[first:last])]
        start = last
    return "".join([*parts, line[start:end]])


def _find_spans(line: str, at: int, tree: Tree, spans: list[tuple[int, int]]) -> int:
    """Collect where the values at some paths below one begin and end; return where this one ends."""
    if tree and line[at] in "[{":
        return _walk(
            line,
            at,
            lambda name, _, value_at: (
                _find_spans(line, value_at, tree[name], spans) if name in tree else _scan(line, value_at)[1]
            ),
        )
    value, end = _scan(line, at)
    if not tree and value is not None and not isinstance(value, str):
        spans.append((at, end))
    return int(end)


def _walk(line: str, at: int, visit: Callable[[str | None, int, int], int]) -> int:
    """Visit the fields of an object or the items of a list, from where they and their values begin; return where it ends.

    Raises:
        StopIteration: The line is no JSON; or a `ValueError`, or an `IndexError`.
    """
    close = "}" if line[at] == "{" else "]"
    at = _after_gap(line, at + 1)
    if line[at] == close:
        return at + 1
    while True:
        name, value_at = None, at
        if close == "}":
            name, value_at = _scan(line, at)
            value_at = _after_gap(line, value_at)
            if not isinstance(name, str) or line[value_at] != ":":
                raise ValueError("no field")
            value_at = _after_gap(line, value_at + 1)
        at = _after_gap(line, visit(name, at, value_at))
        if line[at] == close:
            return at + 1
        if line[at] != ",":
            raise ValueError("no comma")
        at = _after_gap(line, at + 1)


def _after_gap(line: str, at: int) -> int:
    found = _GAP.match(line, at)
    return found.end() if found else at
