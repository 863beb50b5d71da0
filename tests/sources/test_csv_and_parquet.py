"""CSV and Parquet files, against Python's own ``csv`` and against what was written."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import pickle
import random
import re
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from seqstream.sources.csv_files import Csv
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.tables import parquet_footers

SMALL_BLOCK = 1_024


def read_all(source: Source) -> list[dict[str, Any]]:
    return [row for shard in range(source.num_shards) for table, _ in source.read(shard) for row in table.to_pylist()]


def assert_resumes_everywhere(source: Source) -> None:
    """From the state of every block, and again from there, reading goes on with the next block."""
    for shard in range(source.num_shards):
        whole = list(source.read(shard))
        assert [state is None for _, state in whole] == [False] * (len(whole) - 1) + [True] * bool(whole)
        for i, (_, state) in enumerate(whole[:-1]):
            rest = list(source.read(shard, json.loads(json.dumps(state))))
            assert rest == whole[i + 1 :]
            if len(rest) > 1:
                assert list(source.read(shard, rest[0][1])) == whole[i + 2 :]


def written(rows: list[list[str]], **dialect: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, **dialect).writerows(rows)
    return text.getvalue().encode()


def rows_with_everything(count: int) -> list[list[str]]:
    draw = random.Random(0)
    texts = ["plain", 'quoted "word"', "two\nlines", "a,b", "", "été 🚀", "three\r\nwhole\n\nlines", " spaces "]
    return [[draw.choice(texts) * draw.randint(1, 20), str(draw.randint(-5, 5)), str(draw.random())] for _ in range(count)]


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A file of many blocks with everything that quotes allow, and its records."""
    rows = rows_with_everything(2_000)
    path = tmp_path / "corpus.csv"
    path.write_bytes(written([["text", "label", "score"], *rows]))
    return path, [{"text": text, "label": int(label), "score": float(score)} for text, label, score in rows]


def test_csv_reads_quotes_and_newlines_in_small_blocks(corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """Fields with delimiters, quotes and newlines are read as they were written, in blocks of the size of the option."""
    path, records = corpus
    source = Csv(path, block_bytes=SMALL_BLOCK)
    assert read_all(source) == records
    sizes = [table.nbytes for table, _ in source.read(0)]
    assert len(sizes) > 50
    assert max(sizes) < 2 * SMALL_BLOCK
    assert_resumes_everywhere(Csv(path, block_bytes=8 * SMALL_BLOCK))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), min_size=2, max_size=2
        )
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", "\t", ";"]),
    block_bytes=st.sampled_from([1, 50, 4096]),
)
def test_csv_reads_what_python_writes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], end: str, delimiter: str, block_bytes: int
) -> None:
    """Whatever ``csv.writer`` writes is read back, and resumes after every block."""
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    path.write_bytes(written([["a", "b"], *rows], lineterminator=end, delimiter=delimiter, quoting=csv.QUOTE_ALL))
    source = Csv(path, delimiter=delimiter, block_bytes=block_bytes, types={"a": "string", "b": "string"})
    assert read_all(source) == [{"a": a, "b": b} for a, b in rows]
    assert_resumes_everywhere(source)


def test_csv_reads_a_real_corpus(data: Path) -> None:
    """Compressed files with newlines inside quotes have the records that Python's own reader returns."""
    paths = sorted((data / "banking77").glob("*.csv.gz"))
    source = Csv(str(data / "banking77" / "*.csv.gz"), block_bytes=32_768)
    for shard, path in enumerate(paths):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            records = list(csv.DictReader(text))
        assert [row for table, _ in source.read(shard) for row in table.to_pylist()] == records
    assert_resumes_everywhere(source)


def test_csv_takes_types_from_the_first_file(tmp_path: Path) -> None:
    """Every file has the types of the first, in one schema, with columns in its order."""
    (tmp_path / "1.csv").write_text("text,size,when,flag,nothing\na,1.5,2020-01-01,true,\n")
    (tmp_path / "2.csv").write_text("flag,nothing,when,size,text\nfalse,x,12:30,2,007\n")
    source = Csv(str(tmp_path / "*.csv"))
    tables = [table for shard in range(2) for table, _ in source.read(shard)]
    assert tables[0].schema == tables[1].schema
    assert tables[0].schema.types == [pa.string(), pa.float64(), pa.string(), pa.bool_(), pa.string()]
    assert tables[1].to_pylist() == [{"text": "007", "size": 2.0, "when": "12:30", "flag": False, "nothing": "x"}]


def test_csv_takes_types_and_columns_as_asked(tmp_path: Path) -> None:
    """Only the columns of the options are read, in that order and with those types."""
    path = tmp_path / "a.csv"
    path.write_text("zip,size,text\n00123,4,NA\n00124,,null\n")
    source = Csv(path, columns=["text", "zip"], types={"zip": "string"})
    assert read_all(source) == [{"text": "NA", "zip": "00123"}, {"text": "null", "zip": "00124"}]
    assert read_all(Csv(path, columns=["size"])) == [{"size": 4}, {"size": None}]
    assert next(Csv(path, types={"size": "float32"}).read(0))[0].schema.field("size").type == pa.float32()


def test_csv_reads_files_without_header_and_without_quotes(tmp_path: Path) -> None:
    """Names can be given, and quotes can be ordinary characters."""
    path = tmp_path / "pairs.tsv"
    path.write_text('Say "hi".\tDis "salut".\n5" wide\tlarge de 5"\n')
    source = Csv(path, names=["en", "fr"], delimiter="\t", quote=None)
    assert read_all(source) == [{"en": 'Say "hi".', "fr": 'Dis "salut".'}, {"en": '5" wide', "fr": 'large de 5"'}]
    assert source.locate(1) == f"{path}, line 2"


@pytest.mark.parametrize("text", ["\ufeffa,b\n1,x\n", "a,b\r\n1,x\r\n", "a,b\n\n1,x", "a,b\n1,x\n\n\n", '"a","b"\n"1","x"\n'])
def test_csv_forgives_what_is_common(tmp_path: Path, text: str) -> None:
    """A byte order mark, empty lines, either end of line and a missing last one make no difference."""
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert read_all(Csv(path)) == [{"a": 1, "b": "x"}]


def test_csv_with_a_header_only_has_no_records(tmp_path: Path) -> None:
    """A file without records yields no block."""
    path = tmp_path / "a.csv"
    path.write_text("a,b\n")
    assert list(Csv(path).read(0)) == []


def test_csv_reads_compressed_and_remote_files(tmp_path: Path) -> None:
    """Compression is known by the name, and URLs of fsspec are read."""
    content = written([["a", "b"], *([str(i), "x\n" * i] for i in range(100))])
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(content))
    (tmp_path / "2.csv.bz2").write_bytes(bz2.compress(content))
    with fsspec.open("memory://tables/3.csv", "wb") as remote:
        remote.write(content)
    source = Csv([str(tmp_path / "1.csv.gz"), tmp_path / "2.csv.bz2", "memory://tables/3.csv"], block_bytes=SMALL_BLOCK)
    shards = [[row for table, _ in source.read(shard) for row in table.to_pylist()] for shard in range(3)]
    assert shards == [[{"a": i, "b": "x\n" * i} for i in range(100)]] * 3
    assert_resumes_everywhere(source)


def csv_error(path: Path, content: bytes, match: str, **options: Any) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_all(Csv(path, **options))


def test_csv_names_the_line_of_a_broken_row(tmp_path: Path) -> None:
    """A row with too many or too few columns is an error with its file and line, also after newlines in quotes."""
    path = tmp_path / "bad.csv"
    csv_error(
        path, b"a,b\n1,x\n2,y,z\n", r"bad\.csv, line 3: expected 2 columns, got 3: 2,y,z; correct the file, or set delimiter"
    )
    many = b"a,b\n" + b'1,"two\nlines"\n\n' * 1_000 + b"2\n3,y\n"
    csv_error(path, many, r"bad\.csv, line 3,002: expected 2 columns, got 1: 2; correct")


def test_csv_says_how_to_set_a_type(tmp_path: Path) -> None:
    """A value of another type than the first ones is an error with file, line and remedy."""
    rows = b"a,b\n" + b"1,x\n" * 3_000 + b"one,x\n"
    message = r"bad\.csv, line 3,002: column 'a' must hold int64, got 'one'; pass types=\{'a': 'string'\}"
    csv_error(tmp_path / "bad.csv", rows, message, max_record_bytes=4_096)
    (tmp_path / "good.csv").write_text("a,b\n1,x\n")
    (tmp_path / "late.csv").write_text("b,a\nx,1.5\n")
    with pytest.raises(
        ValueError, match=r"late\.csv, line 2: column 'a' must hold int64, got '1\.5'; pass types=\{'a': 'string'\}"
    ):
        read_all(Csv([tmp_path / "good.csv", tmp_path / "late.csv"]))
    with pytest.raises(ValueError, match=r"late\.csv, line 2: column 'a' must hold int64"):
        read_all(Csv([tmp_path / "good.csv", tmp_path / "late.csv"], columns=["b", "a"]))


@pytest.mark.parametrize("number", ["18446744073709551615", "-9007199254740993", "1" * 40])
@pytest.mark.parametrize("first", ["1", "0.5", ""])
def test_csv_rounds_no_whole_number(tmp_path: Path, number: str, first: str) -> None:
    """A number that a column of floats would round is an error with its line, in whichever block it is."""
    path = tmp_path / "a.csv"
    lines = "".join(f'"two\n lines",{first or number}\n' for _ in range(300))
    path.write_text(f"text,hash\n{lines}x,9007199254740992.5\nx,1e300\nx,{number}\n")
    limits = {"block_bytes": 500, "max_record_bytes": 4_000} if first else {}
    line = 604 if first else 2
    message = rf"a\.csv, line {line}: column 'hash' cannot hold {number} exactly as double; pass types={{'hash': 'string'}}, or"
    if first == "1":
        path.write_text(path.read_text().replace('lines",1', 'lines",1.5', 1))
    with pytest.raises(ValueError, match=message):
        read_all(Csv(path, **limits))
    assert read_all(Csv(path, types={"hash": "string"}, **limits))[-1]["hash"] == number
    assert read_all(Csv(path, types={"hash": "double"}, **limits))[-1]["hash"] == float(number)


def test_csv_refuses_what_is_not_utf_8(tmp_path: Path) -> None:
    """Invalid UTF-8 is an error with the file, wherever it is."""
    path = tmp_path / "latin.csv"
    csv_error(path, "a,b\n1,été\n".encode("latin-1"), r"latin\.csv must be UTF-8, but column 'b' is not; convert the file")
    late = b"a,b\n" + b"1,x\n" * 3_000 + b"1,\xff\n"
    csv_error(path, late, r"latin\.csv, line 3,002: column 'b' must be UTF-8; convert the file", max_record_bytes=4_096)
    csv_error(path, b"a,\xff\n1,x\n", r"latin\.csv must be UTF-8, but its first line is not")


def test_csv_lists_the_columns_that_there_are(tmp_path: Path) -> None:
    """A missing column is an error at once, in the first file, and when it is read in a later one."""
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("a,c\n1,x\n")
    with pytest.raises(ValueError, match=r"columns must be among 'a', 'b', got 'text', 'c' in .*1\.csv"):
        Csv(tmp_path / "1.csv", columns=["text", "a", "c"])
    with pytest.raises(ValueError, match=r"types must be among 'a', 'b', got 'c' in .*1\.csv"):
        Csv(tmp_path / "1.csv", types={"c": "string"})
    with pytest.raises(ValueError, match=r"columns must be among 'a', 'c', got 'b' in .*2\.csv"):
        read_all(Csv(str(tmp_path / "*.csv")))
    with pytest.raises(ValueError, match=r"columns must be among 'a', 'c', got 'b' in .*2\.csv"):
        read_all(Csv(str(tmp_path / "*.csv"), columns=["b"]))


def test_csv_does_not_drop_a_column_of_a_later_file(tmp_path: Path) -> None:
    """A column that the first file does not have is an error with the columns that it has."""
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "2.csv").write_text("a,b\n1,x\n")
    with pytest.raises(
        ValueError, match=r"column 'b' must be in the first records, which have 'a'; choose others with columns="
    ):
        read_all(Csv(str(tmp_path / "*.csv")))
    assert read_all(Csv(str(tmp_path / "*.csv"), columns=["a"])) == [{"a": 1}, {"a": 1}]


def test_csv_refuses_records_without_end(tmp_path: Path) -> None:
    """A quote that is never closed doesn't read the file into memory."""
    rows = b'a,b\n1,"left open\n' + b"2,y\n" * 10_000
    message = (
        r"open\.csv, line 2: record cannot be longer than max_record_bytes=4096; close a quote that was left open, pass quote="
    )
    csv_error(tmp_path / "open.csv", rows, message, max_record_bytes=4_096)


def test_csv_refuses_damaged_and_empty_files(tmp_path: Path) -> None:
    """A gzip that ends too early and a file without a header are errors with the file."""
    content = written([["text", "label", "score"], *rows_with_everything(3_000)])
    cut = gzip.compress(content)
    csv_error(
        tmp_path / "cut.csv.gz", cut[: len(cut) // 2], r"cut\.csv\.gz cannot be decompressed past byte .* truncated or damaged"
    )
    csv_error(tmp_path / "empty.csv", b"", r"empty\.csv must begin with a line of column names, got an empty file")


def test_csv_refuses_names_that_cannot_be(tmp_path: Path) -> None:
    """Two columns of one name, and names that the loader reserves, are errors."""
    csv_error(tmp_path / "twice.csv", b"a,a\n1,2\n", "column 'a' must appear once, got 2 columns of that name in ")
    csv_error(
        tmp_path / "reserved.csv",
        b"a,row_id\n1,2\n",
        "reserved.csv, which the loader uses itself; choose",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "||"}, r"delimiter must be one ASCII character, got '\|\|'"),
        ({"quote": ""}, "quote must be one ASCII character, got ''"),
        ({"types": {"a": "text"}}, "types must be names that Arrow knows, like 'string' or 'int64', got 'text' for 'a'"),
        ({"block_bytes": 0}, "block_bytes must be at least 1, got 0"),
        ({"max_record_bytes": -1}, "max_record_bytes must be at least 1, got -1"),
    ],
)
def test_csv_checks_its_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """A wrong option is an error where it is given."""
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match=message):
        Csv(tmp_path / "a.csv", **options)


@pytest.mark.parametrize("kind", [Csv, Parquet])
def test_files_must_exist(tmp_path: Path, kind: type[Source]) -> None:
    """A missing file and a directory are errors at construction."""
    with pytest.raises(FileNotFoundError, match="paths must name files that exist, got"):
        kind(tmp_path / "none")  # type: ignore[call-arg]
    with pytest.raises(IsADirectoryError, match="paths must be files, got the directory"):
        kind(tmp_path)  # type: ignore[call-arg]


def test_csv_leaves_no_thread_when_left_early(corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """A reader that is closed after its first block leaves no open file."""
    before = threading.active_count()
    for _ in range(20):
        reader = Csv(corpus[0], block_bytes=SMALL_BLOCK, max_record_bytes=8_192).read(0)
        next(reader)
        del reader
    assert threading.active_count() == before


def test_csv_names_lines(corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """The location of a record is the file and the line that it starts in; newlines in quotes count."""
    path, records = corpus
    lines = path.read_bytes().split(b"\n")
    source = Csv(path)
    for number in (0, 1, 500, 1_999):
        name, line = source.locate(number).rsplit(", line ", 1)
        assert name == str(path)
        start = lines[int(line.replace(",", "")) - 1].decode().lstrip('"').replace('""', '"')
        assert start.startswith(records[number]["text"].split("\n")[0].rstrip("\r"))


def test_csv_refuses_a_state_of_other_data(corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """A state inside a block, or after the end, is an error."""
    source = Csv(corpus[0], block_bytes=SMALL_BLOCK)
    for state in (1, 2_001):
        with pytest.raises(
            ValueError, match=f"state was saved after {state} records, where no block ends now; the data has changed"
        ):
            list(source.read(0, state))


@pytest.fixture
def parquet(tmp_path: Path) -> tuple[Path, pa.Table]:
    """Two files of three row groups with many kinds of columns."""
    count = 3_000
    table = pa.table(
        {
            "text": [f"{i} " * (i % 50) for i in range(count)],
            "kind": pa.array([f"kind {i % 5}" for i in range(count)]).dictionary_encode(),
            "input_ids": pa.array([list(range(i % 20)) for i in range(count)], pa.list_(pa.int32())),
            "spans": pa.array([[{"start": i, "end": 2 * i}] for i in range(count)]),
            "large": pa.array([str(i) for i in range(count)], pa.large_string()),
            "label": pa.array(range(count), pa.int16()),
        }
    )
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(table.slice(0, 1_500), folder / "1.parquet", row_group_size=500)
    pq.write_table(table.slice(1_500), folder / "2.parquet", row_group_size=500)
    return folder, table


def test_parquet_reads_what_was_written(parquet: tuple[Path, pa.Table]) -> None:
    """A shard is a row group of many blocks; all records are in order, and reading resumes after every block."""
    folder, table = parquet
    source = Parquet(str(folder / "*.parquet"), block_bytes=4_096)
    assert source.num_shards == 6
    assert read_all(source) == table.to_pylist()
    sizes = [block.nbytes for block, _ in source.read(2)]
    assert len(sizes) > 5
    assert max(sizes) < 2 * 4_096
    assert_resumes_everywhere(Parquet(folder / "1.parquet", block_bytes=16_384))


def test_parquet_gives_plain_columns_as_asked(parquet: tuple[Path, pa.Table]) -> None:
    """Dictionaries are decoded, 64-bit offsets become 32-bit ones, and columns are in the order of the option."""
    folder, table = parquet
    block, _ = next(Parquet(str(folder / "*.parquet"), columns=["kind", "large", "label"]).read(0))
    assert block.schema == pa.schema([("kind", pa.string()), ("large", pa.string()), ("label", pa.int16())])
    assert block.column("kind").to_pylist() == table.column("kind").to_pylist()[:500]


def test_parquet_estimates_its_blocks(parquet: tuple[Path, pa.Table]) -> None:
    """The estimate counts the chosen columns only and is near what is read."""
    folder, _ = parquet
    source = Parquet(str(folder / "*.parquet"), columns=["text"], block_bytes=4_096)
    read = sum(len(list(source.read(shard))) for shard in range(source.num_shards))
    assert source.approx_blocks() == pytest.approx(read, rel=0.5)


def test_parquet_reads_remote_files(parquet: tuple[Path, pa.Table]) -> None:
    """URLs of fsspec are read."""
    folder, table = parquet
    with fsspec.open("memory://parquet/1.parquet", "wb") as remote:
        remote.write((folder / "1.parquet").read_bytes())
    assert read_all(Parquet("memory://parquet/1.parquet")) == table.slice(0, 1_500).to_pylist()


def test_parquet_lists_the_columns_that_there_are(parquet: tuple[Path, pa.Table]) -> None:
    """A column that no file has is an error at once; in a file that lacks one it is missing."""
    folder, table = parquet
    with pytest.raises(ValueError, match=r"columns must be among 'text', 'kind', .*, got 'txt' in .*1\.parquet"):
        Parquet(folder / "1.parquet", columns=["txt"])
    pq.write_table(table.select(["label"]), folder / "3.parquet")
    found = read_all(Parquet([folder / "3.parquet", folder / "1.parquet"], columns=["text"]))
    assert found == [{"text": None}] * 3_000 + table.slice(0, 1_500).select(["text"]).to_pylist()


def write_each(folder: Path, *tables: pa.Table) -> str:
    """Write a file for each table, and return a glob of them."""
    folder.mkdir(exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    return str(folder / "*.parquet")


NUMBER, LIST = pa.int64(), pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ([pa.nulls(2), pa.array(["en", None])], pa.string()),
        ([pa.array(["en"]), pa.nulls(2), pa.array(["de"], pa.large_string())], pa.string()),
        ([pa.nulls(1), pa.array([1, 2], pa.int32()), pa.array([2**40])], NUMBER),
        ([pa.array([1, 2]), pa.array([0.5])], pa.float64()),
        ([pa.array([0.5], pa.float32()), pa.array([0.1])], pa.float64()),
        ([pa.array([255], pa.uint8()), pa.array([-1], pa.int8())], pa.int16()),
        ([pa.nulls(1), pa.array([[1], None])], LIST),
        ([pa.array([[], []]), pa.array([[1]])], LIST),
        ([pa.array([[1, 2]], pa.list_(pa.int64(), 2)), pa.array([[3]], pa.large_list(pa.int64()))], LIST),
        ([pa.array([{"a": None}]), pa.array([{"a": "x", "b": 1}])], pa.struct([("a", pa.string()), ("b", NUMBER)])),
        ([pa.nulls(1), pa.nulls(2)], pa.null()),
        ([pa.array(["x"]).dictionary_encode(), pa.array(["y"])], pa.string()),
        ([pa.array([Decimal("0.1")]), pa.array([Decimal("10.25")])], pa.decimal128(4, 2)),
        ([pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("us"))], pa.timestamp("us")),
    ],
)
def test_parquet_takes_the_types_of_all_files(tmp_path: Path, columns: list[pa.Array], kind: pa.DataType) -> None:
    """A column has the type that holds the values of every file, whichever is first."""
    for number, order in enumerate((columns, columns[::-1])):
        source = Parquet(write_each(tmp_path / str(number), *[pa.table({"x": column}) for column in order]))
        assert {field.type for table, _ in source.read(0) for field in table.schema} == {kind}
        expected = [value for column in order for value in column.to_pylist()]
        filled = [value if not isinstance(value, dict) else {"a": None, "b": None} | value for value in expected]
        assert [row["x"] for row in read_all(source)] == (filled if pa.types.is_struct(kind) else expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1]), pa.array(["three"])),
        (pa.array([True]), pa.array([1])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([Decimal("0.1")]), pa.array([0.1])),
        (pa.array([[1]]), pa.array([1])),
    ],
)
def test_parquet_refuses_types_that_do_not_go_together(tmp_path: Path, first: pa.Array, second: pa.Array) -> None:
    """The error names the column, both types, the file and the remedy; a column that is not read may have any types."""
    path = write_each(tmp_path / "x", pa.table({"x": first, "y": [1]}), pa.table({"x": second, "y": [2]}))
    message = f"column 'x' must hold {first.type} as in other files, got {second.type} in {tmp_path}/x/1.parquet; write the"
    with pytest.raises(ValueError, match=re.escape(message)):
        Parquet(path)
    assert read_all(Parquet(path, columns=["y"])) == [{"y": 1}, {"y": 2}]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (pa.array([0.5]), pa.array([2**53 + 1]), "column 'x' must hold double, got int64: .*9007199254740993"),
        (pa.array([-1]), pa.array([2**63], pa.uint64()), "column 'x' must hold int64, got uint64: .*9223372036854775808"),
    ],
)
def test_parquet_rounds_no_number(tmp_path: Path, first: pa.Array, second: pa.Array, message: str) -> None:
    """A number that the common type cannot hold is an error with its column, its value and its file."""
    source = Parquet(write_each(tmp_path / "x", pa.table({"x": first}), pa.table({"x": second})))
    with pytest.raises(ValueError, match=message) as info:
        read_all(source)
    assert info.value.__notes__ == [f"while reading {tmp_path}/x/1.parquet, row group 0"]


def test_parquet_keeps_a_column_of_later_files(tmp_path: Path) -> None:
    """A column that the first file lacks is missing there, and has its values in the others."""
    path = write_each(tmp_path / "x", pa.table({"a": ["x"]}), pa.table({"b": [1], "a": ["y"]}), pa.table({"b": [2]}))
    assert read_all(Parquet(path)) == [{"a": "x", "b": None}, {"a": "y", "b": 1}, {"a": None, "b": 2}]
    assert read_all(Parquet(path, columns=["b"])) == [{"b": None}, {"b": 1}, {"b": 2}]


def test_parquet_reads_views(tmp_path: Path) -> None:
    """Views of strings and of lists, which Arrow stores like others, have their values."""
    rows: list[Any] = [[1, 2], None, [], [3]]
    kind = pa.list_view(pa.int64())
    nested = pa.array([[[1], [2, 3]], [], [[4]], []], pa.large_list_view(kind))
    table = pa.table({"ids": pa.array(rows, kind), "nested": nested, "text": pa.array(["a", "b", None, "c"], pa.string_view())})
    pq.write_table(table, tmp_path / "a.parquet")
    for source in (Parquet(tmp_path / "a.parquet"), Parquet(tmp_path / "a.parquet", block_bytes=8)):
        assert read_all(source) == table.to_pylist()
        assert {str(table.schema.field("ids").type) for table, _ in source.read(0)} == {"list<item: int64>"}


def test_parquet_parses_each_footer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer is parsed when the source is created, and again only in another process, or if there are too many."""
    parsed: list[bool] = []

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
            parsed.append(metadata is None)
            super().__init__(*args, metadata=metadata, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", Counting)
    source = Parquet(write_each(tmp_path / "x", *[pa.table({"a": [number]}) for number in range(3)]))
    assert read_all(source) == read_all(source) == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert parsed == [True] * 3 + [False] * 6
    assert read_all(pickle.loads(pickle.dumps(source))) == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert parsed[9:] == [True] * 3
    monkeypatch.setattr(parquet_footers, "_CACHED_BYTES", 1)
    parsed.clear()
    assert read_all(Parquet(source.paths)) == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert parsed == [True] * 6


def test_parquet_verifies_checksums(tmp_path: Path) -> None:
    """A damaged page is an error with its file."""
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"record {number}" for number in range(300)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    assert read_all(Parquet(path)) == table.to_pylist()
    path.write_bytes(path.read_bytes().replace(b"record 150", b"record 151"))
    with pytest.raises(OSError, match="CRC checksum") as info:
        read_all(Parquet(path))
    assert info.value.__notes__ == [f"while reading {path}, row group 0"]


def test_parquet_has_a_column_for_folders(tmp_path: Path) -> None:
    """Values in names of folders, as Arrow and Spark write them, are a column, of whole numbers if all are such."""
    table = pa.table(
        {
            "text": ["a", "b", "c", "d"],
            "label": [1, 0, 1, None],
            "lang": ["en", "de", "a/b =", "en"],
            "zip": ["01", "7", "01", "7"],
        }
    )
    pq.write_to_dataset(table, tmp_path / "x", partition_cols=["label", "lang", "zip"])
    source = Parquet(f"{tmp_path}/x/**/*.parquet")
    assert sorted(read_all(source), key=str) == sorted(table.to_pylist(), key=str)
    assert {str(kind) for block, _ in source.read(0) for kind in block.schema.types} == {"string", "int64"}
    chosen = Parquet(f"{tmp_path}/x/**/*.parquet", columns=["zip", "label"])
    assert sorted(read_all(chosen), key=str) == sorted(table.select(["zip", "label"]).to_pylist(), key=str)
    assert sorted(read_all(Parquet(f"{tmp_path}/x/label=1/**/*.parquet")), key=str) == [
        {"text": "a", "label": 1, "lang": "en", "zip": "01"},
        {"text": "c", "label": 1, "lang": "a/b =", "zip": "01"},
    ]
    with pytest.raises(ValueError, match="columns must be among 'text', 'label', 'lang', 'zip', got 'x'"):
        Parquet(f"{tmp_path}/x/**/*.parquet", columns=["x"])
    batches = list(ss.Loader(source, ss.Filter(lambda rows: pc.is_valid(rows["label"])), ss.Unbucketed(4)))
    assert sorted(label for batch in batches for label in batch.label.tolist()) == [0, 1, 1]


def test_folders_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Equal files in other partitions are other data; a column of the files takes precedence over a folder."""
    for folder in ("x/label=0", "x/label=1", "y/label=2", "y/label=3"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / folder / "a.parquet")
    first, second = (Parquet(f"{tmp_path}/{name}/*/*.parquet").fingerprint() for name in "xy")
    assert first["files"] == second["files"]
    assert first != second
    pq.write_table(pa.table({"label": [7]}), tmp_path / "x/label=1/a.parquet")
    assert read_all(Parquet(f"{tmp_path}/x/*/*.parquet", columns=["label"])) == [{"label": None}, {"label": 7}]


def test_parquet_refuses_other_files(tmp_path: Path) -> None:
    """A file of another format, an empty one, and a truncated one are errors with the file."""
    pq.write_table(pa.table({"text": ["a" * 1_000]}), tmp_path / "whole.parquet")
    damaged = bytearray((tmp_path / "whole.parquet").read_bytes())
    size = int.from_bytes(damaged[-8:-4], "little")
    damaged[-8 - size : -8] = b"\xff" * size
    for name, content in {
        "damaged": bytes(damaged),
        "text": b"some text that is longer than a footer",
        "empty": b"",
        "cut": (tmp_path / "whole.parquet").read_bytes()[:-20],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} must be a Parquet file: "):
            Parquet(tmp_path / name)


def test_parquet_notices_that_a_file_changed(parquet: tuple[Path, pa.Table]) -> None:
    """A file that has changed or is gone is an error that says so."""
    folder, table = parquet
    source = Parquet(str(folder / "*.parquet"))
    pq.write_table(table.slice(0, 10), folder / "1.parquet")
    with pytest.raises(RuntimeError, match=r"1\.parquet changed while being read: was .* bytes, is "):
        list(source.read(0))
    (folder / "2.parquet").unlink()
    with pytest.raises(RuntimeError, match=r"2\.parquet changed while being read: .* is gone"):
        list(source.read(4))


def test_parquet_names_rows(parquet: tuple[Path, pa.Table]) -> None:
    """The location of a record is its file and its row."""
    source = Parquet(str(parquet[0] / "*.parquet"))
    assert source.locate(4 << 32 | 7) == f"{parquet[0] / '2.parquet'}, row 507"


def test_fingerprints_say_which_data_it_is(parquet: tuple[Path, pa.Table], corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """A copy has the same fingerprint; other content, columns or blocks have another."""
    folder, _ = parquet
    copy = folder / "copy"
    copy.mkdir()
    for name in ("1.parquet", "2.parquet"):
        (copy / name).write_bytes((folder / name).read_bytes())
    prints = [Parquet(str(place / "*.parquet")).fingerprint() for place in (folder, copy)]
    assert prints[0] == prints[1] == json.loads(json.dumps(prints[0]))
    one = folder / "1.parquet"
    others: list[Source] = [
        Parquet(one),
        Parquet(one, columns=["text"]),
        Parquet(one, block_bytes=9),
        Parquet(folder / "2.parquet"),
    ]
    others += [Csv(corpus[0]), Csv(corpus[0], columns=["text"]), Csv(corpus[0], block_bytes=9)]
    assert len({json.dumps(each.fingerprint()) for each in others}) == len(others)


def test_sources_can_be_pickled_and_printed(parquet: tuple[Path, pa.Table], corpus: tuple[Path, list[dict[str, Any]]]) -> None:
    """A source can be pickled for worker processes, and its ``repr`` has its arguments."""
    for source in (Parquet(str(parquet[0] / "*.parquet")), Csv(corpus[0])):
        assert read_all(pickle.loads(pickle.dumps(source))) == read_all(source)
        assert repr(source).startswith(f"{type(source).__name__}(paths='")


@pytest.mark.parametrize("quote", ['"', ""])
def test_csv_keeps_a_mark_that_is_text(tmp_path: Path, quote: str) -> None:
    """A byte order mark is dropped at the beginning of a file only, wherever blocks of it begin."""
    rows = ["\ufeffa" if number % 3 else f"{quote}\ufeffb{quote}" for number in range(40)]
    (tmp_path / "a.csv").write_text("\ufefftext\n" + "\n".join(rows), encoding="utf-8")
    for max_record_bytes in (8, 20, 1 << 20):
        source = Csv(tmp_path / "a.csv", max_record_bytes=max_record_bytes)
        assert [row["text"] for row in read_all(source)] == [row.strip('"') for row in rows]


def test_parquet_of_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Text that is not UTF-8 is an error with the file and the rows, in a file without checksums."""
    texts = pa.array([b"plain"] * 50 + [b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": [*range(51)]}), tmp_path / "a.parquet")
    message = (
        r"^rows 0 to 50 of a row group must hold what their columns' types say, got: .*UTF8.*; write the file anew, or choose"
    )
    with pytest.raises(ValueError, match=message) as caught:
        read_all(Parquet(tmp_path / "a.parquet"))
    assert "a.parquet, row group 0" in caught.value.__notes__[0]
    assert read_all(Parquet(tmp_path / "a.parquet", columns=["label"])) == [{"label": number} for number in range(51)]


def test_parquet_names_the_file_of_a_column_that_cannot_be(tmp_path: Path) -> None:
    """A reserved name in one of several files is an error with the name of the file."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"row_id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"^column 'row_id' cannot have that name in .*b\.parquet, which"):
        Parquet(tmp_path / "*.parquet")
