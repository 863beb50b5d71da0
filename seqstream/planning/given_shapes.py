"""Shapes of batches that a user gives, as a list or in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from seqstream.options import check_positive

Shape: TypeAlias = tuple[int, int]
"""Rows and padded length of a batch."""


def read_shapes(given: object) -> tuple[Shape, ...]:
    """Return shapes in order of their lengths, from a list or from a JSON file with a list."""
    where = "shapes"
    if isinstance(given, str | os.PathLike):
        where = f"shapes in {os.fspath(given)}"
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise type(error if isinstance(error, OSError) else ValueError())(
                f"shapes must be a number, a list of (rows, length), or a JSON file of one, got {given!r}: {error}"
            ) from error
    found = []
    for shape in given if isinstance(given, Sequence) else [given]:
        if not isinstance(shape, Sequence) or len(shape) != 2:
            raise ValueError(f"{where} must be a number, or a list of (rows, length), got {shape!r}")
        for name, value in zip(("rows", "length"), shape, strict=True):
            check_positive(f"{name} of {where}", value)
        found.append((int(shape[0]), int(shape[1])))
    if not found:
        raise ValueError(f"{where} must be a number, or a list of (rows, length), got none")
    if len({length for _, length in found}) < len(found):
        raise ValueError(f"{where} must have each length once, got {found}")
    return tuple(sorted(found, key=lambda shape: shape[1]))
