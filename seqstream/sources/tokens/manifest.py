"""The manifest of a folder of tokens: which files it has, what is in them, and what they were made of."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqstream.records import Counts, Json
from seqstream.sources.tokens.arrow_files import FileSummary
from seqstream.sources.tokens.json_files import ADVICE, read_json, write_json
from seqstream.sources.tokens.length_histogram import add_counts
from seqstream.sources.tokens.token_store import TokenInfo

MANIFEST = "manifest.json"
PLAN = "plan.json"
"""What is being written, until the manifest takes its place."""

_KIND = "seqstream tokens"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of a folder of tokens.

    Attributes:
        name: Its name in the folder.
        num_bytes: Its size.
        num_tokens: Tokens of all its rows.
        checksum: CRC-32 of the checksums of its blocks.
        rows: Number of rows of each block.
    """

    name: str
    num_bytes: int
    num_tokens: int
    checksum: int
    rows: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of tokens holds.

    Attributes:
        origin: Fingerprints of the source and of how its records were cut into files.
        info: What a loader must know of the tokens.
        files: The files, in the order of the source.
        num_rows: Rows of all files.
        num_tokens: Tokens of all files.
        lengths: How many rows there are of each length.
        counts: Records by outcome, as the stages have counted them.
    """

    origin: Json
    info: TokenInfo
    files: tuple[FileEntry, ...]
    num_rows: int
    num_tokens: int
    lengths: Mapping[int, int]
    counts: Counts

    @property
    def format(self) -> str:
        """Format of the files, ``"arrow"`` or ``"megatron"``."""
        return str(self.origin.get("format", "arrow"))

    @classmethod
    def of(cls, origin: Json, info: TokenInfo, files: Iterable[tuple[str | None, int, FileSummary]]) -> Manifest:
        """Return the manifest of files, given the name, the bytes and the summary of each; no name where there were no rows."""
        listed = list(files)
        entries = tuple(
            FileEntry(name, size, summary.num_tokens, summary.checksum, summary.rows)
            for name, size, summary in listed
            if name is not None
        )
        return cls(
            origin,
            info,
            entries,
            sum(sum(entry.rows) for entry in entries),
            sum(entry.num_tokens for entry in entries),
            add_counts(*(summary.lengths for _, _, summary in listed)),
            add_counts(*(summary.counts for _, _, summary in listed)),  # type: ignore[arg-type]
        )

    def write(self, folder: Path) -> None:
        """Write the manifest at once."""
        fields = {"kind": _KIND, "version": _VERSION, **dataclasses.asdict(self)}
        write_json(folder / MANIFEST, fields)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return the manifest of a folder, and check that the folder has its files.

        Raises:
            FileNotFoundError: There is no such folder, or its tokens are not complete.
            ValueError: The manifest is damaged, or a file is missing or has another size.
        """
        _check_complete(folder)
        fields = read_json(folder / MANIFEST, _KIND, _VERSION)
        try:
            found = cls(
                fields["origin"],
                read_info(fields["info"]),
                tuple(FileEntry(**{**entry, "rows": tuple(entry["rows"])}) for entry in fields["files"]),
                fields["num_rows"],
                fields["num_tokens"],
                {int(length): count for length, count in fields["lengths"].items()},
                fields["counts"],
            )
            found._check(folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / MANIFEST} must be as it was written, got {error!r}; {ADVICE}") from error
        return found

    def _check(self, folder: Path) -> None:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
        for file in self.files:
            if file.name not in sizes:
                raise ValueError(f"{folder / file.name} must be there, as {MANIFEST} says; {ADVICE}")
            if sizes[file.name] != file.num_bytes:
                raise ValueError(
                    f"{folder / file.name} must have {file.num_bytes:,} bytes, as {MANIFEST} says, got {sizes[file.name]:,}; "
                    f"{ADVICE}"
                )
        rows, tokens = sum(sum(file.rows) for file in self.files), sum(file.num_tokens for file in self.files)
        if (rows, tokens) != (self.num_rows, self.num_tokens):
            raise ValueError(
                f"{folder / MANIFEST} must add up to {self.num_rows:,} rows and {self.num_tokens:,} tokens, got {rows:,} and "
                f"{tokens:,}; {ADVICE}"
            )


def _check_complete(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        return
    if (folder / PLAN).exists():
        raise FileNotFoundError(
            f"{folder} must have all its tokens, but write_tokens has not ended there; call it again with the same arguments, "
            "and it goes on where it was"
        )
    what = "a folder without a manifest" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
    raise FileNotFoundError(f"paths must be a folder that write_tokens has made, got {what}: {folder}")


def read_info(fields: Mapping[str, Any]) -> TokenInfo:
    """Return what a loader must know of tokens, given its fields as JSON."""
    return TokenInfo(**{**fields, "columns": tuple(fields["columns"]), "stages": tuple(fields["stages"])})
