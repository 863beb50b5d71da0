"""A server of files over HTTP that answers each request late, as a distant one does, and in byte ranges."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

Answer: TypeAlias = Callable[[str, int, int], tuple[int, int, int]]
"""``(path, first byte, number of bytes)`` of a request -> status, bytes that are announced, bytes that are sent."""


def _as_asked(_: str, __: int, size: int) -> tuple[int, int, int]:
    return 206, size, size


class RangeServer:
    """Serves the files of a folder to this machine alone, from a thread.

    Args:
        folder: The folder.
        delay: Seconds before each answer.
        answer: Changes the answer to a request for bytes.

    Attributes:
        answer: The same; it may be set anew.
        url: The URL of the folder.
        num_requests: Number of requests for bytes.
        most_in_flight: The largest number of them that were waiting or answered at the same time.
    """

    def __init__(self, folder: Path, delay: float, answer: Answer = _as_asked) -> None:
        self._folder = folder
        self._delay = delay
        self.answer = answer
        self.url = ""
        self.num_requests = 0
        self.most_in_flight = 0
        self._in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> RangeServer:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=256)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._begun.set()
        await self._ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after the other."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer_next(reader, writer):
                pass
        writer.close()

    async def _answer_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection stays open."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        file = self._folder / path[1:]
        if not file.is_file() or method == "HEAD":
            size = file.stat().st_size if file.is_file() else 0
            writer.write(_head(200 if file.is_file() else 404, size, "Accept-Ranges: bytes"))
            return True
        self.num_requests += 1
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self._delay)
            return await self._send(file, path, lines, writer)
        finally:
            self._in_flight -= 1

    async def _send(self, file: Path, path: str, lines: list[str], writer: asyncio.StreamWriter) -> bool:
        size = file.stat().st_size
        asked = next((line.partition("=")[2] for line in lines if line.lower().startswith("range:")), f"0-{size - 1}")
        first, _, last = asked.partition("-")
        begin, stop = int(first), min(int(last or size) + 1, size)
        status, announced, sent = self.answer(path, begin, stop - begin)
        writer.write(_head(status, announced, f"Content-Range: bytes {begin}-{stop - 1}/{size}"))
        if sent:
            with file.open("rb") as opened:
                await self._loop.sendfile(writer.transport, opened, begin, sent)
        return sent == announced


def _head(status: int, length: int, header: str) -> bytes:
    return f"HTTP/1.1 {status} -\r\n{header}\r\nContent-Length: {length}\r\n\r\n".encode()


@contextlib.contextmanager
def serve_apart(folder: Path, delay: float) -> Iterator[str]:
    """Serve a folder from another process, and yield its URL."""
    context = multiprocessing.get_context("spawn")
    own, theirs = context.Pipe()
    process = context.Process(target=_serve_until_closed, args=(theirs, folder, delay), daemon=True)
    process.start()
    theirs.close()
    try:
        yield own.recv()
    finally:
        own.close()
        process.join()


def _serve_until_closed(connection: Connection, folder: Path, delay: float) -> None:
    with RangeServer(folder, delay) as server:
        connection.send(server.url)
        with contextlib.suppress(EOFError):
            connection.recv()
