"""Opens files as the source that their suffix stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from seqstream.sources.arrow_files import ArrowFiles
from seqstream.sources.choose_source import format_of
from seqstream.sources.csv_files import Csv
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles
from seqstream.sources.token_files import TokenFiles
from seqstream.sources.tokens.manifest import MANIFEST

Unit: TypeAlias = Literal["line", "paragraph", "file"]

_FORMATS = ("text", "jsonl", "csv", "tsv", "parquet", "arrow")


def open_files(
    files: Sequence[str],
    format: str | None = None,
    *,
    unit: Unit = "line",
    field: str = "text",
    columns: Sequence[str] | None = (),
) -> Source:
    """Return the source of some files, which reads some fields of their records; or of a folder of tokens.

    Args:
        files: Paths, globs or URLs.
        format: ``"text"``, ``"jsonl"``, ``"csv"``, ``"tsv"``, ``"parquet"`` or ``"arrow"``; by default the one that their
            suffix stands for.
        unit: What a record of a text file is.
        field: The field of the text.
        columns: Other fields that are read, in formats that have several; ``None`` for all.

    Raises:
        ValueError: The files have several formats or one that needs options, or a text file has no other fields.
    """
    if format is None and is_token_folder(files):
        return TokenFiles(files[0])
    kinds = {format_of(file) or "text" for file in files} if format is None else {format}
    if others := kinds.difference(_FORMATS):
        raise ValueError(
            f"FILES must be of one of the formats {', '.join(_FORMATS)}, got {' and '.join(sorted(others))}; set --format, or "
            "make the source in Python and pass it to a Loader or to ss.report"
        )
    if len(kinds) > 1:
        raise ValueError(
            f"FILES must be of one format, got {' and '.join(sorted(kinds))}; set --format, or run the command for each format"
        )
    (kind,) = kinds
    read = None if columns is None else [field, *columns]
    paths = list(files)
    match kind:
        case "jsonl":
            return JsonLines(paths, columns=read)
        case "csv":
            return Csv(paths, columns=read)
        case "tsv":
            return Csv(paths, columns=read, delimiter="\t")
        case "parquet":
            return Parquet(paths, columns=read)
        case "arrow":
            return ArrowFiles(paths, columns=read)
    if columns:
        raise ValueError(f"text files have no columns to keep, got {', '.join(columns)}; leave out --keep")
    return TextFiles(paths, unit=unit, field=field)


def is_token_folder(files: Sequence[str]) -> bool:
    """Return whether files are one folder that `write_tokens` has made."""
    return len(files) == 1 and Path(files[0], MANIFEST).is_file()
