"""Byte ranges of remote files: read again after errors that may pass, and many at a time, ahead of their use.

fsspec runs the requests of its asynchronous file systems, such as those for HTTP, S3 and GCS, in a thread of its own. Files of
other systems are read one range at a time, as these may not be used by several threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias

from seqstream.sources.files.listing import File

ATTEMPTS = 4
"""How often a range is requested before its error is raised."""

FIRST_PAUSE = 0.1
"""Seconds before the second attempt; before each further one, twice as many."""

MOST_REQUESTS = 96
"""How many requests of this process are in flight at most; aiohttp opens 100 connections."""

_TEMPORARY_STATUS = (408, 429)
"""Responses of HTTP below 500 that another attempt may change."""

_FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, TypeError)
"""Errors that another attempt would only repeat: they are raised at once."""

MOST_BYTES_AFTER = 512 << 10
"""Bytes that are read ahead for one reader after its first range: enough for most records that go on for longer."""

Drop: TypeAlias = Callable[[], None]
"""Ends the reading of bytes that are not needed any more, and forgets them."""


class ByteRange(NamedTuple):
    """The bytes ``start`` to ``stop - 1`` of a file."""

    file: File
    start: int
    stop: int


Reads: TypeAlias = Generator[ByteRange, bytes, Any]
"""Asks for ranges, one after the other, and is sent the bytes of each."""


@dataclasses.dataclass(eq=False)
class _Reading:
    """One reading of a range in the background; without a future once its bytes are used."""

    future: Future[bytes] | None


_ahead: dict[tuple[object, ...], list[_Reading]] = {}
"""What is read ahead, for each range."""

_lock = threading.Lock()
_limits: dict[int, asyncio.Semaphore] = {}
"""Limits the requests of each event loop."""


def read_remote(wanted: ByteRange) -> bytes:
    """Return the bytes of a range of a remote file, which may have been read ahead; fewer or more if the server sends these.

    Raises:
        OSError: The range cannot be read; the message has the file and the offset.
    """
    if wanted.stop <= wanted.start:
        return b""
    future = _take(wanted)
    if future is None and not is_asynchronous(wanted.file):
        return _read_here(wanted)
    return (future or _submit(wanted)).result()


def is_asynchronous(file: File) -> bool:
    """Return whether many ranges of a file can be read at a time."""
    return bool(getattr(file.system, "async_impl", False)) and not file.system.asynchronous


def read_ahead(ranges: Iterable[ByteRange]) -> Drop:
    """Begin to read ranges in the background, for later calls of `read_remote` with the same ranges.

    Returns:
        Drops those that were not used.
    """
    return read_steps_ahead(map(_single_step, ranges))


def _single_step(wanted: ByteRange) -> Reads:
    yield wanted


def read_steps_ahead(reads: Iterable[Reads]) -> Drop:
    """Begin to read in the background what some readers ask for, for later calls of `read_remote` by other such readers.

    A reader whose first range turns out to be too short asks for more: that is then requested at once.

    Args:
        reads: Each yields the ranges that it needs, and is sent the bytes of each; what it returns is not used.

    Returns:
        Drops what was not used.
    """
    ahead = _Ahead()
    for each in reads:
        ahead.read(each, next(each, None))
    return ahead.drop


class _Ahead:
    """What one call reads ahead."""

    def __init__(self) -> None:
        self._begun: list[tuple[ByteRange, _Reading]] = []
        self._is_dropped = False

    def read(self, reads: Reads, wanted: ByteRange | None, bytes_left: int = MOST_BYTES_AFTER) -> None:
        """Begin to read a range, and when it is read the next one that is asked for.

        Args:
            reads: What asks for the range.
            wanted: The range; ``None`` for none.
            bytes_left: Most bytes that are read for it after this range.
        """
        if wanted is None or wanted.start >= wanted.stop or not is_asynchronous(wanted.file):
            return

        def go_on(data: bytes) -> None:
            with contextlib.suppress(Exception):  # it is at its end, or has an error, which the other reader will have too
                following = reads.send(data)
                left = bytes_left - (following.stop - following.start)
                if left >= 0:
                    self.read(reads, following, left)

        reading = _Reading(_submit(wanted, go_on))
        with _lock:
            _ahead.setdefault(_key(wanted), []).append(reading)
            self._begun.append((wanted, reading))
        if self._is_dropped:
            self.drop()

    def drop(self) -> None:
        """Drop what was not used."""
        self._is_dropped = True
        for each, reading in list(self._begun):
            if reading.future is not None and (future := _take(each, reading)) is not None:
                future.cancel()


@contextlib.contextmanager
def reading_ahead(ranges: Iterable[ByteRange]) -> Iterator[None]:
    """Read ranges in the background during the block, which reads them."""
    drop = read_ahead(ranges)
    try:
        yield
    finally:
        drop()


def _key(wanted: ByteRange) -> tuple[object, ...]:
    # A forked process has no thread that would read what its parent waits for.
    return os.getpid(), wanted.file.system, wanted.file.path, wanted.start, wanted.stop


def _take(wanted: ByteRange, reading: _Reading | None = None) -> Future[bytes] | None:
    """Remove what is read ahead of a range, one reading of it or the first, and return its future."""
    key = _key(wanted)
    with _lock:
        readings = _ahead.get(key, [])
        if not readings or (reading is not None and reading not in readings):
            return None
        taken = readings.pop(0 if reading is None else readings.index(reading))
        if not readings:
            del _ahead[key]
        future, taken.future = taken.future, None
        return future


def _submit(wanted: ByteRange, then: Callable[[bytes], None] = lambda _: None) -> Future[bytes]:
    """Begin to read a range in the thread of fsspec; ``then`` is called with its bytes before the future has them."""

    async def read() -> bytes:
        data = await _read_there(wanted)
        then(data)
        return data

    return asyncio.run_coroutine_threadsafe(read(), wanted.file.system.loop)


async def _read_there(wanted: ByteRange) -> bytes:
    file, start, stop = wanted
    limit = _limits.setdefault(id(asyncio.get_running_loop()), asyncio.Semaphore(MOST_REQUESTS))
    attempt = 1
    while True:
        try:
            async with limit:
                return _checked(await file.system._cat_file(file.path, start=start, end=stop), wanted, attempt)
        except Exception as error:  # noqa: BLE001 - each system has its own
            pause = _pause_after(error, wanted, attempt)
        await asyncio.sleep(pause)
        attempt += 1


def _read_here(wanted: ByteRange) -> bytes:
    file, start, stop = wanted
    attempt = 1
    while True:
        try:
            return _checked(file.system.cat_file(file.path, start=start, end=stop), wanted, attempt)
        except Exception as error:  # noqa: BLE001 - each system has its own
            pause = _pause_after(error, wanted, attempt)
        time.sleep(pause)
        attempt += 1


class _ShortError(Exception):
    """A server has sent fewer bytes than were requested."""


def _checked(data: Any, wanted: ByteRange, attempt: int) -> bytes:
    """Return bytes that were read; raise if there are too few and it is not the last attempt."""
    if len(data) < wanted.stop - wanted.start and attempt < ATTEMPTS:
        raise _ShortError
    return bytes(data)


def _pause_after(error: Exception, wanted: ByteRange, attempt: int) -> float:
    """Return the seconds until the next attempt.

    Raises:
        OSError: There is none: this was the last one, or another one would fail as well.
    """
    if isinstance(error, _FINAL_ERRORS):
        raise error
    status = getattr(error, "status", None)
    is_final = isinstance(status, int) and 400 <= status < 500 and status not in _TEMPORARY_STATUS
    if attempt == ATTEMPTS or is_final:
        times = f"{attempt} time{'s' if attempt > 1 else ''}"
        shown = f"{type(error).__name__}: {error}"
        kind = next((each for each in (ConnectionError, TimeoutError) if isinstance(error, each)), OSError)
        raise kind(
            f"{wanted.file.name} cannot be read from byte {wanted.start:,} on, it was tried {times}: {shown}; check the server "
            "and the connection, then resume from the last state"
        ) from error
    pause: float = FIRST_PAUSE * 2 ** (attempt - 1)
    return pause
