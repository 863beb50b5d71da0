"""Hashes of records by their content, which do not depend on file, block, order of fields or type of numbers.

Text is hashed as its bytes, a whole number like the float that equals it, and a null field like a missing one. There is no loop
over records: bytes are read as words of 64 bits, mixed, and summed for each record.

Legend: ``N`` rows, ``W`` words or values of all rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, Mask, flat_starts, positions
from seqstream.shuffling import key_of, mix_all

U64s: TypeAlias = npt.NDArray[np.uint64]
"""Numbers of 64 bits, ``uint64 (N,)``."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_WORD = 8
_TAILS = np.array([(1 << 64) - 1, *((1 << 8 * size) - 1 for size in range(1, _WORD))], dtype=np.uint64)
"""Masks of the last word of a text, by the number of its bytes there modulo 8."""

_IS_TEXT = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def hash_rows(table: pa.Table) -> U64s:
    """Hash the fields of each row, with their names, to 64 uniform bits, ``uint64 (N,)``."""
    return _by_batch(table, _fields_of)


def hash_column(column: pa.ChunkedArray) -> U64s:
    """Hash each value of a column to 64 uniform bits, ``uint64 (N,)``; the column's name does not count, nulls are equal."""
    return _by_batch(pa.table([column], names=["value"]), lambda batch: _hash(batch.column(0)))


def is_null(column: pa.ChunkedArray) -> Mask:
    """Return whether values are null, ``bool (N,)``."""
    if not column.null_count:
        return np.zeros(len(column), dtype=np.bool_)
    return np.concatenate([_nulls(chunk) for chunk in column.chunks])


def _by_batch(table: pa.Table, hash_batch: Callable[[pa.RecordBatch], U64s]) -> U64s:
    parts = [hash_batch(batch) for batch in table.to_batches()]
    return np.concatenate(parts) if parts else np.zeros(len(table), dtype=np.uint64)


def _fields_of(batch: pa.RecordBatch) -> U64s:
    return mix_all(_sum_fields(batch.schema.names, batch.columns, batch.num_rows))


def _hash(array: pa.Array) -> U64s:
    """Hash each value; 0 for nulls."""
    hashes = mix_all(_bits(array) + _ODD)
    if array.null_count:
        hashes[_nulls(array)] = 0
    return hashes


def _sum_fields(names: Sequence[str], columns: Sequence[pa.Array], num_rows: int) -> U64s:
    """Sum the hashes of the fields of each row, so that their order does not count."""
    total = np.zeros(num_rows, dtype=np.uint64)
    for name, column in zip(names, columns, strict=True):
        if column.null_count == len(column):
            continue
        part = mix_all(_bits(column) + _key(name))
        if column.null_count:
            part[_nulls(column)] = 0
        total += part
    return total


def _bits(array: pa.Array) -> U64s:
    """Return a number for each value, not yet mixed, that is different for different values; any number for nulls."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bits(array.storage)
    if pa.types.is_dictionary(kind):
        return _bits(array.dictionary_decode())
    if pa.types.is_null(kind):
        return np.zeros(len(array), dtype=np.uint64)
    if pa.types.is_boolean(kind):
        return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False)).astype(np.uint64) + np.uint64(_key("bool"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _number_bits(_numbers(array, np.dtype(kind.to_pandas_dtype())))
    if pa.types.is_temporal(kind) and kind.bit_width in (32, 64):
        return _time_bits(array)
    if pa.types.is_struct(kind):
        return _sum_fields([field.name for field in kind], array.flatten(), len(array))
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list_bits(array, _numbers(array.offsets, np.dtype(array.offsets.type.to_pandas_dtype())))
    if pa.types.is_fixed_size_list(kind):
        return _list_bits(array, (array.offset + np.arange(len(array) + 1)) * kind.list_size)
    return _text_bits(array)


def _text_bits(array: pa.Array) -> U64s:
    """Hash each string or binary value; values of other types are hashed as Arrow writes them."""
    kind = array.type
    if not any(is_kind(kind) for is_kind in _IS_TEXT):
        is_bytes = pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
        return _text_bits(array.cast(pa.large_binary() if is_bytes else pa.large_string()))
    width = np.int32 if pa.types.is_string(kind) or pa.types.is_binary(kind) else np.int64
    _, offsets, data = array.buffers()
    if offsets is None or not len(array):
        return np.zeros(len(array), dtype=np.uint64)
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    first, last = int(ends[0]), int(ends[-1])
    padded = np.zeros(last - first + _WORD, dtype=np.uint8)
    if last > first:
        padded[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    return _hash_bytes(padded, ends[:-1] - first, np.diff(ends))


def _hash_bytes(data: npt.NDArray[np.uint8], starts: Index, lengths: Index) -> U64s:
    """Hash each range of bytes; ``data`` is one word longer than the last range."""
    words = (lengths + _WORD - 1) // _WORD
    number = positions(words)
    offsets = np.repeat(starts, words) + _WORD * number
    # A text may start at any byte: a view with a word at each byte.
    values: U64s = np.ndarray((len(data) - _WORD + 1,), "<u8", data, strides=(1,))[offsets].astype(np.uint64, copy=False)
    filled = words > 0
    values[np.cumsum(words[filled]) - 1] &= _TAILS[lengths[filled] % _WORD]
    return mix_all(_sum_in_order(values, number, words) + lengths.astype(np.uint64) * _ODD)


def _list_bits(array: pa.Array, offsets: npt.NDArray[Any]) -> U64s:
    """Hash each list: its values in their order, and its length."""
    offsets = offsets.astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    inner = array.values.slice(first, last - first)
    values = _bits(inner)
    if inner.null_count:
        values = np.where(_nulls(inner), np.uint64(_key("null")), values)
    lengths = np.diff(offsets)
    total = _sum_in_order(values.copy(), positions(lengths), lengths)
    return mix_all(total + lengths.astype(np.uint64) * _ODD + np.uint64(_key("list")))


def _sum_in_order(values: U64s, number: Index, counts: Index) -> U64s:
    """Sum the values of each row, each mixed with its position in the row; ``values`` is overwritten.

    Args:
        values: ``uint64 (W,)``.
        number: ``int64 (W,)``, position of each value in its row.
        counts: ``int64 (N,)``, number of values of each row.
    """
    values += number.view(np.uint64) * _ODD
    values ^= values >> np.uint64(32)
    values *= _FACTOR
    values ^= values >> np.uint64(29)
    total = np.zeros(len(counts), dtype=np.uint64)
    filled = counts > 0
    if len(values):
        total[filled] = np.add.reduceat(values, flat_starts(counts)[filled])
    return total


def _number_bits(numbers: npt.NDArray[Any]) -> U64s:
    """Return whole numbers as 64 bits, also those of floats, and the bits of other floats."""
    if numbers.dtype.kind == "u":
        return numbers.astype(np.uint64)
    if numbers.dtype.kind == "i":
        return numbers.astype(np.int64).view(np.uint64)
    floats = numbers.astype(np.float64)
    is_whole = (np.abs(floats) < 2.0**63) & (floats == np.trunc(floats))
    whole = np.where(is_whole, floats, 0).astype(np.int64).view(np.uint64)
    bits = np.where(np.isnan(floats), np.nan, floats).view(np.uint64)
    return np.where(is_whole, whole, bits)


def _time_bits(array: pa.Array) -> U64s:
    """Return times in nanoseconds."""
    kind = array.type
    unit = {"date32[day]": 86_400 * 10**9, "date64[ms]": 10**6}.get(str(kind)) or _NANOSECONDS[kind.unit]
    return _number_bits(_numbers(array, np.dtype(f"i{kind.bit_width // 8}"))) * np.uint64(unit)


def _numbers(array: pa.Array, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the numbers of an array, which share its memory; any number for nulls."""
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array), kind)
    return np.frombuffer(data, kind, len(array) + array.offset)[array.offset :]


def _nulls(array: pa.Array) -> Mask:
    nulls: Mask = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
    return nulls


@functools.lru_cache(maxsize=4096)
def _key(name: str) -> np.uint64:
    return np.uint64(key_of("field", name))
