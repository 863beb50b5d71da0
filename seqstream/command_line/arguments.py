"""What the commands have in common: their arguments, and the source that they read."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqstream.sources.choose_source import format_of
from seqstream.sources.csv_files import Csv
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles


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


class TooLong(enum.StrEnum):
    """What happens to rows that are too long."""

    truncate = "truncate"
    split = "split"  # type: ignore[assignment]  # the name of a method of str
    drop = "drop"
    error = "error"


class EngineName(enum.StrEnum):
    """Engines that compute ids."""

    auto = "auto"
    tokenizers = "tokenizers"
    fastokens = "fastokens"
    nanotoken = "nanotoken"


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


def open_source(files: list[str], kind: Format | None, unit: Unit, field: str, others: Sequence[str] = ()) -> Source:
    """Return the source of some files, which reads some fields of their records.

    Args:
        files: Paths, globs or URLs.
        kind: Their format; by default the one that their suffix stands for.
        unit: What a record of a text file is.
        field: The field of the text.
        others: Other fields that are read, in formats that have several.

    Raises:
        ValueError: The files have several formats, or a text file has no other fields.
    """
    found = [format_of(file) or "" for file in files]
    kinds = {Format.__members__.get(each, Format.text) for each in found} if kind is None else {kind}
    if len(kinds) > 1:
        raise ValueError(
            f"FILES must be of one format, got {' and '.join(sorted(kinds))}; set --format, or run the command for each format"
        )
    (kind,) = kinds
    match kind:
        case Format.jsonl:
            return JsonLines(files, columns=[field, *others])
        case Format.csv:
            return Csv(files, columns=[field, *others])
        case Format.tsv:
            return Csv(files, columns=[field, *others], delimiter="\t")
        case Format.parquet:
            return Parquet(files, columns=[field, *others])
        case Format.text:
            if others:
                raise ValueError(f"text files have no columns to keep, got {', '.join(others)}; leave out --keep")
            return TextFiles(files, unit=unit.value, field=field)


def check_tokenizer(path: str) -> str:
    """Return the path of a tokenizer, or raise if it does not exist."""
    if not Path(path).exists():
        remedy = "names on the Hub are not looked up, so download its tokenizer.json"
        raise FileNotFoundError(f"tokenizer must be a tokenizer.json or a directory that holds one, got {path}; {remedy}")
    return path
