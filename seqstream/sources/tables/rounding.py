"""Whole numbers that floats round: whether a column may have any, and which number of a JSON record is one."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from seqstream.sources.tables.nested_types import types_in

MAX_EXACT = 1 << 53
"""Up to here a ``float64`` holds every whole number exactly."""


def has_large_floats(column: pa.ChunkedArray) -> bool:
    """Return whether floats of a column, at any depth, are `MAX_EXACT` or larger: some may be rounded whole numbers."""
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        return bool(pc.any(pc.greater_equal(pc.abs(column), float(MAX_EXACT))).as_py())
    if not any(pa.types.is_floating(kind) for _, kind in types_in(column.type)):
        return False
    return any(map(has_large_floats, column.flatten() if pa.types.is_struct(column.type) else [pc.list_flatten(column)]))


def rounded_number(value: object, kind: pa.DataType) -> int | None:
    """Return the first whole number in a value of JSON that is rounded as ``kind``, ``None`` if there is none."""
    # Of a str, since float(10**400) raises, and float("1e400") is infinity, as Arrow reads it.
    return next((number for number in _numbers_as_floats(value, kind) if float(str(number)) != number), None)


def rounding_remedy(name: str, number: int) -> str:
    """Return which ``schema=`` to pass for a field with a number that its type cannot hold."""
    if abs(number) < 1 << 63:  # only fractions beside it make it a float
        exact = "pa.decimal128(38, 10)"
    else:
        exact = "pa.uint64()" if 0 < number < 1 << 64 else "pa.decimal128(38, 0)"
    return f"pass schema={{{name!r}: {exact}}}, or pa.float64() to take the nearest float"


def _numbers_as_floats(value: object, kind: pa.DataType) -> Iterator[int]:
    """Yield the whole numbers in a value where ``kind`` has floats."""
    if isinstance(value, int) and pa.types.is_floating(kind):
        yield value
    elif isinstance(value, list) and pa.types.is_list(kind):
        for item in value:
            yield from _numbers_as_floats(item, kind.value_type)
    elif isinstance(value, dict) and pa.types.is_struct(kind):
        for field in kind:
            yield from _numbers_as_floats(value.get(field.name), field.type)
