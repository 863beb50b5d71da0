"""The command line: ``seqstream report``, ``seqstream batches`` and ``seqstream tokenize``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from seqstream.command_line.arguments import (
    EngineName,
    EngineOption,
    FieldOption,
    Files,
    FormatOption,
    MaxLength,
    MaybeTokenizer,
    Seed,
    TokenizerPath,
    TooLong,
    Unit,
    UnitOption,
    check_tokenizer,
)
from seqstream.command_line.written import print_written
from seqstream.planning.bucket import Bucket
from seqstream.reporting.corpus import Reading
from seqstream.reporting.page import prepare_page
from seqstream.reporting.progress import progress_bar
from seqstream.reporting.report import look_at
from seqstream.reporting.request import open_with_classes, read_request
from seqstream.sources.opening import is_token_folder, open_files
from seqstream.sources.tokens.manifest import MANIFEST, PLAN
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning import printing
from seqstream.tuning.preview import take_previews
from seqstream.writing.write_tokens import write_tokens

_EXPECTED_ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError)
"""Errors that bad input causes; any other error is a bug and keeps its traceback."""


_EPILOG = """
Examples:

- `seqstream report corpus/*.txt --tokenizer tokenizer.json --max-length 1024`

- `seqstream report train.jsonl -t tokenizer.json --field review --html report.html`

- `seqstream report tokens/ --json`

- `seqstream batches corpus/*.txt -t tokenizer.json --max-tokens 4096 --num 2`

- `seqstream tokenize corpus/*.txt -t tokenizer.json -o tokens --max-length 1024`
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
    batches that a model receives. **tokenize** writes tokens once, to be read many times.
    """


@app.command()
def report(
    files: Files,
    tokenizer: MaybeTokenizer = None,
    *,
    field: FieldOption = "text",
    label: Annotated[str | None, typer.Option(metavar="NAME", help="Column of classes; by default one is found.")] = None,
    max_length: MaxLength = None,
    budgets: Annotated[str, typer.Option(metavar="N,N,...", help="Padded tokens of a batch, to compare.")] = "4096,16384,65536",
    windows: Annotated[str, typer.Option(metavar="N,N,...", help="Batches planned together, to compare.")] = "64,256,1024",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Read only about this many tokens.")] = None,
    unit: UnitOption = Unit.line,
    format: FormatOption = None,
    engine: EngineOption = EngineName.auto,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    as_page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page of pictures that needs no network.")
    ] = None,
) -> None:
    """Look at a corpus: lengths, padding, speed; recommend a loader. --html makes a page of it.

    Reads and tokenises the corpus once, keeps the length of each row, and plans an epoch for each setting. Speed is measured
    with a loader on a few million tokens: real tokens a second, including reading, tokenising, planning and padding. A folder
    that tokenize has written is not read: its manifest has the lengths.
    """
    compared = _numbers("--budgets", budgets), _numbers("--windows", windows)
    if tokenizer is None and not is_token_folder(files):
        raise typer.BadParameter("must be given, unless FILES is a folder of tokens", param_hint="--tokenizer")
    with one_line_errors():
        stages = []
        if tokenizer is not None:
            stages = [Tokenize(check_tokenizer(tokenizer), field=field, max_length=max_length, engine=engine.value)]
        source = open_with_classes(files, format, label, field=field, unit=unit.value)
        if as_page is not None:
            prepare_page()
        with progress_bar() as bar:
            reading = Reading(label, seed, limit, bar)
            found = look_at(read_request(source, stages), budgets=compared[0], windows=compared[1], reading=reading)
            if as_page is not None:
                found.save(as_page)
            printed = json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else None
        if printed is not None:
            typer.echo(printed)
        else:
            printing.print_report(found.summary, _console())
            if as_page is not None:
                _console().print(f"page: {as_page}", soft_wrap=True)


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
        source = open_files(files, format, unit=unit.value, field=field)
        stage = Tokenize(check_tokenizer(tokenizer), field=field, max_length=max_length or max_tokens, engine=engine.value)
        spec = Bucket(max_tokens=max_tokens, window_batches=window_batches)
        previews = take_previews(source, stage, spec, num_batches=num, num_rows=rows, seed=seed)
        for number, preview in enumerate(previews, 1):
            printing.print_preview(preview, number, _console())


@app.command()
def tokenize(
    files: Files,
    tokenizer: TokenizerPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the tokens go; made if missing.")],
    *,
    field: FieldOption = "text",
    keep: Annotated[str | None, typer.Option(metavar="NAME,...", help="Other columns to keep beside the tokens.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest row in tokens; by default no limit.")
    ] = None,
    overflow: Annotated[TooLong, typer.Option(help="What happens to longer rows.")] = TooLong.truncate,
    unit: UnitOption = Unit.line,
    format: FormatOption = None,
    engine: EngineOption = EngineName.auto,
    megatron: Annotated[bool, typer.Option("--megatron", help="Write Megatron-LM's pairs of .bin and .idx.")] = False,
    rank: Annotated[int, typer.Option(min=0, metavar="N", help="Which of --world-size commands this is.")] = 0,
    world_size: Annotated[int, typer.Option(min=1, metavar="N", help="Number of commands that write a part each.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Write the tokens of a corpus once, into a folder that ss.TokenFiles reads many times.

    A command that was stopped goes on where it was when it is run again. Several commands, on several machines that share the
    folder, write a part each with --rank and --world-size; the last to end completes the folder.
    """
    with one_line_errors():
        source = open_files(files, format, unit=unit.value, field=field, columns=[] if keep is None else keep.split(","))
        stage = Tokenize(
            check_tokenizer(tokenizer), field=field, max_length=max_length, overflow=overflow.value, engine=engine.value
        )
        is_new = not any((output / name).exists() for name in (MANIFEST, PLAN))
        begun = time.perf_counter()
        shown = sys.stderr.isatty() and not quiet
        kind: Literal["arrow", "megatron"] = "megatron" if megatron else "arrow"
        written = write_tokens(source, stage, to=output, rank=rank, world_size=world_size, progress=shown, format=kind)
        if not quiet:
            print_written(written, time.perf_counter() - begun if is_new else None, _console())


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


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
