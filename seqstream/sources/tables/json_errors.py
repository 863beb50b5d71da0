"""Which line of JSON is at fault, and why: a slow search, after a block of lines could not be read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from seqstream.sources.files.boundaries import NONBLANK_LINES
from seqstream.sources.files.ranges import locate_byte
from seqstream.sources.files.spans import ByteSpan
from seqstream.sources.tables.json_parsing import MAX_DEPTH, Types, depth_of, parse_objects
from seqstream.sources.tables.rounding import rounded_number, rounding_remedy
from seqstream.sources.tables.surrogates import find_surrogate

_SHOWN_VALUE, _SHOWN_TYPE = 60, 300
_NO_OBJECT = "line must be a JSON object, got {}; write one object a line, with nothing around them"
_JSON_NAMES = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


def line_error(spans: list[ByteSpan], problem_of: Callable[[bytes], str | None]) -> ValueError | None:
    """Return an error with the file and the line of the first line that has a problem; ``None`` if none has."""
    for span in spans:
        for offset, line in _lines(span):
            problem = problem_of(line)
            if problem:
                return ValueError(f"{locate_byte(span.file, offset)}: {problem}")
    return None


class TypeCheck:
    """Looks for a line that is not an object, or whose values do not fit, in lines given one after the other."""

    def __init__(self, types: Types) -> None:
        self._types = types

    def __call__(self, line: bytes) -> str | None:
        """Return what is wrong with a line, ``None`` if nothing is."""
        problem, record = _load_object(line)
        if problem:
            return problem
        try:
            table = parse_objects(line, self._types)
        except (pa.ArrowException, RecursionError) as error:
            misfits = (self._misfit(name, value) for name, value in record.items())
            return next((misfit for misfit in misfits if misfit), f"line must be JSON that Arrow takes, got {_reason(error)}")
        for field in table.schema:
            if not self._types.merge(pa.schema([field])):
                seen = self._types.seen.field(field.name).type
                return _conflict(field.name, record[field.name], seen, "as in the records before")
        self._types = self._types.merge(table.schema) or self._types
        return None

    def _misfit(self, name: str, value: object) -> str | None:
        """Return why Arrow cannot read a field, ``None`` if it can."""
        known, typed = self._types.known, self._types.typed
        index = known.get_field_index(name)
        if index < 0 and not self._types.infers_others:
            return None
        alone = pa.schema([known.field(index)] if index >= 0 else [])
        try:
            parse_objects(_to_line(name, value), Types(alone, pa.schema([]), typed, texts=self._types.texts))
        except (pa.ArrowException, RecursionError) as error:
            if index < 0:
                return f"field {name!r} must be JSON that Arrow takes, got {_shown(value)}: {_reason(error)}"
            source = "as schema says" if name in typed else "as in the first records"
            return _conflict(name, value, known.field(index).type, source)
        return None


def rounding_problem(line: bytes, schema: pa.Schema, typed: frozenset[str]) -> str | None:
    """Return which whole number of a line its type would round, ``None`` if there is none; ``typed`` fields may round."""
    problem, record = _load_object(line)
    for field in () if problem else schema:
        number = None if field.name in typed else rounded_number(record.get(field.name), field.type)
        if number is not None:
            return f"field {field.name!r} cannot hold {number} exactly as {field.type}; {rounding_remedy(field.name, number)}"
    return problem


def _load_object(line: bytes) -> tuple[str | None, dict[str, Any]]:
    """Return why a line is not an object, ``None`` if it is one; and the object."""
    depth = depth_of(line)
    if depth > MAX_DEPTH:
        return f"line must nest at most {MAX_DEPTH} deep, got {depth:,}", {}
    try:
        # json.loads of bytes would take a zero byte as a sign of UTF-16.
        record = json.loads(line.decode("utf-8", "replace"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        if line.lstrip().startswith(b"["):
            return f"{_NO_OBJECT.format('an array')}, or read a file of one array with JsonArrays", {}
        if line.strip() == b"{":
            return f"{_NO_OBJECT.format('its beginning')}, or read the array in it with JsonArrays(..., key=...)", {}
        return f"line must be a JSON object, got invalid JSON at column {error.colno}: {error.msg}", {}
    except KeyError as error:
        return f"line must name each field once, got {error} twice", {}
    if not isinstance(record, dict):
        remedy = ", or read a file of one array with JsonArrays" * isinstance(record, list)
        return _NO_OBJECT.format(_JSON_NAMES[type(record)]) + remedy, {}
    if half := find_surrogate(line):
        remedy = "pass errors='replace' to go on with U+FFFD in its place"
        return f"text must be UTF-8, got half of a surrogate pair, {half}; {remedy}", {}
    return None, record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in pairs:
        if name in record:
            raise KeyError(name)
        record[name] = value
    return record


def _lines(span: ByteSpan) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a piece that are not blank, in valid UTF-8, each with its offset in the file."""
    for offset in map(int, span.starts(NONBLANK_LINES)):
        start = offset - span.offset
        end = span.data.find(b"\n", start)
        line = span.data[start : end if end >= 0 else len(span.data)]
        yield offset, line.decode("utf-8", "replace").encode()


def _conflict(name: str, value: object, expected: pa.DataType, source: str) -> str:
    kind = str(expected)
    kind = kind if len(kind) <= _SHOWN_TYPE else kind[:_SHOWN_TYPE] + "..."
    return f"field {name!r} must be {kind} {source}, got {_shown(value)}; {_remedy(name, value, expected)}"


def _remedy(name: str, value: object, expected: pa.DataType) -> str:
    if pa.types.is_integer(expected) and isinstance(value, int) and not isinstance(value, bool):
        return rounding_remedy(name, value)
    if pa.types.is_string(expected) and isinstance(value, dict | list):
        return f"pass schema={{{name!r}: pa.json_()}} to have text of JSON"
    empty = pa.schema([])
    with contextlib.suppress(pa.ArrowException):
        found = parse_objects(_to_line(name, value), Types(empty, empty)).schema
        merged = Types(empty, pa.schema([(name, expected)])).merge(found)
        common = merged and merged.seen.field(name).type
        if common == pa.float64():
            return f"pass schema={{{name!r}: pa.float64()}}"
        if common not in (None, expected):
            return f"pass schema={{{name!r}: ...}} with the type {common}"
    return "make its values alike, or leave the field out with columns=[...]"


def _to_line(name: str, value: object) -> bytes:
    return json.dumps({name: value}).encode()


def _reason(error: Exception) -> str:
    # Arrow parsed a single line.
    return str(error).removesuffix(" in row 0")


def _shown(value: object) -> str:
    # Half of a surrogate pair cannot be printed.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN_VALUE else text[:_SHOWN_VALUE] + "..."
