"""Short digests by which ranks compare the values of tables, arrays and JSON, and the code of functions."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.records import Json

_MOST_VALUES = 1_000
"""Longer lists and dicts that a function uses are compared only by their length."""


def digest_json(value: Json) -> str:
    """Return a digest of 16 hexadecimal digits, the same for equal JSON."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def digest_arrays(*arrays: np.ndarray) -> int:
    """Return a checksum of the bytes and the sizes of arrays; 4 GB/s."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, zlib.crc32(str(array.size).encode(), checksum))
    return checksum


def digest_table(table: pa.Table) -> int:
    """Return a checksum of the values of a table, independent of its chunks and of the bytes of missing values."""
    checksum = 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        checksum = zlib.crc32(f"{name}\t{column.type}\n".encode(), checksum)
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        if chunks:
            checksum = _add(chunks[0] if len(chunks) == 1 else column.combine_chunks(), checksum)
    return checksum


def _add(values: pa.Array, checksum: int) -> int:
    """Return the checksum continued with the values of an array."""
    import pyarrow.compute as pc  # slow to import, and only several ranks need it

    if isinstance(values, pa.ChunkedArray):  # older versions of Arrow return one
        values = pa.concat_arrays(values.chunks)
    checksum = zlib.crc32(f"{len(values)} {values.null_count}".encode(), checksum)
    if values.null_count:
        checksum = zlib.crc32(values.is_null().to_numpy(zero_copy_only=False).tobytes(), checksum)
        values = values.drop_null()
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _add(values.storage, checksum)
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        return _add_nested(values, checksum)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _add_bytes(values, _add_numbers(pc.binary_length(values), checksum))
    if pa.types.is_boolean(kind):
        return _add_numbers(values, checksum)
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        return _add_fixed(values, checksum)
    return _add_objects(values, checksum)


def _add_nested(values: pa.Array, checksum: int) -> int:
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        return _add(values.dictionary_decode(), checksum)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _add(values.flatten(), _add_numbers(pc.list_value_length(values), checksum))
    if pa.types.is_fixed_size_list(kind):
        return _add(values.flatten(), checksum)
    if pa.types.is_struct(kind):
        for part in values.flatten():
            checksum = _add(part, checksum)
        return checksum
    return _add_objects(values, checksum)


def _add_objects(values: pa.Array, checksum: int) -> int:
    return zlib.crc32(repr(values.to_pylist()).encode("utf-8", "surrogatepass"), checksum)


def _add_numbers(values: pa.Array, checksum: int) -> int:
    return zlib.crc32(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).view(np.uint8).data, checksum)


def _add_fixed(values: pa.Array, checksum: int) -> int:
    """Return the checksum continued with values of a fixed number of bytes."""
    data, width = values.buffers()[1], values.type.bit_width // 8
    begin = values.offset * width
    return checksum if data is None else zlib.crc32(memoryview(data)[begin : begin + len(values) * width], checksum)


def _add_bytes(values: pa.Array, checksum: int) -> int:
    """Return the checksum continued with the bytes of texts, none of which is missing."""
    if not len(values):
        return checksum
    _, offsets, data = values.buffers()
    width = 8 if values.type in (pa.large_string(), pa.large_binary()) else 4
    ends = np.frombuffer(offsets, np.int64 if width == 8 else np.int32, len(values) + 1, values.offset * width)
    return checksum if data is None else zlib.crc32(memoryview(data)[int(ends[0]) : int(ends[-1])], checksum)


def describe_function(function: Callable[..., Any], depth: int = 4) -> Json:
    """Return a digest of the code of a function, and the plain values that it uses by name.

    The result is the same in every process that runs the same version of Python. Other objects that the function uses are
    described by their type.
    """
    if isinstance(function, functools.partial):
        given = {str(number): value for number, value in enumerate(function.args)} | function.keywords
        return {**describe_function(function.func, depth), **{name: _plain(value, depth) for name, value in given.items()}}
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    found: dict[str, Json] = {"code": hashlib.blake2b("\n".join(_parts(code)).encode(), digest_size=8).hexdigest()}
    defaults = getattr(function, "__defaults__", None) or ()
    for name, value in zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False):
        found[name] = _plain(value, depth)
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = _plain(cell.cell_contents, depth)
        except ValueError:  # the cell is empty
            continue
    return found


def _parts(code: CodeType) -> Iterator[str]:
    """Yield the parts of the code of a function, without its name and its location."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _parts(value)
        else:
            yield repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _plain(value: Any, depth: int) -> Json:
    """Return a plain value itself, the description of a function, or the type of another object."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if isinstance(value, str | bool | None) else repr(value)
    if isinstance(value, list | tuple) and depth and len(value) <= _MOST_VALUES:
        return [_plain(part, depth - 1) for part in value]
    if isinstance(value, dict) and depth and len(value) <= _MOST_VALUES:
        return {str(name): _plain(part, depth - 1) for name, part in value.items()}
    if depth and hasattr(value, "__code__"):
        return describe_function(value, depth - 1)
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict) else ""
    return f"{type(value).__module__}.{type(value).__qualname__}{size}"
