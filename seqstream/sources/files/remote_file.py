"""A remote file that is read from its beginning, in parts: those that follow are fetched ahead."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from seqstream.sources.files.listing import File
from seqstream.sources.files.reading import read_bytes
from seqstream.sources.files.remote import ByteRange, Drop, read_ahead

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PART_BYTES = 1 << 19
NUM_AHEAD = 8
"""How many parts are fetched at a time; the loader has up to 16 files open."""


class RemoteFile(io.RawIOBase):
    """A remote file of known size, as a raw binary stream."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._position = 0
        self._number = -1
        self._part = b""
        self._begun: dict[int, Drop] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._position >= self._file.size:
            return 0
        number, inside = divmod(self._position, PART_BYTES)
        if number != self._number:
            self._load(number)
        with memoryview(buffer).cast("B") as view:
            data = self._part[inside : inside + len(view)]
            view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop(range(0))
        super().close()

    def _load(self, number: int) -> None:
        """Read a part, and begin to fetch those after it."""
        wanted = range(number, min(number + NUM_AHEAD, -(-self._file.size // PART_BYTES)))
        self._drop(wanted)
        for each in wanted:
            if each not in self._begun:
                self._begun[each] = read_ahead([self._range_of(each)])
        self._part, self._number = read_bytes(*self._range_of(number)), number

    def _drop(self, wanted: range) -> None:
        """Drop the parts that are not wanted."""
        for number in [number for number in self._begun if number not in wanted]:
            self._begun.pop(number)()

    def _range_of(self, number: int) -> ByteRange:
        return ByteRange(self._file, number * PART_BYTES, min((number + 1) * PART_BYTES, self._file.size))
