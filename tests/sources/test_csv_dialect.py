"""CSV files with stray, open or wrong quotes: the rows of Python's strict reader, or an error with the line."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import seqstream as ss
from tests.helpers.forked import run_code

TYPES = {"a": "string", "b": "string"}

parts = st.sampled_from(['"', '""', '"x"', '"x""y"', ",", "\n", "\r\n", "\r", "a", " ", 'say "go" now', '"p\nq"', "é"])


def read_rows(source: ss.Csv) -> list[list[Any]]:
    """Return the values of all rows."""
    return [list(row.values()) for table, _ in source.read(0) for row in table.to_pylist()]


def strict_rows(text: str, **dialect: Any) -> list[list[str]] | None:
    """Return the rows after the header by Python's strict reader, ``None`` if they are wrong."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True, **dialect) if row][1:]
    except csv.Error:
        return None
    return rows if all(len(row) == 2 for row in rows) else None


@settings(max_examples=400, deadline=None)
@given(body=st.lists(parts, max_size=20).map("".join), max_record_bytes=st.sampled_from([9, 40, 1 << 20]))
def test_rows_are_those_of_the_strict_reader(
    tmp_path_factory: pytest.TempPathFactory, body: str, max_record_bytes: int
) -> None:
    """The rows are Python's, or both readers refuse them, whatever the quotes; also if the text is read in small parts."""
    path = tmp_path_factory.getbasetemp() / "strict.csv"
    path.write_bytes(f"a,b\n{body}".encode())
    expected = strict_rows(f"a,b\n{body}")
    try:
        got = read_rows(ss.Csv(path, types=TYPES, max_record_bytes=max_record_bytes))
    except ValueError as error:
        got = expected if "cannot be longer than max_record_bytes=" in str(error) else None
    assert got == expected


ROWS = ['"Stop, he said', "it rained all day", 'she said "go"', "the end"]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("rows_before", [0, 500])
def test_quote_that_is_never_closed(tmp_path: Path, name: str, rows_before: int) -> None:
    """Text after a closing quote is an error with the record's line and the remedy, which reads the rows as written."""
    rows = [*["x"] * rows_before, *ROWS]
    data = ("id\ttext\n" + "".join(f"{number}\t{text}\n" for number, text in enumerate(rows))).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    line = rows_before + 2
    message = f"{tmp_path / name}, line {line}: a field in quotes must end with its closing quote, got '\"Stop, he said\\n"
    remedy = (
        f", closed on line {line + 2} before 'go\"\\n{rows_before + 3}\\tthe end\\n'; "
        "double the quotes inside of it, or pass quote=None"
    )
    for options in ({}, {"max_record_bytes": 100}):
        source = ss.Csv(tmp_path / name, delimiter="\t", **options)  # type: ignore[arg-type]  # mypy joins the two
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read_rows(source)
        assert remedy in str(caught.value)
        found = read_rows(ss.Csv(tmp_path / name, delimiter="\t", quote=None, **options))  # type: ignore[arg-type]
        assert [text for _, text in found] == rows


def test_quote_open_to_the_end(tmp_path: Path) -> None:
    """A quote that is open at the end of the file, or over ``max_record_bytes``, is an error with the record's line."""
    path = tmp_path / "open.csv"
    path.write_text('a,b\n1,"p\nq"\n2,"left open\n3,x\n4,y\n')
    message = f"{path}, line 4: a field in quotes must have a closing quote, got the end of the file after '\"left open\\n3,x"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_rows(ss.Csv(path))
    path.write_text('a,b\n1,"p\nq"\n2,"left open\n' + "3,x\n" * 1000)
    message = (
        f"{path}, line 4: record cannot be longer than max_record_bytes=100; close a quote that was left open, pass quote=None"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_rows(ss.Csv(path, max_record_bytes=100))


def test_records_of_the_largest_size(tmp_path: Path) -> None:
    """A record of exactly ``max_record_bytes`` is read, one byte more is an error."""
    for end in ("\n", "\r\n"):
        text = "a,b\n" + f"1,{'x' * 98}{end}" * 5
        (tmp_path / "a.csv").write_text(text, newline="")
        assert len(read_rows(ss.Csv(tmp_path / "a.csv", max_record_bytes=100 + len(end)))) == 5
        with pytest.raises(ValueError, match="line 2: record cannot be longer than max_record_bytes=90"):
            read_rows(ss.Csv(tmp_path / "a.csv", max_record_bytes=90))


def test_blocks_do_not_depend_on_the_longest_record_allowed(tmp_path: Path) -> None:
    """After the error of a record that is too long, a source with a larger limit goes on from the last state."""
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "1,some text of a row\n" * 100_000 + f"2,{'x' * (3 << 20)}\n" + "3,y\n")
    blocks = ss.Csv(path).read(0)
    states = []
    with pytest.raises(ValueError, match="line 100,002: record cannot be longer than"):
        states.extend(state for _, state in blocks)
    rest = [table for table, _ in ss.Csv(path, max_record_bytes=4 << 20).read(0, states[-1])]
    assert sum(map(len, rest)) == 100_002 - states[-1]


def test_many_columns(tmp_path: Path) -> None:
    """20,000 columns are read, and a name that is not among them is a short error."""
    path = tmp_path / "genes.csv"
    path.write_text("text," + ",".join(f"c{number}" for number in range(20_000)) + "\nx" + ",1" * 20_000 + "\n")
    source = ss.Csv(path)
    [[text, *numbers]] = read_rows(source)
    assert (text, len(numbers), set(numbers)) == ("x", 20_000, {1})
    with pytest.raises(ValueError, match=r"columns must be among 'text', 'c0', .* and 19,951 more, got 'nope' in") as caught:
        ss.Csv(path, columns=["nope"])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["types", "columns", "names"])
def test_arguments_that_are_one_string(tmp_path: Path, name: str) -> None:
    """A string in place of a dict or a list of names is an error that names the argument."""
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(TypeError, match=f"{name} must be .*, got 'string'"):
        ss.Csv(tmp_path / "a.csv", **{name: "string"})  # type: ignore[arg-type]  # wrong on purpose


SCRIPTS = {
    "a column that is missing": "ss.Csv(path, columns=['nope'])",
    "a bad value": "list(ss.Csv(path, types={'text': 'int64'}).read(0))",
    "an error while a reader is open": "rows = ss.Csv(path).read(0); next(rows); raise ValueError('columns must be')",
    "an iterator of a loader": (
        "rows = iter(ss.Loader(ss.Csv(path), ss.Tokenize(lambda texts: [[1]] * len(texts)), ss.Unbucketed(1))); next(rows); "
        "raise ValueError('columns must be')"
    ),
}


def test_blocks_of_several_parsed_parts(tmp_path: Path) -> None:
    """Rows are those of the file, each column one array, also if a line is longer than a part; errors name the line."""
    rows = [[f"{number}, " + 'a "b"\n' * (number % 40), number] for number in range(9_000)]
    rows[5_000][0] = "x" * 400_000
    path = tmp_path / "large.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    source = ss.Csv(str(path))
    assert read_rows(source) == rows
    assert all(column.num_chunks == 1 for table, _ in source.read(0) for column in table.columns)
    lines = ["a,b", *(f"{'text ' * 20},{number}" for number in range(9_000))]
    lines[8_001] = "text,many"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"large\.csv, line 8,002: column 'b' must hold int64, got 'many'"):
        read_rows(ss.Csv(str(path), types={"a": "string", "b": "int64"}))


def test_process_ends_after_an_error(tmp_path: Path) -> None:
    """A script that fails, or ends with readers in the middle of a large file, exits with 1 and shows its error."""
    path = tmp_path / "large.csv"
    path.write_text("text,label\n" + "".join(f"{'word ' * (number % 90)},{number}\n" for number in range(30_000)))
    code = f"""
        import traceback
        import seqstream as ss
        path = {str(path)!r}
        for script in {[*SCRIPTS.values()]}:
            try:
                exec(script)
            except ValueError as error:
                kept = error
                print(error)
        raise kept
    """
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [bool(re.search("columns must|column 'text' must hold int64", line)) for line in done.stdout.splitlines()] == [
        True
    ] * 4
    assert done.stderr.splitlines()[-1] == "ValueError: columns must be"
