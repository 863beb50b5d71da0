"""Locations of records in the data."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """Where a record is.

    Attributes:
        file: Path or URL of its file; for a record that is in no file, the name of what holds it: ``"list"``, ``"shard 3 of
            the stream"``.
        line: In a file of text the line where the record starts, from 1; elsewhere its number there, from 0. ``None`` if it
            cannot be counted, as after a CSV field of more than 128 KiB.
    """

    file: str
    line: int | None
