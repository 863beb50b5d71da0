"""The command line: output on terminals and pipes, and errors."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import seqstream as ss
from seqstream import cli

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "seqstream"]
ESCAPE = "\x1b"


@pytest.fixture
def corpus(texts: list[str], tmp_path: Path) -> Path:
    """A few hundred lines."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts[:600]) + "\n")
    return path


def run(*args: object, columns: int = 100) -> Result:
    """Run the command line in this process, with a terminal width of its own."""
    return CliRunner().invoke(cli.app, [str(arg) for arg in args], env={"COLUMNS": str(columns)})


def run_process(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, with pipes."""
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_report_prints_all_parts(corpus: Path, bpe_file: Path) -> None:
    """A report has the counts, the lengths, a line for each setting, and a recommendation with code."""
    result = run("report", corpus, "-t", bpe_file, "--budgets", "512,2048", "--windows", "4,16", "--max-length", 64)
    assert result.exit_code == 0
    assert result.stdout.startswith("600 records, 600 rows, ")
    for part in ("Tokens of a row", "mean ", "An epoch of batches", "random", "Recommended: max_tokens=512"):
        assert part in result.stdout
    assert f'    ss.TextFiles("{corpus}"),\n' in result.stdout
    assert "█" in result.stdout
    assert ESCAPE not in result.stdout
    assert result.stderr == ""


def test_report_as_json(corpus: Path, bpe_file: Path) -> None:
    """``--json`` prints one document, with every number of the report."""
    result = run("report", corpus, "-t", bpe_file.parent, "--budgets", "512", "--windows", "4,16", "--json")
    report = json.loads(result.stdout)
    assert (report["records"], report["empty"], report["is_whole"], report["max_length"]) == (600, 0, True, 512)
    assert [setting["spec"]["kind"] for setting in report["settings"]] == ["Unbucketed", "Bucket", "Bucket"]
    assert report["settings"][0]["padding"] > report["recommended"]["padding"] > 0
    assert all(setting["tokens_per_second"] > 0 for setting in report["settings"])
    assert report["recommended"]["code"].startswith("import seqstream as ss\n")
    assert result.stderr == ""


def test_report_as_page(corpus: Path, bpe_file: Path, tmp_path: Path) -> None:
    """``--html`` writes a page beside the text, and ``--json`` has all its sections."""
    page = tmp_path / "report.html"
    result = run("report", corpus, "-t", bpe_file, "--budgets", "512", "--windows", "16", "--html", page)
    assert result.stdout.endswith(f"page: {page}\n")
    assert page.read_text().startswith("<!DOCTYPE html>")
    result = run("report", corpus, "-t", bpe_file, "--budgets", "512", "--windows", "16", "--html", page, "--json")
    sections = json.loads(result.stdout)["sections"]
    assert sections["prediction"]["steps"] > 0
    assert f"{sections['lengths']['longest']:,} tokens" in page.read_text()


def test_report_of_a_folder_of_tokens(corpus: Path, bpe_file: Path, tmp_path: Path) -> None:
    """A folder of tokens needs no tokenizer; its rows are those of the text."""
    folder = tmp_path / "tokens"
    assert run("tokenize", corpus, "-t", bpe_file, "-o", folder, "--quiet").exit_code == 0
    found = json.loads(run("report", folder, "--json").stdout)
    expected = json.loads(run("report", corpus, "-t", bpe_file, "--json").stdout)
    assert found["records"] == expected["records"]
    assert found["lengths"]["tokens"] == pytest.approx(expected["lengths"]["tokens"], rel=0.01)
    assert f'ss.TokenFiles("{folder}")' in found["recommended"]["code"]


def test_report_keeps_label_columns(bpe_file: Path, tmp_path: Path) -> None:
    """The code of a report reads the columns of classes, found by their values or named."""
    path = tmp_path / "a.csv"
    path.write_text("text,mood,id\n" + "".join(f"number {number},{'ab'[number % 2]},{number}\n" for number in range(200)))
    for args in ((), ("--label", "mood")):
        report = json.loads(run("report", path, "-t", bpe_file, *args, "--json").stdout)
        assert 'columns=["text", "mood"]' in report["recommended"]["code"]
        assert report["sections"]["steps"]["label"] in ("mood", None)


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_report_fits_the_terminal(corpus: Path, bpe_file: Path, columns: int) -> None:
    """No line is wider than the terminal, except lines of code to paste."""
    result = run("report", corpus, "-t", bpe_file, columns=columns)
    lines = result.stdout.partition("import seqstream")[0].splitlines()
    assert max(map(len, lines)) <= columns
    assert f'ss.Tokenize("{bpe_file}", max_length=4_096),\n' in result.stdout


def write_text(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(texts))


def write_csv(path: Path, texts: list[str]) -> None:
    pc.write_csv(pa.table({"review": texts, "stars": range(len(texts))}), path)


def write_tsv(path: Path, texts: list[str]) -> None:
    rows = "".join(f"{number}\t{text}\n" for number, text in enumerate(texts))
    path.write_text(f"stars\treview\n{rows}")


def write_jsonl(path: Path, texts: list[str]) -> None:
    rows = "".join(json.dumps({"stars": None, "review": text}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(rows.encode()))


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"review": texts}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", write_text),
        ("a.csv", write_csv),
        ("a.tsv", write_tsv),
        ("a.jsonl.gz", write_jsonl),
        ("a.parquet", write_parquet),
    ],
)
def test_formats_are_known_by_suffix(
    name: str, write: Callable[[Path, list[str]], None], bpe_file: Path, tmp_path: Path
) -> None:
    """Every format is read by its suffix, only the column of the text is, and the code reads it as well."""
    path = tmp_path / name
    write(path, [f"word {'and ' * number}another" for number in range(1, 50)])
    report = json.loads(run("report", path, "-t", bpe_file, "--field", "review", "--json").stdout)
    assert report["records"] == 49
    assert 'columns=["review"]' in report["recommended"]["code"] or name == "a.txt"
    assert 'field="review"' in report["recommended"]["code"]


def test_format_and_unit_can_be_given(bpe_file: Path, tmp_path: Path) -> None:
    """``--format`` overrides the suffix, and ``--unit`` says what a record of text is."""
    path = tmp_path / "a.csv"
    path.write_text("one\ntwo\n\nthree\n")
    counts = {}
    for unit in cli.Unit:
        result = run("report", path, "-t", bpe_file, "--format", "text", "--unit", unit, "--json")
        counts[unit.value] = json.loads(result.stdout)["records"]
    assert counts == {"line": 4, "paragraph": 2, "file": 1}


def test_batches_are_decoded(corpus: Path, bpe_file: Path, texts: list[str]) -> None:
    """Batches show their size, and rows with their length, place and text."""
    result = run("batches", corpus, "-t", bpe_file, "--max-tokens", 300, "--num", 2, "--rows", 3, columns=4000)
    assert result.exit_code == 0
    heads = [line for line in result.stdout.splitlines() if line.startswith("Batch ")]
    rows = [line.split(maxsplit=4) for line in result.stdout.splitlines() if ", line " in line]
    assert len(heads) == 2
    assert heads[0].startswith("Batch 1: ")
    assert heads[0].endswith("% padding")
    assert 2 <= len(rows) <= 6
    for tokens, file, _, line, text in rows:
        assert int(tokens) > 0
        assert file == f"{corpus},"
        assert text == texts[int(line) - 1].strip()


def test_batches_fit_the_terminal_and_cannot_steer_it(bpe_file: Path, tmp_path: Path) -> None:
    """Long rows are cut to the width, wide letters counted as such, and what is not visible is escaped."""
    path = tmp_path / "a.txt"
    path.write_text(f"{ESCAPE}[31mred\rhidden [bold]\n{'漢字' * 200}\n{'x' * 500}\n")
    result = run("batches", path, "-t", bpe_file, columns=60)
    assert ESCAPE not in result.stdout
    assert "\\x1b[31mred\\rhidden [bold]" in result.stdout or "\\x1b[31mred\\" in result.stdout
    for line in result.stdout.splitlines():
        assert sum(1 + (letter in "漢字") for letter in line) <= 60


def test_tokenize_writes_what_a_loader_reads(corpus: Path, bpe_file: Path, tmp_path: Path) -> None:
    """It prints rows, tokens, bytes, counts, the speed, and code that runs; a second run finds the folder complete."""
    folder = tmp_path / "tokens"
    args = ("tokenize", corpus, "-t", bpe_file, "-o", folder, "--max-length", 16)
    result = run(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    first, code = result.stdout.split("\n", 1)
    tokens = ss.TokenFiles(folder)
    assert first.startswith(f"600 rows, {tokens.num_tokens:,} tokens, ")
    assert " truncated, " in first
    assert re.search(r"[\d,]+ bytes in .*, [\d,]+ tokens/s$", first)
    found: dict[str, Any] = {}
    exec(code, found)
    assert sum(len(batch.lengths) for batch in found["loader"]) == 600
    again = run(*args)
    assert again.exit_code == 0
    assert "tokens/s" not in again.stdout
    other = run(*args[:-1], 15)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "max_length is 16 there and 15 here; choose another folder" in other.stderr


def test_tokenize_in_parts(bpe_file: Path, texts: list[str], tmp_path: Path) -> None:
    """Commands of several ranks write a part each, columns can be kept, and ``--quiet`` prints nothing."""
    rows = [{"review": text, "stars": number, "other": 1} for number, text in enumerate(texts[:300])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ("tokenize", tmp_path / "a.jsonl", "-t", bpe_file, "-o", tmp_path / "tokens", "--field", "review", "--keep", "stars")
    first = run(*args, "--world-size", 2, "--rank", 1)
    assert "which others still write" in first.stdout
    second = run(*args, "--world-size", 2, "--quiet")
    assert (second.exit_code, second.stdout, second.stderr) == (0, "", "")
    records = [*ss.TokenFiles(tmp_path / "tokens").records()]
    assert [record["stars"] for record in records] == [*range(300)]
    assert set(records[0]) == {"stars", "input_ids"}
    pairs = ("tokenize", tmp_path / "a.jsonl", "-t", bpe_file, "-o", tmp_path / "pairs", "--field", "review", "--megatron")
    assert run(*pairs).exit_code == 0
    ids = [record["input_ids"] for record in ss.TokenFiles(sorted((tmp_path / "pairs").glob("*.idx"))).records()]
    assert ids == [record["input_ids"] for record in records]
    wrong = run("tokenize", bpe_file, "--format", "text", "-t", bpe_file, "-o", tmp_path / "x", "--keep", "stars")
    assert wrong.stderr == "error: text files have no columns to keep, got stars; leave out --keep\n"


@pytest.mark.parametrize("name", ["a.conll", "a.bin"])
def test_formats_that_need_a_source_are_not_read_as_text(name: str, bpe_file: Path, tmp_path: Path) -> None:
    """Files that `Loader` knows and the commands do not are named, and lines of theirs are read if ``--format`` says so."""
    (tmp_path / name).write_text("word\tNOUN\n")
    result = run("report", tmp_path / name, "-t", bpe_file)
    kind = {"a.conll": "conll", "a.bin": "tokens"}[name]
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: FILES must be of one of the formats text, jsonl, csv, tsv, parquet, arrow, got {kind}; set" in result.stderr
    assert run("report", tmp_path / name, "-t", bpe_file, "--format", "text").exit_code == 0


@pytest.mark.parametrize("command", ["report", "batches"])
def test_errors_are_one_line(command: str, corpus: Path, bpe_file: Path, tmp_path: Path) -> None:
    """Bad input gives one line on stderr that names the location, nothing on stdout, and exit status 1."""
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"fine\n\xff\xfe\n")
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), table)
    for args, message in [
        ([tmp_path / "none.txt", "-t", bpe_file], f"error: paths must name files that exist, got '{tmp_path}/none.txt'"),
        ([tmp_path, "-t", bpe_file], "error: paths must be files, got the directory"),
        (
            [corpus, "-t", "gpt2"],
            "error: tokenizer must be a tokenizer.json or a directory that holds one, got gpt2; names on the Hub",
        ),
        ([corpus, "-t", corpus], f"error: tokenizer must be a tokenizer.json, got {corpus}"),
        ([broken, "-t", bpe_file], f"{broken}, line 2"),
        ([table, "-t", bpe_file, "--field", "body"], "'body'"),
        ([corpus, table, "-t", bpe_file], "error: FILES must be of one format, got parquet and text; set --format"),
    ]:
        result = run(command, *args)
        assert result.exit_code == 1, args
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_wrong_usage_exits_with_2(corpus: Path, bpe_file: Path) -> None:
    """Options that are never valid are a usage error."""
    for args in (["report", corpus], ["batches", "-t", bpe_file], ["report", corpus, "-t", bpe_file, "--seed", "x"]):
        assert run(*args).exit_code == 2
    for budgets in ("4096,", "0", "-1", "a,b", ""):
        result = run("report", corpus, "-t", bpe_file, "--budgets", budgets)
        assert result.exit_code == 2
        assert "positive whole numbers" in result.stderr


def test_help_teaches() -> None:
    """The main help explains each command and shows examples; the help of a command explains its numbers."""
    result = run("--help")
    assert "seqstream batches corpus/*.txt -t tokenizer.json --max-tokens 4096" in result.stdout
    assert "Speed is measured" in run("report", "--help").stdout
    assert run().exit_code == 2


def test_notes_and_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Notes of an error follow it in brackets, a warning is one line, and a bug keeps its traceback."""
    error = ValueError("line one\nline two")
    error.add_note("while reading a.txt, line 3")

    @cli.one_line_errors()
    def fail() -> None:
        warnings.warn("the source is\none shard", stacklevel=1)
        raise error

    with pytest.raises(cli.typer.Exit) as raised:
        fail()
    assert raised.value.exit_code == 1
    assert (
        capsys.readouterr().err == "warning: the source is one shard\nerror: line one line two (while reading a.txt, line 3)\n"
    )
    with pytest.raises(BrokenPipeError), cli.one_line_errors():
        raise BrokenPipeError
    with pytest.raises(ZeroDivisionError), cli.one_line_errors():
        raise ZeroDivisionError


def test_version() -> None:
    """``--version`` prints one line."""
    result = run("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("seqstream")
    assert result.stdout.count("\n") == 1


def test_piped_output_is_plain(corpus: Path, bpe_file: Path) -> None:
    """In a pipe there are no escape codes and no progress, and an encoding without some letters loses only these."""
    result = run_process("report", corpus, "-t", bpe_file, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert ESCAPE not in result.stdout
    assert "#" in result.stdout
    assert result.stdout.isascii()


def test_reader_that_leaves(corpus: Path, bpe_file: Path) -> None:
    """A pipe that is closed early ends the command without a message."""
    command = [*COMMAND, "batches", str(corpus), "-t", str(bpe_file), "--num", "300", "--max-tokens", "100"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""


@contextlib.contextmanager
def on_terminal(*args: object, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[bytes]]]:
    """Run the command on a terminal of its own; return the process, and its output piece by piece."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **env}
    variables = {name: value for name, value in variables.items() if value}
    command = [*COMMAND, *map(str, args)]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)

        def printed() -> Iterator[bytes]:
            with contextlib.suppress(OSError):  # a terminal signals its end by an error
                while data := os.read(ours, 4096):
                    yield data

        try:
            yield process, printed()
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_terminal(corpus: Path, bpe_file: Path, no_color: str) -> None:
    """On a terminal there is progress and colour; with ``NO_COLOR`` there is no colour."""
    with on_terminal("report", corpus, "-t", bpe_file, NO_COLOR=no_color) as (process, printed):
        text = b"".join(printed).decode()
        assert process.wait(60) == 0
    assert "measuring" in text
    report = text[text.index("600 records") :]
    assert ("\x1b[1;32m" in report) == (not no_color)
    assert ("\x1b[36m" in report) == (not no_color)


def test_interrupt(texts: list[str], bpe_file: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a long report within seconds, with one line and exit status 130."""
    path = tmp_path / "long.txt"
    path.write_text("\n".join(texts * 2000))
    with on_terminal("report", path, "-t", bpe_file, "--engine", "tokenizers") as (process, printed):
        text = b""
        for data in printed:
            text += data
            if b"tokenising" in text and process.poll() is None and b"^C" not in text:
                process.send_signal(signal.SIGINT)
                text += b"^C"
        assert process.wait(30) == 130
    assert text.rstrip().endswith(b"interrupted")
    assert b"Traceback" not in text


def test_library_does_not_import_the_command_line() -> None:
    """``import seqstream`` imports neither typer nor rich."""
    code = "import sys, seqstream; print(sorted({'rich', 'typer', 'seqstream.tuning.report'} & set(sys.modules)))"
    found: Any = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout == "[]\n"
