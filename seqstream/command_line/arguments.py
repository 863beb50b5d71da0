"""What the commands have in common: their arguments."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """Formats of files."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"
    arrow = "arrow"


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
MaybeTokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", "-t", metavar="PATH", help="A tokenizer.json, or its directory; none for a folder of tokens."),
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


def check_tokenizer(path: str) -> str:
    """Return the path of a tokenizer, or raise if it does not exist."""
    if not Path(path).exists():
        remedy = "names on the Hub are not looked up, so download its tokenizer.json"
        raise FileNotFoundError(f"tokenizer must be a tokenizer.json or a directory that holds one, got {path}; {remedy}")
    return path
