"""`TextFiles` reads exactly the records of its whole files, for every size of block."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.sources.files.boundaries import FILES, LINES, LOOK_AHEAD, LOOK_BEHIND, PARAGRAPHS, Rule
from seqstream.sources.files.listing import find_files
from seqstream.sources.files.spans import Limits, read_range
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles, Unit

BOM = b"\xef\xbb\xbf"
UNITS: list[Unit] = ["line", "paragraph", "file"]

# Few letters and many newlines, so that blocks end in all possible places.
texts = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\n\n", b"\r", b"a", b"bc", "é€𝄞".encode(), b"x" * 9, BOM, b" ", b"\n\t \n", "\u3000".encode()]
    ),
    max_size=12,
).map(b"".join)
files = st.tuples(st.booleans(), st.sampled_from([b"", BOM]), texts)


def oracle(data: bytes, unit: Unit) -> list[str]:
    """Return the records of a file by splitting all of it with Python."""
    text = data.removeprefix(BOM)
    if unit == "file":
        return [text.decode()]
    *ended, last = text.split(b"\n")
    lines = [line.decode().removesuffix("\r") for line in ended] + ([last.decode()] if last else [])
    if unit == "line":
        return lines
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    return ["\n".join(each) for each in paragraphs if each]


def read_all(source: Source) -> list[dict[str, object]]:
    """Return all records in the order of the shards."""
    return [record for shard in range(source.num_shards) for table, _ in source.read(shard) for record in table.to_pylist()]


def read_texts(source: Source) -> list[object]:
    """Return the texts of all records in the order of the shards."""
    return [record["text"] for record in read_all(source)]


def check_resume(source: Source) -> None:
    """Check that the blocks after each state are the same, when the state went through JSON."""
    for shard in range(source.num_shards):
        blocks = list(source.read(shard))
        assert [state is None for _, state in blocks] == [False] * (len(blocks) - 1) + [True]
        for index, (_, state) in enumerate(blocks[:-1]):
            assert list(source.read(shard, json.loads(json.dumps(state)))) == blocks[index + 1 :]


def write_files(folder: Path, contents: list[tuple[bool, bytes, bytes]]) -> list[Path]:
    """Write files, some of them compressed, over those of the last example."""
    paths = []
    for number, (is_compressed, mark, text) in enumerate(contents):
        paths.append(folder / (f"{number}.txt.gz" if is_compressed else f"{number}.txt"))
        paths[-1].write_bytes(gzip.compress(mark + text, 1) if is_compressed else mark + text)
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all examples of a property."""
    return tmp_path_factory.mktemp("text")


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(files, min_size=1, max_size=6), block_bytes=st.integers(1, 40), unit=st.sampled_from(UNITS))
def test_every_record_once(folder: Path, contents: list[tuple[bool, bytes, bytes]], block_bytes: int, unit: Unit) -> None:
    """Plain and compressed files in any mix, with any size of block, have the records of the whole files, in order."""
    source = TextFiles(write_files(folder, contents), unit=unit, block_bytes=block_bytes)
    assert read_texts(source) == [record for _, mark, text in contents for record in oracle(mark + text, unit)]
    check_resume(source)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_every_border(folder: Path, unit: Unit, end: bytes) -> None:
    """A border between blocks at each byte of a text in turn changes nothing, with and without a byte order mark."""
    text = b"||aa||b|bb|||||c\rc||\r|| |d||".replace(b"|", end)
    for data in (text, BOM + text, BOM + text.lstrip(end) + b"e\r"):
        paths = write_files(folder, [(False, b"", data), (False, b"", b""), (True, b"", data), (False, b"", data[:3])])
        expected = [record for each in (data, b"", data, data[:3]) for record in oracle(each, unit)]
        for block_bytes in range(1, len(data) + 6):
            assert read_texts(TextFiles(paths, unit=unit, block_bytes=block_bytes)) == expected, block_bytes


@pytest.mark.parametrize("blank", [b"", b" ", b"\t \t", b"\r", b"\xc2\xa0", "\u3000\u2003".encode(), b" " * 20_000])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_blank_lines_of_white_space(tmp_path: Path, blank: bytes, name: str) -> None:
    """Lines of white space separate paragraphs, however long, and wherever blocks end; indented lines stay as they are."""
    path = tmp_path / name
    parts = [f"  one {number} \nmore\t".encode() for number in range(9)]
    data = blank + b"\n" + (b"\n" + blank + b"\n").join(parts) + b"\n" + blank
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    expected = [part.decode() for part in parts]
    for block_bytes in (1, 7, 100, 17_001) if len(data) < 10_000 else (10_000, 17_001, 40_007, 1 << 20):
        assert read_texts(TextFiles(path, unit="paragraph", block_bytes=block_bytes)) == expected


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("block_bytes", [1000, 65_536, 10_000_000])
def test_long_records(tmp_path: Path, unit: Unit, block_bytes: int) -> None:
    """Records much longer than a block and than one read are whole, and in the block in which they begin."""
    texts = [b"a" * 300_000 + b"\n\n" + b"b" * 5, b"c" * 20_000 + b"\r\n" + b"d" * 70_000 + b"\n\n\n", b"e"]
    paths = [tmp_path / name for name in ("0.txt", "1.txt", "2.txt")]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    source = TextFiles(paths, unit=unit, block_bytes=block_bytes)
    assert read_texts(source) == [record for text in texts for record in oracle(text, unit)]


class CountingSystem:
    """A file system of local files that counts the bytes read."""

    def __init__(self) -> None:
        self.given = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """Return a range of a file."""
        data = Path(path).read_bytes()[start:end]
        self.given += len(data)
        return data


@pytest.mark.parametrize("rule", [LINES, PARAGRAPHS, FILES])
def test_middle_of_long_record_costs_its_own_bytes(tmp_path: Path, rule: Rule) -> None:
    """A range in which no record starts reads itself and a little more, however long its record is."""
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * 1_000_000)
    system = CountingSystem()
    found = find_files(str(path))[0]._replace(system=system)
    for start in range(100_000, 200_000, 10_000):
        assert read_range(found, start, start + 10_000, rule, Limits(10_000, 64 << 20)) is None
    assert system.given <= 10 * (10_000 + LOOK_BEHIND + LOOK_AHEAD)


@pytest.mark.parametrize("unit", UNITS)
def test_locate_names_file_and_line(tmp_path: Path, unit: Unit) -> None:
    """Each row id leads to the file and the line where its record starts, in plain and in compressed files."""
    plain, compressed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    text = BOM + b"\r\none\ntwo\n\n\nthree\r\nfour\n"
    plain.write_bytes(text)
    compressed.write_bytes(gzip.compress(text))
    lines = {"line": [1, 2, 3, 4, 5, 6, 7], "paragraph": [2, 6], "file": [None]}[unit]
    expected = [f"{path}, line {line}" if line else str(path) for path in (plain, compressed) for line in lines]
    for block_bytes in (1, 7, 1000):
        source = TextFiles([plain, compressed], unit=unit, block_bytes=block_bytes)
        places = []
        for shard in range(source.num_shards):
            count = sum(len(table) for table, _ in source.read(shard))
            places += [source.locate(shard << 32 | record) for record in range(count)]
            with pytest.raises(
                IndexError, match=f"row_id must be of a record of this source, got one after the end of shard {shard}"
            ):
                source.locate(shard << 32 | count)
        assert places == expected


def test_split_holds_each_record_once(tmp_path: Path) -> None:
    """The two parts of a split hold each record once, with its own number, whether plain or compressed, resumed or not."""
    lines = [f"line {number}" for number in range(500)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    source = TextFiles([tmp_path / "a.txt", tmp_path / "b.txt.gz"], block_bytes=600)
    parts = source.split(valid=0.3, seed=1)
    for shard in range(source.num_shards):
        whole = [text for table, _ in source.read(shard) for text in table["text"].to_pylist()]
        rows = [row for part in parts for table, _ in part.read(shard) for row in table.to_pylist()]
        assert [row["text"] for row in sorted(rows, key=lambda row: row["record"])] == whole
        assert sorted(row["record"] for row in rows) == list(range(len(whole)))
    held_out = len(read_all(parts[1]))
    assert 200 < held_out < 400
    for part in parts:
        check_resume(part)


def test_pickled_source_reads_the_same(tmp_path: Path) -> None:
    """A source in another process reads the same, and keeps the sizes that were found before."""
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    source = pickle.loads(pickle.dumps(TextFiles(path)))
    assert source == TextFiles(path)
    assert read_texts(source) == ["one", "two"]
    path.write_text("one\ntwo\nthree\n")
    with pytest.raises(RuntimeError, match="was 8 bytes, is 14"):
        read_texts(source)


def test_fingerprint_is_of_the_data(tmp_path: Path) -> None:
    """A copy in another folder has the same fingerprint; another name, byte, order, unit or block size gives another."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    for name in ("a.txt", "b.txt", "c.txt.gz"):
        (first / name).write_bytes(name.encode() * 3000)
    shutil.copytree(first, copy)
    os.utime(copy / "a.txt", (1, 1))
    one = TextFiles(f"{first}/*").fingerprint()
    assert json.loads(json.dumps(one)) == one
    assert TextFiles(f"{copy}/*", errors="replace", max_record_bytes=7).fingerprint() == one
    others = [TextFiles(f"{copy}/*", unit="file"), TextFiles(f"{copy}/*", block_bytes=7), TextFiles(f"{copy}/*", field="body")]
    others += [TextFiles([copy / "b.txt", copy / "a.txt", copy / "c.txt.gz"]), TextFiles(f"{copy}/*.txt")]
    assert one not in [other.fingerprint() for other in others]
    (copy / "a.txt").write_bytes(b"a.txt" * 2999 + b"a-txt")
    assert one != TextFiles(f"{copy}/*").fingerprint()


def test_shards_and_estimate(tmp_path: Path) -> None:
    """Consecutive plain files share ranges, each compressed file is a shard, and the estimate counts both."""
    for name in ("a.txt", "b.txt", "d.txt"):
        (tmp_path / name).write_bytes(b"x" * 150)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(os.urandom(1000), 0))
    source = TextFiles(f"{tmp_path}/*", block_bytes=100)
    assert source.num_shards == 3 + 1 + 2
    assert source.approx_blocks() == pytest.approx(3 + 3.5 * (tmp_path / "c.txt.gz").stat().st_size / 100 + 2)
    assert TextFiles(f"{tmp_path}/*", block_bytes=100, unit="file").approx_blocks() == 2 + 1 + 1
    with pytest.raises(IndexError, match=re.escape("shard must be in range(6), got 6")):
        next(source.read(6))


def test_table_holds_plain_strings(tmp_path: Path) -> None:
    """A block is a table with one column of strings, named by the field, also if it has no record."""
    (tmp_path / "a.txt").write_bytes(b"x" * 10)
    source = TextFiles(tmp_path / "a.txt", field="body", block_bytes=4)
    tables = [table for shard in range(source.num_shards) for table, _ in source.read(shard)]
    assert [table.schema for table in tables] == [pa.schema([("body", pa.string())])] * 3
    assert [len(table) for table in tables] == [1, 0, 0]


def test_memory_url() -> None:
    """A URL that fsspec knows reads like a file: a path, a glob, in ranges and compressed."""
    system = fsspec.filesystem("memory")
    system.pipe(
        {"/seqstream/b.txt": b"three\nfour", "/seqstream/a.txt": b"one\ntwo\n", "/seqstream/c.txt.gz": gzip.compress(b"five")}
    )
    assert read_texts(TextFiles("memory://seqstream/b.txt")) == ["three", "four"]
    for block_bytes in (1, 3, 1000):
        source = pickle.loads(pickle.dumps(TextFiles("memory://seqstream/*.txt*", block_bytes=block_bytes)))
        assert read_texts(source) == ["one", "two", "three", "four", "five"]
        check_resume(source)
    assert source.locate(1) == "memory:///seqstream/a.txt, line 2"


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(*2 * [st.text("ab€ ", max_size=20)]), max_size=20),
    ends=st.tuples(*2 * [st.sampled_from(["\n", "\r\n"])]),
    compressed=st.tuples(st.booleans(), st.booleans()),
    block_bytes=st.integers(1, 60),
)
def test_aligned_lines(
    folder: Path, rows: list[tuple[str, str]], ends: tuple[str, str], compressed: tuple[bool, bool], block_bytes: int
) -> None:
    """Line n of one file is in a record with line n of the other, whatever their lengths and compression."""
    paths = []
    for column, (end, is_compressed) in enumerate(zip(ends, compressed, strict=True)):
        text = "".join(row[column] + end for row in rows).encode()
        paths.append(folder / (f"aligned{column}.gz" if is_compressed else f"aligned{column}"))
        paths[-1].write_bytes(gzip.compress(BOM + text, 1) if is_compressed else text)
    source = TextFiles({"source": paths[0], "target": [paths[1]]}, block_bytes=block_bytes)
    assert read_all(source) == [{"source": one, "target": other} for one, other in rows]
    assert source.num_shards == 1
    check_resume(source)


def test_aligned_files_of_different_length(tmp_path: Path) -> None:
    """A file that ends before its partner is an error with both names and the last line."""
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\nzwei\ndrei\n")
    for block_bytes in (1, 9, 1000):
        for one, other in (("a", "b"), ("b", "a")):
            source = TextFiles({"x": tmp_path / one, "y": tmp_path / other}, block_bytes=block_bytes)
            message = f"{tmp_path}/a and {tmp_path}/b must have equally many lines, got the end of {tmp_path}/a after line 2"
            with pytest.raises(ValueError, match=re.escape(message)):
                read_all(source)


def test_location_and_fingerprint_of_aligned_files(tmp_path: Path) -> None:
    """A record of aligned files has the names of both; their fingerprint and estimate are of all columns."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("one\ntwo\n" * (2 if name == "b" else 1))
    source = TextFiles({"x": tmp_path / "a", "y": tmp_path / "b"}, block_bytes=4)
    assert source.locate(1) == f"{tmp_path}/a and {tmp_path}/b, line 2"
    assert set(source.fingerprint()["files"]) == {"x", "y"}
    assert source.approx_blocks() == 4
    with pytest.raises(IndexError, match=re.escape("shard must be in range(1), got 1")):
        next(source.read(1))


def test_print_is_short(tmp_path: Path) -> None:
    """``repr`` of a source is the code that creates it; a long list of files is on one line."""
    for number in range(9):
        (tmp_path / f"{number}").touch()
    assert repr(TextFiles(tmp_path / "0", unit="file")).startswith(f"TextFiles(paths='{tmp_path}/0', unit='file', field='text'")
    shown = repr(TextFiles([tmp_path / f"{number}" for number in range(9)]))
    assert f"paths=['{tmp_path}/0', '{tmp_path}/1', '{tmp_path}/2', ... 6 more]" in shown


def test_real_corpora(data: Path) -> None:
    """Real books have the records that Python's own splitting returns."""
    paths = sorted(data.rglob("gutenberg/*.txt.gz"))
    assert paths
    for unit in UNITS:
        expected = [record for path in paths for record in oracle(gzip.decompress(path.read_bytes()), unit)]
        assert read_texts(TextFiles(paths, unit=unit)) == expected
