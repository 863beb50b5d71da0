"""Lines of JSON objects to Arrow tables whose types do not change from block to block."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seqstream.sources.files.boundaries import newlines
from seqstream.sources.tables.json_keys import (
    MANY_LATE,
    LateKeysError,
    count_names,
    find_sparse,
    load_lines,
    may_be_sparse,
    widest_object,
)
from seqstream.sources.tables.json_rewriting import rewrite
from seqstream.sources.tables.nested_types import Path, map_leaves, types_in

_OPEN, _CLOSE = b"{}"
_BRACE_BIT = _OPEN ^ ord("[")
"""``{`` has this bit, ``[`` does not."""
_WHITESPACE = b" \t\r"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')

MAX_DEPTH = 250
"""Arrow's parser is recursive: some thousands of levels end the process."""


def count_objects(text: bytes) -> int | None:
    r"""Return the number of lines with an object, by their first and last bytes; ``None`` if a line holds something else.

    If every line begins with ``{`` and ends with ``}``, and the parser finds as many objects as lines, then each line is one
    object, since nothing can continue after ``}``. The parser alone accepts two objects on a line, or one on two lines.
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
    opens = np.flatnonzero((np.frombuffer(text, np.uint8) | _BRACE_BIT) == _OPEN)
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
    """What is known of the fields before a block is read.

    Attributes:
        known: Types that values must fit.
        seen: Types of all fields seen so far, including those that are still open.
        typed: Fields whose type the user gave; in all others a string that looks like a time stays a string.
        columns: Fields to keep, all if ``None``.
        texts: Paths of the values that are read as text of JSON.
        num_names: Number of names, at all depths, that the first records have.
    """

    known: pa.Schema
    seen: pa.Schema
    typed: frozenset[str] = frozenset()
    columns: tuple[str, ...] | None = None
    texts: tuple[Path, ...] = ()
    num_names: int = 0

    @property
    def infers_others(self) -> bool:
        """Whether fields without a known type are read too: all are kept, or the type of a kept one is still open."""
        return self.columns is None or not all(map(_is_complete, self.known.types)) or len(self.known) < len(self.columns)

    def replace_known(self, schema: pa.Schema) -> Types:
        """Return these types with those of a sample, and no others, as known and seen."""
        return dataclasses.replace(self, known=schema, seen=schema)

    def merge(self, schema: pa.Schema) -> Types | None:
        """Return these types with those of a block as seen; ``None`` if the tables of both cannot be concatenated."""
        try:
            return dataclasses.replace(self, seen=pa.unify_schemas([self.seen, schema], promote_options="permissive"))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None


def parse_objects(text: bytes, types: Types) -> pa.Table:
    """Parse one or more objects, with white space between them, into a table.

    Raises:
        pa.ArrowInvalid: The text is not JSON, or a value does not fit its type.
        LateKeysError: Fields that are read have many names that differ from line to line.
    """
    text = _prepare(text, types)
    try:
        return _parse_stable(text, types)
    except pa.ArrowException:
        if types.columns is None or not types.infers_others:
            raise
        # A field that is not kept may hold values of several types.
        return _parse_stable(rewrite(text, types.columns, ()), types)


def check_late_names(types: Types, merged: Types) -> None:
    """Check that all blocks so far add at most `MANY_LATE` names to the expected ones.

    Raises:
        LateKeysError: They add more.
    """
    if merged.seen.equals(types.seen):
        return
    if count_names(merged.seen) > types.num_names + count_names(types.known) + MANY_LATE:
        raise LateKeysError(widest_object(merged.seen))


def known_types(schema: pa.Schema) -> pa.Schema:
    """Return the schema without what is null or an empty list so far: later values decide its type."""
    known = {field.name: _without_open(field.type) for field in schema}
    return pa.schema([(name, kind) for name, kind in known.items() if kind is not None])


def _prepare(text: bytes, types: Types) -> bytes:
    """Return text with strings where values are read as text, and without other fields if these have many names."""
    if types.texts:
        text = rewrite(text, types.columns, types.texts)
    expected = types.num_names + count_names(types.seen)
    if not types.infers_others or not may_be_sparse(text, expected):
        return text
    if types.columns is not None:
        text = rewrite(text, types.columns, ())
        if not may_be_sparse(text, expected):
            return text
    sparse, _ = find_sparse(load_lines(text))
    if sparse:
        raise LateKeysError(sparse[0])
    return text


def _parse_stable(text: bytes, types: Types) -> pa.Table:
    """Parse text into a table with the columns that are kept, times as strings unless the user gave their type."""
    table = _parse(text, types.known, types.infers_others)
    kinds = [field.type if field.name in types.typed else _times_to_strings(field.type) for field in table.schema]
    stable = pa.schema(list(zip(table.schema.names, kinds, strict=True)))
    if stable != table.schema or not _is_valid(table):
        # Where Arrow infers the type of a list's values, it loses the nulls before the first value: so leave none to infer.
        filled = pa.schema([field.with_type(_nulls_to_booleans(field.type)) for field in stable])
        table = _restore_nulls(_parse(text, filled, types.infers_others), stable)
        table.validate()
    if types.columns is None:
        return table
    for name in types.columns:
        if name not in table.column_names and name in types.seen.names:
            table = table.append_column(name, pa.nulls(len(table), types.seen.field(name).type))
    return table.select([name for name in types.columns if name in table.column_names])


def _parse(text: bytes, schema: pa.Schema, infers_others: bool) -> pa.Table:
    from pyarrow import json

    unexpected = "infer" if infers_others else "ignore"
    return json.read_json(
        pa.BufferReader(text),
        read_options=json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )


def _is_valid(table: pa.Table) -> bool:
    try:
        table.validate()
    except pa.ArrowInvalid:
        return False
    return True


def _restore_nulls(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with columns of type null where the schema has them; all their values are null."""
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


def _times_to_strings(kind: pa.DataType) -> pa.DataType:
    return map_leaves(kind, lambda leaf: pa.string() if pa.types.is_timestamp(leaf) else leaf)


def _nulls_to_booleans(kind: pa.DataType) -> pa.DataType:
    return map_leaves(kind, lambda leaf: pa.bool_() if pa.types.is_null(leaf) else leaf)


def _is_complete(kind: pa.DataType) -> bool:
    """Return whether no later value can add to a type: it holds neither null nor a struct."""
    return not any(pa.types.is_null(each) or pa.types.is_struct(each) for _, each in types_in(kind))


def _without_open(kind: pa.DataType) -> pa.DataType | None:
    """Return a type without the nulls in it, ``None`` if nothing is left."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind):
        value = _without_open(kind.value_type)
        return None if value is None else pa.list_(value)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(known) for field in kind if (known := _without_open(field.type)) is not None])
    return kind
