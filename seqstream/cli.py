"""The command line: ``seqstream report`` and ``seqstream batches``."""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from seqstream.planning.bucket import Bucket
from seqstream.sources.csv_files import Csv
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning import printing
from seqstream.tuning.preview import take_previews
from seqstream.tuning.report import OnProgress, make_report

_EXPECTED_ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError)
"""Errors that bad input causes; any other error is a bug and keeps its traceback."""


class Format(enum.StrEnum):
    """Formats of files."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"


class Unit(enum.StrEnum):
    """What a record of a text file is."""

    line = "line"
    paragraph = "paragraph"
    file = "file"


class EngineName(enum.StrEnum):
    """Engines that compute ids."""

    auto = "auto"
    tokenizers = "tokenizers"
    fastokens = "fastokens"
    nanotoken = "nanotoken"


_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".lzma"}

_EPILOG = """
Examples:

- `seqstream report corpus/*.txt --tokenizer tokenizer.json --max-length 1024`

- `seqstream report train.jsonl -t tokenizer.json --field review --json`

- `seqstream batches corpus/*.txt -t tokenizer.json --max-tokens 4096 --num 2`
"""

app = typer.Typer(
    name="seqstream",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Files = Annotated[
    list[str], typer.Argument(metavar="FILES", help="Files, globs or URLs, all of one format; plain or compressed.")
]
TokenizerPath = Annotated[
    str, typer.Option("--tokenizer", "-t", metavar="PATH", help="A tokenizer.json, or a directory that has one.")
]
FieldOption = Annotated[str, typer.Option(metavar="NAME", help="Column of the text, if records have several columns.")]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Format of the files, instead of what their suffix says.")
]
UnitOption = Annotated[Unit, typer.Option(help="What a record of a text file is.")]
EngineOption = Annotated[EngineName, typer.Option(help="Engine that computes the ids; auto is the fastest exact one.")]
MaxLength = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Truncate longer rows; by default to the (smallest) budget.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the order.")]


def _numbers(option: str, text: str) -> list[int]:
    if not all(part.strip().isdecimal() and int(part) for part in text.split(",")):
        raise typer.BadParameter(f"must be positive whole numbers with commas between them, got {text!r}", param_hint=option)
    return [int(part) for part in text.split(",")]


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"seqstream {importlib.metadata.version('seqstream')}")
        except importlib.metadata.PackageNotFoundError:
            typer.echo("seqstream, not installed")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Batches of similar lengths from text, tokenised on the fly.

    **report** shows how much padding a corpus costs, and which budget and window to train with. **batches** shows the first
    batches that a model receives.
    """


@app.command()
def report(
    files: Files,
    tokenizer: TokenizerPath,
    *,
    field: FieldOption = "text",
    max_length: MaxLength = None,
    budgets: Annotated[str, typer.Option(metavar="N,N,...", help="Padded tokens of a batch, to compare.")] = "4096,16384,65536",
    windows: Annotated[str, typer.Option(metavar="N,N,...", help="Batches planned together, to compare.")] = "64,256,1024",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Read only about this many tokens.")] = None,
    unit: UnitOption = Unit.line,
    format: FormatOption = None,
    engine: EngineOption = EngineName.auto,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Compare budgets and windows: padding, batches, speed; recommend one.

    Reads and tokenises the corpus once, keeps the length of each row, and plans an epoch for each setting. Speed is measured
    with a loader on up to 2 million tokens: real tokens a second, including reading, tokenising, planning and padding.
    """
    compared = {"budgets": _numbers("--budgets", budgets), "windows": _numbers("--windows", windows)}
    with one_line_errors():
        source = open_source(files, format, unit, field)
        stage = Tokenize(_check_tokenizer(tokenizer), field=field, max_length=max_length, engine=engine.value)
        with _progress() as on_progress:
            found = make_report(source, stage, **compared, seed=seed, limit=limit, on_progress=on_progress)
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        else:
            printing.print_report(found, _console())


@app.command()
def batches(
    files: Files,
    tokenizer: TokenizerPath,
    *,
    field: FieldOption = "text",
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Padded tokens of a batch.")] = 16_384,
    max_length: MaxLength = None,
    window_batches: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Batches planned together; by default 64 MiB of ids.")
    ] = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, metavar="N", help="Number of batches to show.")] = 3,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Number of rows to show of each, longest to shortest.")] = 5,
    unit: UnitOption = Unit.line,
    format: FormatOption = None,
    engine: EngineOption = EngineName.auto,
    seed: Seed = 0,
) -> None:
    """Show the first batches: their size and padding, and some rows decoded, with their location in the data.

    If a corpus is larger than a window, the first window is small so that training begins at once; later batches pad less.
    """
    with one_line_errors():
        source = open_source(files, format, unit, field)
        stage = Tokenize(_check_tokenizer(tokenizer), field=field, max_length=max_length or max_tokens, engine=engine.value)
        spec = Bucket(max_tokens=max_tokens, window_batches=window_batches)
        previews = take_previews(source, stage, spec, num_batches=num, num_rows=rows, seed=seed)
        for number, preview in enumerate(previews, 1):
            printing.print_preview(preview, number, _console())


def open_source(files: list[str], kind: Format | None, unit: Unit, field: str) -> Source:
    """Return the source of some files, which reads one field of their records.

    Args:
        files: Paths, globs or URLs.
        kind: Their format; by default the one that their suffix stands for.
        unit: What a record of a text file is.
        field: The field that is read.

    Raises:
        ValueError: The files have several formats.
    """
    kinds = {Format(_SUFFIXES.get(_suffix(file), "text")) for file in files} if kind is None else {kind}
    if len(kinds) > 1:
        raise ValueError(
            f"FILES must be of one format, got {' and '.join(sorted(kinds))}; set --format, or run the command for each format"
        )
    (kind,) = kinds
    match kind:
        case Format.jsonl:
            return JsonLines(files, columns=[field])
        case Format.csv:
            return Csv(files, columns=[field])
        case Format.tsv:
            return Csv(files, columns=[field], delimiter="\t")
        case Format.parquet:
            return Parquet(files, columns=[field])
        case Format.text:
            return TextFiles(files, unit=unit.value, field=field)


def _check_tokenizer(path: str) -> str:
    if not Path(path).exists():
        remedy = "names on the Hub are not looked up, so download its tokenizer.json"
        raise FileNotFoundError(f"tokenizer must be a tokenizer.json or a directory that holds one, got {path}; {remedy}")
    return path


def _suffix(file: str) -> str:
    suffixes = [suffix.lower() for suffix in PurePath(file).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def _progress() -> Iterator[OnProgress]:
    """Show a progress bar on a terminal, and remove it at the end."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print each error, warning and Ctrl-C as one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not encode every script
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")
            warnings.showwarning = lambda message, *_: _print_line("warning", str(message))
            yield
    except BrokenPipeError:
        raise
    except _EXPECTED_ERRORS as error:
        notes = getattr(error, "__notes__", [])
        _print_line("error", f"{error} ({', '.join(notes)})" if notes else str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        _print_line("error", "interrupted")
        raise typer.Exit(130) from None


def _print_line(kind: str, message: str) -> None:
    typer.echo(f"{kind}: {' '.join(message.split())}", err=True)
