"""Where a record is in the data."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """The place of a record.

    Attributes:
        file: Path or URL of the file; of records that are in none, what they are in: ``"list"``, ``"shard 3 of the stream"``.
        line: The line where it starts, from 1, in files of text; in all else its number there, from 0. ``None`` where
            nobody can count: behind a CSV field of more than 128 KiB.
    """

    file: str
    line: int | None
