"""Paths that cannot be read, bytes that are not text, and files that change: errors with their location."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from seqstream.arrays import evenly_spaced
from seqstream.sources.csv_files import Csv
from seqstream.sources.files.listing import Paths, find_files, normalize_paths
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.text import TextFiles, Unit

UNITS: list[Unit] = ["line", "paragraph", "file"]


def read_texts(source: TextFiles) -> list[str]:
    """Return the texts of all records in the order of the shards."""
    return [text for shard in range(source.num_shards) for table, _ in source.read(shard) for text in table["text"].to_pylist()]


def found(paths: Paths) -> list[str]:
    """Return the names of the files that paths name."""
    return [Path(name).name for name in find_files(normalize_paths(paths)).names]


def test_paths_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a glob, a list, an iterator, a ``file://`` URL and ``~`` name files; a glob finds files only, sorted by name."""
    for name in ("b.txt", "a.txt", "c.md", "[x].txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.txt").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(tmp_path / "b.txt") == ["b.txt"]
    assert found(f"{tmp_path}/*") == ["[x].txt", "a.txt", "b.txt", "c.md"]
    assert found(f"{tmp_path}/**/*.txt") == ["[x].txt", "a.txt", "b.txt", "d.txt"]
    assert found([tmp_path / "c.md", f"{tmp_path}/?.txt"]) == ["c.md", "a.txt", "b.txt"]
    assert found(path for path in (tmp_path / "b.txt", tmp_path / "a.txt")) == ["b.txt", "a.txt"]
    assert found(f"file://{tmp_path}/*.md") == ["c.md"]
    assert found("~/c.md") == ["c.md"]
    assert found(tmp_path / "[x].txt") == ["[x].txt"]


def test_paths_that_name_no_file(tmp_path: Path) -> None:
    """A missing file, an empty glob, a folder, a pipe and no path at all are errors when the source is created."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    cases: list[tuple[object, type[Exception], str]] = [
        (tmp_path / "none.txt", FileNotFoundError, f"paths must name files that exist, got '{tmp_path}/none.txt'"),
        (f"{tmp_path}/*.csv", FileNotFoundError, f"paths must match at least one file, got '{tmp_path}/*.csv'"),
        (f"{tmp_path}/fold*", FileNotFoundError, "paths must match at least one file"),
        ("memory://nowhere/a.txt", FileNotFoundError, "paths must name files that exist, got 'memory://nowhere/a.txt'"),
        ("memory://nowhere/*.txt", FileNotFoundError, "paths must match at least one file, got 'memory://nowhere/*.txt'"),
        (
            tmp_path / "folder",
            IsADirectoryError,
            f"paths must be files, got the directory '{tmp_path}/folder'; pass a glob such as '{tmp_path}/folder/*.txt'",
        ),
        (tmp_path / "pipe", ValueError, f"paths must be regular files, which can be read twice, got '{tmp_path}/pipe'"),
        ([], ValueError, "paths must name at least one file, got []"),
        ({}, ValueError, "paths must name at least one file, got {}"),
        (7, TypeError, "paths must be a path or a list of paths, got 7"),
        (b"a.txt", TypeError, "paths must be a path or a list of paths, got b'a.txt'"),
        ({"x": [tmp_path / "pipe"], "y": []}, ValueError, "paths must"),
    ]
    for paths, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            TextFiles(paths)  # type: ignore[arg-type]  # some are none on purpose


def test_a_folder_is_an_error_that_lists_what_it_has(tmp_path: Path) -> None:
    """The error for a folder has the number of files of each ending, and a glob for those that can be read."""
    for number in range(3):
        (tmp_path / f"{number}.CSV").touch()
    (tmp_path / "a.jsonl.gz").touch()
    (tmp_path / "Makefile").touch()
    with pytest.raises(IsADirectoryError) as caught:
        TextFiles(tmp_path)
    counts = "3 .csv, 1 .jsonl.gz, 1 without an ending"
    start = f"paths must be files, got the directory '{tmp_path}', whose files are "
    assert sorted(str(caught.value).removeprefix(start).split(";")[0].split(", ")) == sorted(counts.split(", "))
    assert str(caught.value).endswith(f"; pass a glob such as '{tmp_path}/*.csv'")
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "1.txt").touch()
    for kind, pattern in {TextFiles: "/**/*.txt", JsonLines: "/**/*.csv", Parquet: "/**/*.csv"}.items():
        with pytest.raises(IsADirectoryError, match=re.escape(f"1 .txt; pass a glob such as '{tmp_path}{pattern}'")):
            kind(tmp_path)
    for number in range(9):
        (tmp_path / f"a.x{number}").touch()
    with pytest.raises(IsADirectoryError, match=r"files are 3 \.csv, 1 .*, 5 other endings; "):
        TextFiles(tmp_path)


def test_formats_that_no_source_reads(tmp_path: Path) -> None:
    """Spreadsheets and documents are errors that say how to convert them, also behind a glob."""
    for name in ("a.xlsx", "b.PDF"):
        (tmp_path / name).touch()
    message = f"got the spreadsheet '{tmp_path}/a.xlsx'; save it as CSV for Csv, or run pandas.read_excel('{tmp_path}/a.xlsx')"
    for kind in (TextFiles, Csv, JsonLines, Parquet):
        with pytest.raises(ValueError, match=re.escape(message)):
            kind(tmp_path / "*")
    with pytest.raises(ValueError, match=re.escape(f"got the document '{tmp_path}/b.PDF'; write its text")):
        TextFiles(tmp_path / "b.PDF")


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    """An argument out of its range is an error with the range and the value."""
    path = tmp_path / "a.txt"
    path.touch()
    cases: list[tuple[dict[str, object], str]] = [
        ({"unit": "word"}, "unit must be one of 'line', 'paragraph', 'file', got 'word'"),
        ({"errors": "ignore"}, "errors must be one of 'strict', 'replace', got 'ignore'"),
        ({"field": "row_id"}, "field must be none of the reserved row_id, piece, record, got 'row_id'"),
        ({"block_bytes": 0}, "block_bytes must be at least 1, got 0"),
        ({"max_record_bytes": 0}, "max_record_bytes must be at least 1, got 0"),
        ({"max_record_bytes": 1 << 30}, "block_bytes + 2 * max_record_bytes must be below 2 GiB"),
        ({"paths": {"a": path, "record": path}}, "field must be none of the reserved row_id, piece, record, got 'record'"),
        ({"paths": {"a": path}, "unit": "file"}, "unit must be 'line' for aligned files, got 'file'"),
        ({"paths": {"a": path, "b": [path, path]}}, "paths must name as many files for each column, got {'a': 1, 'b': 2}"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            TextFiles(**{"paths": path, **arguments})  # type: ignore[arg-type]  # wrong on purpose


def test_unreadable_file(tmp_path: Path) -> None:
    """A file without permission is an error when the source is created."""
    path = tmp_path / "secret.txt"
    path.write_text("secret")
    path.chmod(0)
    message = f"paths must be files that may be read, got {str(path)!r}"
    if os.geteuid() != 0:
        with pytest.raises(PermissionError, match=re.escape(message)):
            TextFiles(path)
        return
    # The superuser may read everything: another user reads, in a process that loads its modules before it gives up its rights.
    code = (
        "import os, sys, seqstream.sources.text as text, fsspec.utils\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: text.TextFiles(sys.argv[1])\n"
        "except PermissionError as error: print(error)"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest-of" in str(folder):
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == message


def test_empty_files_give_no_lines(tmp_path: Path) -> None:
    """Empty files have no lines and no paragraphs, but each is a file."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    assert TextFiles(f"{tmp_path}/*").num_shards == 0
    assert TextFiles(f"{tmp_path}/*", unit="paragraph").num_shards == 0
    assert read_texts(TextFiles(f"{tmp_path}/*", unit="file")) == ["", ""]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_bytes_that_are_no_text(tmp_path: Path, unit: Unit, name: str) -> None:
    """Bytes that are not UTF-8 are an error with file, line and byte; ``errors="replace"`` goes on, as Python replaces them."""
    first, path = tmp_path / "0.txt", tmp_path / name
    first.write_bytes(b"before\n")
    data = "\n".join(["fine é"] * 50).encode() + b"\nbad \xff\xe2\x82\nnot \xc3"
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    message = (
        f"{path}, line 51: text must be UTF-8, got 0xff at byte {data.index(0xFF)}, invalid start byte; pass errors='replace'"
    )
    for block_bytes in (20, 100_000):
        strict = TextFiles([first, path], unit=unit, block_bytes=block_bytes)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_texts(strict)
        replaced = TextFiles([first, path], unit=unit, block_bytes=block_bytes, errors="replace")
        text = "\n".join(read_texts(replaced))
        assert text.replace("before\n\n", "before\n") == "before\n" + data.decode(errors="replace")


def test_character_cut_by_a_files_end(tmp_path: Path) -> None:
    """Two halves of a character, one at the end of a file and one at the start of the next, are an error in each unit."""
    (tmp_path / "a.txt").write_bytes(b"a\xc3")
    (tmp_path / "b.txt").write_bytes(b"\xa9b")
    for unit in UNITS:
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/a.txt, line 1: text must be UTF-8, got 0xc3 at byte 1")):
            read_texts(TextFiles(f"{tmp_path}/*", unit=unit))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("compressed", [False, True])
def test_record_that_is_too_long(tmp_path: Path, unit: Unit, compressed: bool) -> None:
    """A record over ``max_record_bytes`` is an error with file and byte, for every size of block; one of that size is none."""
    path = tmp_path / ("a.txt.gz" if compressed else "a.txt")
    long = b"y" * 100
    data = (b"x\n\n" if unit != "file" else b"") + long + (b"\n" if unit != "file" else b"")
    path.write_bytes(gzip.compress(data) if compressed else data)
    for block_bytes in (1, 10, 1000):
        fits = TextFiles(path, unit=unit, block_bytes=block_bytes, max_record_bytes=100)
        assert read_texts(fits)[-1] == long.decode()
        short = TextFiles(path, unit=unit, block_bytes=block_bytes, max_record_bytes=99)
        message = (
            f"record of 100 bytes or more at byte {data.index(long)} of {path} cannot fit max_record_bytes=99; raise max_record"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            read_texts(short)


def test_record_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Of a very long record, no more is read than is needed to know that it is too long."""
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(20 << 30)  # a hole: 20 GiB of zeros that take no disk space
    for unit in UNITS:
        source = TextFiles(path, unit=unit, max_record_bytes=1 << 20)
        with pytest.raises(ValueError, match=f"at byte 0 of {re.escape(str(path))} cannot fit max_record_bytes=1,048,576"):
            next(source.read(0))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_file_that_changes(tmp_path: Path, name: str) -> None:
    """A file that grew, shrank, was rewritten or is gone since the source was created is an error with its name."""
    path = tmp_path / name
    data = b"one\ntwo\n"
    data = gzip.compress(data, mtime=0) if name.endswith("gz") else data

    def fresh() -> TextFiles:
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
        return TextFiles(path)

    source = fresh()
    assert read_texts(source) == ["one", "two"]
    path.write_bytes(data + b"more")
    with pytest.raises(
        RuntimeError, match=re.escape(f"{path} changed while being read: was {len(data)} bytes, is {len(data) + 4};")
    ):
        read_texts(source)
    source = fresh()
    path.write_bytes(data[:3])
    with pytest.raises(RuntimeError, match=f"was {len(data)} bytes, is 3; leave it as it is, or create the source again"):
        read_texts(source)
    source = fresh()
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=f"was {len(data)} bytes, was written again"):
        read_texts(source)
    source = fresh()
    path.unlink()
    with pytest.raises(RuntimeError, match=f"was {len(data)} bytes, is gone"):
        read_texts(source)


def test_stream_that_changes_under_way(tmp_path: Path) -> None:
    """A compressed file that is changed between two of its blocks is an error, at the latest at its end."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"some line\n" * 100_000))
    blocks = TextFiles(path, block_bytes=1000).read(0)
    next(blocks)
    with path.open("ab") as file:
        file.write(gzip.compress(b"more\n"))
    with pytest.raises(RuntimeError, match="changed while being read"):
        list(blocks)


def test_remote_file_that_shrinks() -> None:
    """A remote file that has become shorter is an error with its name."""
    system = fsspec.filesystem("memory")
    system.pipe("/shrinks/a.txt", b"one\ntwo\nthree\n")
    source = TextFiles("memory://shrinks/a.txt")
    system.pipe("/shrinks/a.txt", b"one\n")
    with pytest.raises(RuntimeError, match=r"a\.txt changed while being read: was 14 bytes, is 4 bytes"):
        read_texts(source)


class OwnSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory under a protocol of their own."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.removeprefix(f"{cls.protocol}://"))
        return stripped


class UnsizedSystem(OwnSystem):
    """A server that does not send the sizes of its files."""

    protocol = "unsized"

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        """Return the details of a file, without its size."""
        return {**super().info(path, **kwargs), "size": None}


class GreedySystem(OwnSystem):
    """A server that sends a whole file for every range."""

    protocol = "greedy"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: object) -> bytes:
        """Return the whole file."""
        data: bytes = super().cat_file(path, **kwargs)
        return data


def test_remote_file_of_unknown_size() -> None:
    """A file of unknown size is read from its beginning, as one shard."""
    fsspec.register_implementation("unsized", UnsizedSystem, clobber=True)
    fsspec.filesystem("memory").pipe("/lines.txt", b"one\ntwo\nthree\n")
    source = TextFiles("unsized://lines.txt", block_bytes=5)
    assert source.num_shards == 1
    blocks = list(source.read(0))
    assert [text for table, _ in blocks for text in table["text"].to_pylist()] == ["one", "two", "three"]
    assert [state for _, state in blocks] == [[8], None]
    assert list(source.read(0, [8])) == blocks[1:]
    assert source.fingerprint()["files"]["bytes"] == 0


def test_server_that_ignores_ranges() -> None:
    """A server that sends the whole file for a range is an error, not lines read twice."""
    fsspec.register_implementation("greedy", GreedySystem, clobber=True)
    fsspec.filesystem("memory").pipe("/long.txt", b"line\n" * 100_000)
    source = TextFiles("greedy://long.txt", block_bytes=1000)
    with pytest.raises(
        OSError, match=r"long\.txt cannot be read in byte ranges, its server sends more than was requested; copy it here"
    ):
        list(source.read(10))


@given(size=st.integers(0, 100), count=st.integers(1, 20))
def test_evenly_spaced(size: int, count: int) -> None:
    """Positions are distinct, in range, at most as many as requested, and include both ends if they are two or more."""
    positions = evenly_spaced(size, count)
    assert positions == sorted(set(positions))
    assert len(positions) == min(size, count)
    assert all(0 <= position < size for position in positions)
    assert not size or positions[0] == 0
    assert min(size, count) < 2 or positions[-1] == size - 1
