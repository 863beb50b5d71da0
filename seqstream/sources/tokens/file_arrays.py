"""Arrays of numbers in files: mapped into memory, or read when they are asked for; few files are open at a time."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index, ranges

_MOST_OPEN = 256
"""Files that are open at a time: some systems cannot map, or open, many more."""

_GAP_BYTES = 32 << 10
"""Spans of a file that are no farther apart are read in one call."""

Numbers: TypeAlias = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """Where an array of numbers lies in a file.

    Attributes:
        path: The file.
        dtype: Type of the numbers, as NumPy names it.
        first_byte: Where the array begins in the file.
        size: Count of numbers.
    """

    path: str
    dtype: str
    first_byte: int
    size: int

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def last_byte(self) -> int:
        """Where the array ends in the file."""
        return self.first_byte + self.size * self.width


class MappedArray:
    """An array that shares the memory of a mapped file."""

    def __init__(self, values: Numbers) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        return self._values[place]

    def gather(self, starts: Index, lengths: Index) -> Numbers:
        """Return a copy of spans, one after the other; see `ReadArray.gather`."""
        found: Numbers = self._values[ranges(starts, lengths)]
        return found


class ReadArray:
    """An array whose parts are read from its file when they are asked for."""

    def __init__(self, file: int, spec: ArraySpec) -> None:
        self._file = file
        self._spec = spec
        self._dtype = np.dtype(spec.dtype)

    def __len__(self) -> int:
        return self._spec.size

    def __getitem__(self, place: Any) -> Any:
        """Return one number, those of a slice without a step, or those at the indices ``int64 (n,)``."""
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return self._read(start, stop)
        if isinstance(place, np.ndarray):
            return self.gather(place, np.ones(len(place), dtype=np.int64))
        index = range(len(self))[place]
        return self._read(index, index + 1)[0]

    def gather(self, starts: Index, lengths: Index) -> Numbers:
        """Return a copy of spans, one after the other; spans that ascend and are near each other are read in one call.

        Args:
            starts: ``int64 (N,)``, first number of each span.
            lengths: ``int64 (N,)``, count of numbers of each.
        """
        gaps = starts[1:] - (starts + lengths)[:-1]
        is_far = (gaps * self._dtype.itemsize > _GAP_BYTES) | (gaps < 0)
        cuts = [0, *(np.flatnonzero(is_far) + 1).tolist(), len(starts)]
        parts = [np.empty(0, dtype=self._dtype)]
        for first, last in itertools.pairwise(cuts):
            if last > first:
                begin = int(starts[first])
                values = self._read(begin, int(starts[last - 1] + lengths[last - 1]))
                parts.append(values[ranges(starts[first:last] - begin, lengths[first:last])])
        return np.concatenate(parts)

    def _read(self, start: int, stop: int) -> Numbers:
        width = self._dtype.itemsize
        place, end = self._spec.first_byte + start * width, self._spec.first_byte + stop * width
        parts = []
        while place < end:  # one call reads up to 2 GiB
            parts.append(os.pread(self._file, end - place, place))
            if not parts[-1]:
                raise _shortened(self._spec, place)
            place += len(parts[-1])
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), self._dtype)


FileArray: TypeAlias = MappedArray | ReadArray


class _Descriptor:
    """An open file, which is closed when nothing uses it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


class _OwningReadArray(ReadArray):
    """Keeps its file open."""

    def __init__(self, file: _Descriptor, spec: ArraySpec) -> None:
        super().__init__(file.number, spec)
        self._owner = file


class OpenFiles:
    """Opens arrays of many files, and keeps the files used last open. Threads may share it; a pickled one has no open file.

    Args:
        mmap: Whether files are mapped into memory; an array that has been opened stays valid when its file is closed here.
    """

    def __init__(self, *, mmap: bool) -> None:
        self._mmap = mmap
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, Any] = OrderedDict()

    def __getstate__(self) -> bool:
        return self._mmap

    def __setstate__(self, state: bool) -> None:
        self._mmap = state
        self._reset()

    def __len__(self) -> int:
        return len(self._files)

    def open(self, spec: ArraySpec) -> FileArray:
        """Return an array.

        Raises:
            ValueError: Its file is shorter than it was when it was found.
        """
        if not spec.size:
            return MappedArray(np.empty(0, dtype=spec.dtype))
        with self._lock:
            if spec.path not in self._files:
                self._files[spec.path] = map_file(spec.path) if self._mmap else _Descriptor(spec.path)
                if len(self._files) > _MOST_OPEN:
                    self._files.popitem(last=False)
            self._files.move_to_end(spec.path)
            file = self._files[spec.path]
        if isinstance(file, _Descriptor):
            return _OwningReadArray(file, spec)
        if len(file) < spec.last_byte:
            raise _shortened(spec, len(file))
        return MappedArray(np.frombuffer(file, spec.dtype, spec.size, spec.first_byte))


def map_file(path: str) -> pa.Buffer:
    """Return a file mapped into memory; its descriptor is closed at once."""
    with pa.memory_map(path) as file:
        return file.read_buffer()


def _shortened(spec: ArraySpec, size: int) -> ValueError:
    return ValueError(f"{spec.path} must have {spec.last_byte:,} bytes, as when it was opened, got {size:,}; open it again")


def read_at(path: str, dtype: str, first_byte: int, size: int = 1) -> list[int]:
    """Return a few numbers of a file.

    Raises:
        ValueError: The file ends before them.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        numbers: list[int] = ReadArray(file, ArraySpec(path, dtype, first_byte, size))[0:size].tolist()
    finally:
        os.close(file)
    return numbers
