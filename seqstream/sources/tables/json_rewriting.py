"""Lines of JSON rewritten as text: some values become strings of their own text, some fields are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

from seqstream.sources.tables.nested_types import Path

PathTree: TypeAlias = dict[str | None, Any]
"""Paths by their first names; an empty tree stands for the whole value."""

_GAP = re.compile(r"[ \t\r\n]*")
_encode = json.JSONEncoder(ensure_ascii=False).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed lacks it


def as_tree(paths: Iterable[Path]) -> PathTree:
    """Return paths, none of which begins with another one, as a tree."""
    tree: PathTree = {}
    for path in paths:
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
    return tree


def rewrite(text: bytes, columns: Collection[str] | None, texts: Collection[Path]) -> bytes:
    """Return lines with strings in place of the values at the paths ``texts``, and only the fields in ``columns``.

    A string holds the text of its value exactly; strings and nulls at these paths stay, as do lines that are no object.
    """
    tree = as_tree(texts)
    return "\n".join([_rewrite_line(line, columns, tree) for line in text.decode().split("\n")]).encode()


def _rewrite_line(line: str, columns: Collection[str] | None, tree: PathTree) -> str:
    start = _skip_gap(line, 0)
    if not line.startswith("{", start):
        return line
    fields: list[str] = []

    def take(name: str | None, at: int, value_at: int) -> int:
        if columns is not None and name not in columns:
            return _scan(line, value_at)[1]
        spans: list[tuple[int, int]] = []
        end = _visit(line, name, value_at, tree, spans)
        fields.append(_quote(line, at, end, spans))
        return end

    try:
        end = _walk(line, start, take)
    except (StopIteration, ValueError, IndexError):
        return line
    return f"{line[:start]}{{{', '.join(fields)}}}{line[end:]}"


def _quote(line: str, start: int, end: int, spans: list[tuple[int, int]]) -> str:
    """Return ``line[start:end]`` with each span as a string."""
    parts = []
    for first, last in spans:
        parts += [line[start:first], _encode(line[first:last])]
        start = last
    return "".join([*parts, line[start:end]])


def _visit(line: str, name: str | None, at: int, tree: PathTree, spans: list[tuple[int, int]]) -> int:
    """Append the spans to quote in the value ``name`` at ``line[at]``; return where it ends."""
    branch = tree.get(name)
    if branch and line[at] in "[{":
        return _walk(line, at, lambda inner, _, value_at: _visit(line, inner, value_at, branch, spans))
    value, end = _scan(line, at)
    if branch == {} and value is not None and not isinstance(value, str):
        spans.append((at, end))
    return end


def _walk(line: str, at: int, visit: Callable[[str | None, int, int], int]) -> int:
    """Call ``visit(name, start, start of the value)`` for each field or item; it returns the end. Return where all ends.

    Raises:
        StopIteration: The line is not JSON; or a `ValueError`, or an `IndexError`.
    """
    close = "}" if line[at] == "{" else "]"
    at = _skip_gap(line, at + 1)
    if line[at] == close:
        return at + 1
    while True:
        name, value_at = None, at
        if close == "}":
            name, value_at = _scan(line, at)
            value_at = _skip_gap(line, value_at)
            if not isinstance(name, str) or line[value_at] != ":":
                raise ValueError("no field")
            value_at = _skip_gap(line, value_at + 1)
        at = _skip_gap(line, visit(name, at, value_at))
        if line[at] == close:
            return at + 1
        if line[at] != ",":
            raise ValueError("no comma")
        at = _skip_gap(line, at + 1)


def _skip_gap(line: str, at: int) -> int:
    """Return where the white space at ``line[at]`` ends."""
    found = _GAP.match(line, at)
    return found.end() if found else at
