"""Lines of JSON objects to Arrow tables whose types do not change from block to block."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seqstream.sources.files.boundaries import newlines
from seqstream.sources.tables.json_keys import (
    MANY_LATE,
    LateKeysError,
    Path,
    count_names,
    find_sparse,
    load_lines,
    may_be_sparse,
    rewrite,
    widest_object,
)

_OPEN, _CLOSE = b"{}"
_CASE = _OPEN ^ ord("[")
"""The bit that ``[`` lacks and ``{`` has."""
_WHITESPACE = b" \t\r"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')

MAX_DEPTH = 250
"""Arrow goes down a nested value by recursion, and some thousands of levels end the process."""


def count_objects(text: bytes) -> int | None:
    r"""Return how many lines hold an object, by their first and last bytes; ``None`` if one holds something else.

    If each line begins with ``{`` and ends with ``}`` and the parser finds as many objects as lines, then each line is one
    object: what ends with ``}`` cannot be continued by ``{``. The parser alone would take two objects on a line, or one on two.
    """
    ends = newlines(text)
    starts = np.append(0, ends + 1)[:-1]
    letters = np.frombuffer(text, np.uint8)
    is_object = (letters[starts] == _OPEN) & (letters[ends - 1] == _CLOSE) & (ends - starts > 1)
    count = int(is_object.sum())
    for index in np.flatnonzero(~is_object & (ends > starts)):
        line = text[starts[index] : ends[index]].strip(_WHITESPACE)
        if line and not (line.startswith(b"{") and line.endswith(b"}")):
            return None
        count += bool(line)
    return count


def is_shallow(text: bytes) -> bool:
    """Return whether no line nests deeper than `MAX_DEPTH`."""
    opens = np.flatnonzero((np.frombuffer(text, np.uint8) | _CASE) == _OPEN)
    if len(opens) <= MAX_DEPTH:
        return True
    ends = newlines(text)
    many = np.flatnonzero(np.diff(np.searchsorted(opens, ends), prepend=0) > MAX_DEPTH)
    return all(depth_of(text[ends[index - 1] + 1 if index else 0 : ends[index]]) <= MAX_DEPTH for index in many)


def depth_of(line: bytes) -> int:
    """Return how deep a line nests."""
    letters = np.frombuffer(_STRING.sub(b"", line), np.uint8)
    opens = ((letters == ord("[")) | (letters == _OPEN)).astype(np.int64)
    closes = (letters == ord("]")) | (letters == _CLOSE)
    return int(np.cumsum(opens - closes).max(initial=0))


@dataclass(frozen=True)
class Types:
    """What is known of the fields before a block is read."""

    known: pa.Schema
    """Types that values must fit."""
    seen: pa.Schema
    """Types of all fields met so far, those still open among them."""
    typed: frozenset[str] = frozenset()
    """Fields whose type the user gave; in all others what looks like a time is a string."""
    columns: tuple[str, ...] | None = None
    """Fields that are kept, all if ``None``."""
    texts: tuple[Path, ...] = ()
    """Where values are read as text of JSON."""
    num_names: int = 0
    """How many names, at all depths, are expected in any case."""

    @property
    def others(self) -> bool:
        """Whether fields that are not known must be read: all are kept, or one that is kept has a type that is still open."""
        return self.columns is None or not all(map(is_complete, self.known.types)) or len(self.known) < len(self.columns)

    def replace_known(self, schema: pa.Schema) -> Types:
        """Return these types with those of a sample, and no others, as known and met."""
        return dataclasses.replace(self, known=schema, seen=schema)

    def merge(self, schema: pa.Schema) -> Types | None:
        """Return these types with those of a block; ``None`` if tables of both cannot be concatenated."""
        try:
            return dataclasses.replace(self, seen=pa.unify_schemas([self.seen, schema], promote_options="permissive"))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None


def parse_objects(text: bytes, types: Types) -> pa.Table:
    """Parse one or more objects, with whitespace between them, into a table.

    Raises:
        pa.ArrowInvalid: Text is not JSON, or a value does not fit its type.
        LateKeysError: Fields that are read have many names that differ from line to line.
    """
    text = _prepare(text, types)
    try:
        return _parse_all(text, types)
    except pa.ArrowException:
        if types.columns is None or not types.others:
            raise
        # Perhaps fields that are not read hold values of several kinds.
        return _parse_all(rewrite(text, types.columns, ()), types)


def _prepare(text: bytes, types: Types) -> bytes:
    """Return text with strings in place of what is read as such, and without the names of fields that are not read."""
    if types.texts:
        text = rewrite(text, types.columns, types.texts)
    expected = types.num_names + count_names(types.seen)
    if not types.others or not may_be_sparse(text, expected):
        return text
    if types.columns is not None:
        text = rewrite(text, types.columns, ())
        if not may_be_sparse(text, expected):
            return text
    sparse, _ = find_sparse(load_lines(text))
    if sparse:
        raise LateKeysError(sparse[0])
    return text


def _parse_all(text: bytes, types: Types) -> pa.Table:
    table = _parse(text, types.known, types.others)
    kinds = [field.type if field.name in types.typed else _without_times(field.type) for field in table.schema]
    plain = pa.schema(list(zip(table.schema.names, kinds, strict=True)))
    if plain != table.schema or not _is_valid(table):
        # Where Arrow has to infer the type of a list's values, it loses the nulls before the first of them.
        table = _open_again(_parse(text, _filled_schema(plain), types.others), plain)
        table.validate()
    if types.columns is None:
        return table
    for name in types.columns:
        if name not in table.column_names and name in types.seen.names:
            table = table.append_column(name, pa.nulls(len(table), types.seen.field(name).type))
    return table.select([name for name in types.columns if name in table.column_names])


def check_late_names(types: Types, merged: Types) -> None:
    """Check that blocks add no more than a thousand names to those that are expected.

    Raises:
        LateKeysError: They do.
    """
    if merged.seen.equals(types.seen):
        return
    if count_names(merged.seen) > types.num_names + count_names(types.known) + MANY_LATE:
        raise LateKeysError(widest_object(merged.seen))


def known_types(schema: pa.Schema) -> pa.Schema:
    """Return the schema without what was only seen as null or as an empty list, so that later values give it a type."""
    known = {field.name: _known(field.type) for field in schema}
    return pa.schema([(name, kind) for name, kind in known.items() if kind is not None])


def is_complete(kind: pa.DataType) -> bool:
    """Return whether no later value can add to a type: it is neither null nor made of fields."""
    if pa.types.is_list(kind):
        return is_complete(kind.value_type)
    return not pa.types.is_null(kind) and not pa.types.is_struct(kind)


def has_large_floats(array: pa.ChunkedArray) -> bool:
    """Return whether an array holds floats so large that whole numbers were rounded, at any depth."""
    import pyarrow.compute as pc

    return _has_floats(array.type) and any(
        pc.any(pc.greater_equal(pc.abs(leaf), 2.0**53)).as_py() for chunk in array.chunks for leaf in _float_leaves(chunk)
    )


def rounded_number(value: object, kind: pa.DataType) -> int | None:
    """Return a whole number in a value that its type, a float at some depth, cannot hold exactly."""
    if pa.types.is_floating(kind) and isinstance(value, int):
        return value if _is_rounded(value) else None
    inner: Iterator[tuple[object, pa.DataType]] = iter(())
    if pa.types.is_list(kind) and isinstance(value, list):
        inner = ((each, kind.value_type) for each in value)
    elif pa.types.is_struct(kind) and isinstance(value, dict):
        inner = ((value.get(field.name), field.type) for field in kind)
    return next((found for each in inner if (found := rounded_number(*each)) is not None), None)


def _parse(text: bytes, schema: pa.Schema, others: bool) -> pa.Table:
    from pyarrow import json

    return json.read_json(
        pa.BufferReader(text),
        read_options=json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer" if others else "ignore"),
    )


def _is_valid(table: pa.Table) -> bool:
    try:
        table.validate()
    except pa.ArrowInvalid:
        return False
    return True


def _filled_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with a stand-in for what is null in every record, so that nothing is left to infer."""
    return pa.schema([field.with_type(_replace_leaves(field.type, pa.types.is_null, pa.bool_())) for field in schema])


def _open_again(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Put nulls of no type where the stand-ins are."""
    for index, field in enumerate(schema):
        if table.schema.field(index).type != field.type:
            table = table.set_column(index, field, _with_nulls(table.column(index).combine_chunks(), field.type))
    return table


def _with_nulls(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(array.offsets, _with_nulls(array.values, kind.value_type), mask=array.is_null())
    if pa.types.is_struct(kind):
        fields = [_with_nulls(array.field(index), kind.field(index).type) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    return pa.nulls(len(array))


def _without_times(kind: pa.DataType) -> pa.DataType:
    return _replace_leaves(kind, pa.types.is_timestamp, pa.string())


def _replace_leaves(kind: pa.DataType, is_meant: Callable[[pa.DataType], bool], other: pa.DataType) -> pa.DataType:
    if is_meant(kind):
        return other
    if pa.types.is_list(kind):
        return pa.list_(_replace_leaves(kind.value_type, is_meant, other))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_replace_leaves(field.type, is_meant, other)) for field in kind])
    return kind


def _known(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind):
        value = _known(kind.value_type)
        return None if value is None else pa.list_(value)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(known) for field in kind if (known := _known(field.type)) is not None])
    return kind


def _has_floats(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_floats(field.type) for field in kind)
    return _has_floats(kind.value_type) if pa.types.is_list(kind) else bool(pa.types.is_floating(kind))


def _float_leaves(array: pa.Array) -> Iterator[pa.Array]:
    if pa.types.is_floating(array.type):
        yield array
    elif pa.types.is_list(array.type):
        yield from _float_leaves(array.flatten())
    elif pa.types.is_struct(array.type):
        for leaf in array.flatten():
            yield from _float_leaves(leaf)


def _is_rounded(value: int) -> bool:
    try:
        return int(float(value)) != value
    except OverflowError:
        return True
