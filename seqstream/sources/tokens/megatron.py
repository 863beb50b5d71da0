"""Megatron-LM's files of tokens: ids in PREFIX.bin, and where documents lie in PREFIX.idx; read and written."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import os
import secrets
import struct
from typing import Any

import numpy as np

from seqstream.arrays import Index, Lengths, ranges
from seqstream.sources.tokens.arrow_files import UNFINISHED
from seqstream.sources.tokens.file_arrays import ArraySpec, Numbers, read_at
from seqstream.sources.tokens.indexed_tokens import OpenArray, Spans

MAGIC = b"MMIDIDX\0\0"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
_LARGEST_UINT16_VOCABULARY = 65_499
"""Megatron-LM takes four bytes for larger ones."""
_REWRITE = "copy both files again"


def megatron_dtype(vocab_size: int | None) -> str:
    """Return the type that Megatron-LM gives ids of a vocabulary; ``None`` if its size is not known."""
    return "uint16" if vocab_size is not None and vocab_size <= _LARGEST_UINT16_VOCABULARY else "int32"


@dataclasses.dataclass(frozen=True)
class MegatronIndex:
    """The index of a file: documents of sequences, each of which has a place in the ids.

    Attributes:
        lengths: Tokens of each sequence.
        pointers: Byte at which each sequence begins in the file of ids.
        bounds: Number of the first sequence of each document, and of all sequences.
        width: Bytes of an id.
        has_all_ids: Whether the last sequence ends where the file of ids ends.
    """

    lengths: ArraySpec
    pointers: ArraySpec
    bounds: ArraySpec
    width: int
    has_all_ids: bool

    @property
    def path(self) -> str:
        return self.bounds.path

    @property
    def num_rows(self) -> int:
        return self.bounds.size - 1

    def first_row(self, open_array: OpenArray, token: int) -> int:
        if token == 0:
            return 0
        pointers: Any = open_array(self.pointers)
        bounds: Any = open_array(self.bounds)
        sequence = bisect.bisect_left(pointers, token * self.width)
        return min(self.num_rows, bisect.bisect_left(bounds, sequence))

    def spans(self, open_array: OpenArray, rows: Index) -> Spans:
        bounds = open_array(self.bounds)
        first, last = bounds[rows].astype(np.int64), bounds[rows + 1].astype(np.int64)
        is_wrong = (first < 0) | (last < first) | (last > self.lengths.size)
        if is_wrong.any():
            at = int(np.argmax(is_wrong))
            raise ValueError(
                f"{self.path}, document {rows[at]:,} must have sequences from 0 to {self.lengths.size:,}, got "
                f"{first[at]:,} to {last[at]:,}; {_REWRITE}"
            )
        sequences = ranges(first, last - first)
        pointers = open_array(self.pointers)[sequences].astype(np.int64)
        if (pointers % self.width).any():
            at = int(np.argmax(pointers % self.width != 0))
            raise ValueError(
                f"{self.path}, sequence {sequences[at]:,} must begin at a multiple of {self.width} bytes, got "
                f"{pointers[at]:,}; {_REWRITE}"
            )
        return Spans(pointers // self.width, open_array(self.lengths)[sequences].astype(np.int64), last - first)


def open_megatron(prefix: str) -> tuple[ArraySpec, MegatronIndex]:
    """Return the ids and the index of PREFIX.bin and PREFIX.idx; reads the header and the last sequence only.

    Raises:
        FileNotFoundError: One of the two files is missing.
        ValueError: The index is damaged or holds no ids, or the ids are fewer than it says.
    """
    path, data = f"{prefix}.idx", f"{prefix}.bin"
    for each, other in ((path, data), (data, path)):
        if not os.path.isfile(each):
            raise FileNotFoundError(f"{each} must be beside {other}, but is not there; {_REWRITE}")
    size = os.stat(path).st_size
    dtype, num_sequences, num_bounds = _read_header(path, size)
    lengths = ArraySpec(path, "<i4", _HEADER.size, num_sequences)
    pointers = ArraySpec(path, "<i8", lengths.last_byte, num_sequences)
    bounds = ArraySpec(path, "<i8", pointers.last_byte, num_bounds)
    # A file of several modalities also has a byte for each sequence.
    if size not in (bounds.last_byte, bounds.last_byte + num_sequences):
        raise ValueError(
            f"{path} must have {bounds.last_byte:,} bytes for {num_sequences:,} sequences of {num_bounds - 1:,} documents, got "
            f"{size:,}; {_REWRITE}"
        )
    begin, end = (read_at(path, "<i8", bounds.first_byte + 8 * at)[0] for at in (0, num_bounds - 1))
    if (begin, end) != (0, num_sequences):
        raise ValueError(
            f"{path} must have documents from sequence 0 to {num_sequences:,}, got {begin:,} to {end:,}; {_REWRITE}"
        )
    width = np.dtype(dtype).itemsize
    last_byte = 0
    if num_sequences:
        last = read_at(path, "<i8", pointers.last_byte - 8)[0]
        last_byte = last + width * read_at(path, "<i4", lengths.last_byte - 4)[0]
    data_size = os.stat(data).st_size
    if data_size < last_byte:
        raise ValueError(f"{data} must have {last_byte:,} bytes, as {path} says, got {data_size:,}; {_REWRITE}")
    ids = ArraySpec(data, dtype, 0, data_size // width)
    return ids, MegatronIndex(lengths, pointers, bounds, width, has_all_ids=data_size == last_byte)


def _read_header(path: str, size: int) -> tuple[str, int, int]:
    """Return the type of ids, the number of sequences and the number of bounds of documents."""
    if size < _HEADER.size:
        raise ValueError(f"{path} must begin with a header of {_HEADER.size} bytes, got a file of {size:,}; {_REWRITE}")
    header = bytes(read_at(path, "u1", 0, _HEADER.size))
    magic, version, code, num_sequences, num_bounds = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ValueError(f"{path} must begin with {MAGIC!r}, got {magic!r}; pass files that Megatron-LM can read")
    if version != _VERSION:
        raise ValueError(f"{path} must be of version {_VERSION}, got {version}; write it with Megatron-LM's current tools")
    dtype = _CODES.get(code)
    if dtype is None or dtype.startswith("float"):
        raise ValueError(f"{path} must hold whole numbers, got the type {dtype or f'of code {code}'}; pass files of token ids")
    if not num_bounds:
        raise ValueError(f"{path} must have a bound of documents, got none; {_REWRITE}")
    return dtype, num_sequences, num_bounds


class MegatronWriter:
    """Writes PREFIX.bin and PREFIX.idx as Megatron-LM's ``IndexedDatasetBuilder`` does, with one sequence a document.

    Both files appear when they are complete. The lengths of all documents are kept in memory.

    Args:
        prefix: Path of the files without their extensions.
        dtype: Type of the ids, as `megatron_dtype` returns it.

    Raises:
        ValueError: Megatron-LM has no such type of whole numbers.
    """

    def __init__(self, prefix: str, dtype: str) -> None:
        self._code = next((code for code, name in _CODES.items() if name == dtype and not name.startswith("float")), None)
        if self._code is None:
            known = ", ".join(name for name in _CODES.values() if not name.startswith("float"))
            raise ValueError(f"dtype must be one of {known}, got {dtype!r}")
        self._prefix = prefix
        self._dtype = np.dtype(dtype)
        self._unfinished = {suffix: f"{prefix}{suffix}.{secrets.token_hex(4)}{UNFINISHED}" for suffix in (".bin", ".idx")}
        self._file = open(self._unfinished[".bin"], "wb")  # noqa: SIM115 - finish() or discard() closes it
        self._lengths: list[Numbers] = []
        self._num_documents = 0

    def write(self, ids: Numbers, lengths: Lengths) -> None:
        """Append documents.

        Args:
            ids: ``(tokens,)``, the ids of all documents, one after the other.
            lengths: ``int64 (documents,)``, number of tokens of each; a document may be empty.

        Raises:
            ValueError: An id is too large or too small for the type, or lengths do not add up to the ids.
        """
        if int(lengths.sum()) != len(ids) or lengths.min(initial=0) < 0:
            raise ValueError(f"lengths must add up to the {len(ids):,} ids, got {int(lengths.sum()):,}; pass each length")
        if lengths.max(initial=0) > np.iinfo(np.int32).max:
            raise ValueError(f"a document must have at most 2**31 - 1 tokens, got {lengths.max():,}; cut it")
        limits = np.iinfo(self._dtype)
        if len(ids) and (ids.min() < limits.min or ids.max() > limits.max):
            at = int(np.argmax((ids < limits.min) | (ids > limits.max)))
            document = self._num_documents + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise ValueError(
                f"{self._prefix}, document {document:,} must have ids from {limits.min:,} to {limits.max:,} to be written as "
                f"{self._dtype}, got {ids[at]:,}; use a wider type"
            )
        np.ascontiguousarray(ids, dtype=self._dtype).tofile(self._file)
        self._lengths.append(lengths.astype("<i4"))
        self._num_documents += len(lengths)

    def finish(self) -> None:
        """Write the index, and give both files their names; files that had these names are replaced."""
        self._file.close()
        lengths = np.concatenate([np.empty(0, dtype="<i4"), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64)
        with open(self._unfinished[".idx"], "wb") as file:
            file.write(_HEADER.pack(MAGIC, _VERSION, self._code, len(lengths), len(lengths) + 1))
            lengths.tofile(file)
            ((ends - lengths) * self._dtype.itemsize).astype("<i8").tofile(file)
            np.arange(len(lengths) + 1, dtype="<i8").tofile(file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._prefix}.idx")  # so that it is never beside other ids
        for suffix, path in self._unfinished.items():
            os.replace(path, f"{self._prefix}{suffix}")

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        for path in self._unfinished.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
