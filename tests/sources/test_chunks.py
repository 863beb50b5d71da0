"""Compressed files are read whole, or are an error that says where they are damaged."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec
import pytest

from seqstream.sources.text import TextFiles

LINES = [f"line {number} {number**5}" for number in range(6_000)]
TEXT = ("\n".join(LINES) + "\n").encode()


def zstd(data: bytes) -> bytes:
    """Compress with the package that is installed."""
    if sys.version_info >= (3, 14):
        from compression.zstd import compress

        return compress(data)
    zstandard = pytest.importorskip("zstandard")
    compressed: bytes = zstandard.ZstdCompressor().compress(data)
    return compressed


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": partial(lzma.compress, preset=0),
    "zst": zstd,
}


def read_texts(source: TextFiles) -> list[str]:
    """Return the texts of all records in the order of the shards."""
    return [text for shard in range(source.num_shards) for table, _ in source.read(shard) for text in table["text"].to_pylist()]


def write_zip(path: Path, *texts: bytes) -> Path:
    """Write an archive of some files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, text in enumerate(texts):
            archive.writestr(f"{number}.txt", text)
    return path


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_compressed_files_of_one_and_of_several_parts(tmp_path: Path, extension: str) -> None:
    """All lines of a compressed file are read, in blocks, also if it is several compressed files concatenated."""
    compress = COMPRESSORS[extension]
    half = TEXT.index(b"\n", len(TEXT) // 2) - 3
    for name, data in (("one", compress(TEXT)), ("two", compress(TEXT[:half]) + compress(b"") + compress(TEXT[half:]))):
        path = tmp_path / f"{name}.txt.{extension}"
        path.write_bytes(data)
        source = TextFiles(path, block_bytes=20_000)
        assert source.num_shards == 1
        blocks = list(source.read(0))
        assert [text for table, _ in blocks for text in table["text"].to_pylist()] == LINES
        assert len(blocks) == -(-len(TEXT) // 20_000)
        for index, (_, state) in enumerate(blocks[:-1]):
            assert list(source.read(0, json.loads(json.dumps(state)))) == blocks[index + 1 :]


@pytest.mark.parametrize("extension", COMPRESSORS)
@pytest.mark.parametrize("kept", [0, 1, 3, 10, 0.3, 0.999, -1])
def test_truncated_file(tmp_path: Path, extension: str, kept: float) -> None:
    """A truncated compressed file is an error with its name and the byte of text where it ends."""
    data = COMPRESSORS[extension](TEXT)
    path = tmp_path / f"cut.txt.{extension}"
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(
        ValueError, match=rf"cut\.txt\.{extension} cannot be decompressed past byte [\d,]+ of its text: .*; it is truncated"
    ):
        read_texts(TextFiles(path))


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_truncated_second_part(tmp_path: Path, extension: str) -> None:
    """If the second of two concatenated files is truncated, the text of the first is read before the error."""
    path = tmp_path / f"cut.txt.{extension}"
    path.write_bytes(COMPRESSORS[extension](TEXT) + COMPRESSORS[extension](TEXT)[:-9])
    lines: list[str] = []
    with pytest.raises(ValueError, match="it is truncated or damaged, write it anew or leave it out"):
        lines.extend(text for table, _ in TextFiles(path, block_bytes=10_000).read(0) for text in table["text"].to_pylist())
    assert lines == (LINES + LINES)[: len(lines)]
    assert len(lines) > 0.9 * len(LINES)


@pytest.mark.parametrize("extension", COMPRESSORS)
def test_file_that_is_not_compressed(tmp_path: Path, extension: str) -> None:
    """Plain text under the name of a compressed file is an error."""
    path = tmp_path / f"plain.txt.{extension}"
    path.write_bytes(TEXT)
    with pytest.raises(ValueError, match=r"plain\.txt.* cannot be decompressed past byte 0 of its text"):
        read_texts(TextFiles(path))


def test_damaged_middle(tmp_path: Path) -> None:
    """A changed byte in the middle of a gzip file is an error, at the latest by its checksum."""
    data = bytearray(gzip.compress(TEXT))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "bad.txt.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.txt\.gz cannot be decompressed past byte"):
        read_texts(TextFiles(path))


def test_repeated_letter_stays_bounded(tmp_path: Path) -> None:
    """A zstd file of one line too long, whose text is thousands of times its size, is an error before it is all in memory."""
    path = tmp_path / "bomb.txt.zst"
    path.write_bytes(zstd(b"x" * (64 << 20)))
    with pytest.raises(ValueError, match="cannot fit max_record_bytes=1,000,000"):
        read_texts(TextFiles(path, max_record_bytes=1_000_000))


def test_zip_of_one_and_of_several_files(tmp_path: Path) -> None:
    """An archive of one file is read as that file; the error for one of several has a URL that reads them all."""
    assert read_texts(TextFiles(write_zip(tmp_path / "one.zip", TEXT))) == LINES
    path = write_zip(tmp_path / "two.zip", b"a\nb\n", b"c\n")
    with pytest.raises(ValueError, match=re.escape(f"{path} must hold one file, got 2; pass zip://*::{path} to read them all")):
        read_texts(TextFiles(path))
    assert read_texts(TextFiles(f"zip://*::{path}", block_bytes=2)) == ["a", "b", "c"]
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=r"cut\.zip cannot be decompressed: File is not a zip file; it is truncated or damaged"
    ):
        read_texts(TextFiles(tmp_path / "cut.zip"))


def test_archives_are_refused(tmp_path: Path) -> None:
    """An archive that fsspec would decompress, headers and all, is an error that says what to do."""
    for name in ("a.tar", "a.tar.gz", "a.tgz", "a.7z"):
        (tmp_path / name).touch()
        with pytest.raises(
            ValueError, match=re.escape(f"paths must be files of text, got the archive '{tmp_path}/{name}'; unpack it")
        ):
            TextFiles(tmp_path / name)


def test_package_that_is_missing(tmp_path: Path) -> None:
    """A compression whose package is not installed is an error that names the package, when the source is created."""
    if "lz4" in fsspec.available_compressions():
        pytest.skip("lz4 is installed")
    (tmp_path / "a.txt.lz4").touch()
    with pytest.raises(
        ImportError, match=re.escape(f"{tmp_path}/a.txt.lz4 cannot be read without the package lz4; pip install lz4")
    ):
        TextFiles(tmp_path / "a.txt.lz4")


def test_closing_a_stream_early_closes_its_file(tmp_path: Path) -> None:
    """A stream that is closed in the middle closes its file; an open file would be a warning."""
    for extension, compress in COMPRESSORS.items():
        (tmp_path / f"a.txt.{extension}").write_bytes(compress(TEXT))
    source = TextFiles(f"{tmp_path}/*", block_bytes=1000)
    for shard in range(source.num_shards):
        blocks = source.read(shard)
        next(blocks)
        del blocks
