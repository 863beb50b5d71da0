"""Errors of disks and servers name the file; text in another encoding is recognised; secrets of servers stay secret."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import seqstream as ss
from seqstream.sources.files import remote
from seqstream.sources.source import Source

Make = Callable[..., Source]

LINES = "".join(f'{{"text": "line {number}"}}\n' for number in range(5000))
TABLE = "text\n" + LINES.replace('"', "'").replace(",", ";")


def read_texts(source: Source) -> list[str]:
    """Return the texts of all records in the order of the shards."""
    return [text for shard in range(source.num_shards) for table, _ in source.read(shard) for text in table["text"].to_pylist()]


def read_backwards(make: Make, path: Path, options: dict[str, Any]) -> None:
    """Create a source and read its shards, the last one first."""
    source = make(path, **options)
    for shard in reversed(range(source.num_shards)):
        list(source.read(shard))


class FailingSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory on a server that loses its connection for a certain ``token``."""

    protocol = "failing"
    cachable = False
    lost: ClassVar[list[str]] = []

    def __init__(self, token: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.token = token

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.removeprefix("failing://"))
        return stripped

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        self._check()
        return super()._open(path, *args, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return a range of a file."""
        self._check()
        data: bytes = super().cat_file(path, start, end, **options)
        return data

    def _check(self) -> None:
        if self.token in self.lost:
            raise ConnectionError("connection lost")


@pytest.fixture(autouse=True)
def _failing_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    fsspec.register_implementation("failing", FailingSystem, clobber=True)
    FailingSystem.lost.clear()


def files(name: str) -> bytes:
    """Return the content of the file of a name."""
    if name.endswith("parquet"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": LINES.splitlines()}), sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content
    data = (TABLE if "csv" in name else LINES).encode()
    return gzip.compress(data) if name.endswith("gz") else data


KINDS: dict[str, Make] = {
    "a.txt": ss.TextFiles,
    "a.txt.gz": ss.TextFiles,
    "a.jsonl": ss.JsonLines,
    "a.jsonl.gz": ss.JsonLines,
    "a.csv": ss.Csv,
    "a.csv.gz": ss.Csv,
    "a.parquet": ss.Parquet,
}


@pytest.mark.parametrize("name", KINDS)
def test_connection_that_is_lost(name: str) -> None:
    """An error of a server within an epoch names the file; the arguments for the server are in no message and no state."""
    fsspec.filesystem("memory").pipe(f"/{name}", files(name))
    source = KINDS[name](f"failing://{name}", storage_options={"token": "hush"})
    assert len(read_texts(pickle.loads(pickle.dumps(source)))) == 5000
    assert "hush" not in repr(source) + json.dumps(source.fingerprint())
    assert source.fingerprint() == KINDS[name](f"failing://{name}", storage_options={"token": "other"}).fingerprint()
    FailingSystem.lost.append("hush")
    with pytest.raises(ConnectionError, match="connection lost") as caught:
        read_texts(source)
    assert name in "".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


@pytest.mark.parametrize("name", [name for name in KINDS if "parquet" not in name])
def test_disk_that_fails(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the operating system names the file, and is not reported as damaged data."""
    path = tmp_path / name
    path.write_bytes(files(name))
    source = KINDS[name](path)
    read_texts(source)

    def fails(*_: object, **__: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    class Raw:
        def __init__(self, file: Any) -> None:
            self.file, self.read = file, fails

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self.file, attribute)

        def __enter__(self) -> Raw:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    monkeypatch.setattr(os, "pread", fails)

    def opened(path: str, mode: str, opener: Callable[[str, int], int]) -> Raw:
        return Raw(open(path, mode, opener=opener))

    monkeypatch.setattr("seqstream.sources.files.chunks.open", opened, raising=False)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read_texts(source)
    assert caught.value.__notes__ == [f"while reading {path}"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["pipe", "directory", "gone", "shorter"])
def test_other_things_in_the_place_of_a_file(tmp_path: Path, name: str, kind: str) -> None:
    """A file that has become a named pipe, a directory or nothing, or is cut off, is an error at once, with its name."""
    path = tmp_path / name
    path.write_bytes(files(name))
    source = KINDS[name](path)
    _ = source.num_shards, source.fingerprint()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "shorter":
        path.write_bytes(files(name)[:1000])
    with pytest.raises((RuntimeError, IsADirectoryError), match=re.escape(str(path))):
        read_texts(source)


def test_stream_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """A compressed file that is shortened between two blocks is reported as changed, not as damaged."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(1 << 20).hex("\n", 40).encode()))
    blocks = ss.TextFiles(path, block_bytes=1000).read(0)
    next(blocks)
    os.truncate(path, 300_000)
    with pytest.raises(RuntimeError, match=r"a\.txt\.gz changed while being read"):
        list(blocks)


def test_options_for_local_files(tmp_path: Path) -> None:
    """Arguments for a server with local files, or that are not a dict, are errors without their values."""
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="storage_options must go with a URL, got 'token' for local files"):
        ss.TextFiles(tmp_path / "a.txt", storage_options={"token": "hush"})
    with pytest.raises(TypeError, match="storage_options must be a dict of arguments for fsspec, got str"):
        ss.TextFiles(tmp_path / "a.txt", storage_options="hush")  # type: ignore[arg-type]  # wrong on purpose


WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("name", [name for name in KINDS if "parquet" not in name])
@pytest.mark.parametrize("text", ["it rained all day", "Сегодня шёл дождь", "今日は雨が降った。"])
def test_wide_encodings(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    """UTF-16 and UTF-32, with a mark or without, are errors with their name and the remedy, whichever block is read first."""
    row = f'{{"text": "{text}"}}\n' if "json" in name else f"{text},1\n"
    data = (("text,n\n" if "csv" in name else "") + row * 40).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    exact = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, encoding).upper()
    message = f"{tmp_path / name} must be UTF-8, got {exact}; convert it: iconv -f {exact} -t UTF-8"
    options: dict[str, Any] = {} if "csv" in name else {"block_bytes": 50, "errors": "replace"}
    with pytest.raises(ValueError, match=re.escape(message)):
        read_backwards(KINDS[name], tmp_path / name, options)


def test_zero_bytes_in_text(tmp_path: Path) -> None:
    """A zero byte in UTF-8 text is an ordinary character."""
    (tmp_path / "a.txt").write_bytes(b"a\0b\nc\n" + b"some words\0 more\n" * 50)
    assert read_texts(ss.TextFiles(tmp_path / "a.txt"))[:3] == ["a\0b", "c", "some words\0 more"]


def test_halves_of_emoji(tmp_path: Path) -> None:
    """Half of a surrogate pair in a key or a value is an error with the remedy, which puts U+FFFD in its place."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "fine"}\n' + r'{"\ud83d": {"x\uDC00": ["\uDE00\uD83d", "\ud83d\ude00", "\\ud83d"]}}' + "\n")
    message = f"{path}, line 2: text must be UTF-8, got half of a surrogate pair, \\ud83d; pass errors='replace'"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(ss.JsonLines(path).read(0))
    [(table, _)] = ss.JsonLines(path, errors="replace").read(0)
    assert table.to_pylist()[1] == {"a": None, "\ufffd": {"x\ufffd": ["\ufffd\ufffd", "😀", r"\ud83d"]}}


@pytest.mark.parametrize("line", ['{"a": "x\0y"}', '{"a": 1}\0', '{\0"a": 1}', '\0{"a": 1}', "\0"])
def test_zero_bytes_in_json(tmp_path: Path, line: str) -> None:
    """A zero byte is an error with file and line, wherever it is."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: line must be a JSON object, got invalid JSON at column")):
        list(ss.JsonLines(path).read(0))


@pytest.mark.parametrize(
    "items",
    [["a", "\ud800"], [{"t": "a"}, {"t": "\ud800"}], [{"t": ["a"]}, {"t": ["a", "\ud800"]}]],
    ids=["str", "dict", "list"],
)
def test_halves_of_emoji_in_items(items: list[Any]) -> None:
    """An item with half of a surrogate pair is an error with its number."""
    with pytest.raises(ValueError, match=r"item 1 of list must be text that UTF-8 can hold, got half of .* '\\ud800'; replace"):
        list(ss.Generator(items).read(0))
