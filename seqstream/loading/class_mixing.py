"""A warning for batches of one class each, from which a model learns little; it looks at the first windows."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import to_arrow
from seqstream.windows.columns import Column, Dense, Objects
from seqstream.windows.window import Window

_BATCHES = 64
"""How many batches of a window are checked."""

_FEWEST_ROWS = 4
"""Smaller batches often hold one class by chance."""

_WINDOWS = 4
"""How many windows are checked."""

_logger = logging.getLogger("seqstream")


class ClassWatch:
    """Checks the first windows of a loader, and logs once that most batches hold one value of a column of classes.

    A window in which a column has one value counts only if another window has another value.

    Args:
        ignored: A column that is not checked, besides that of groups: that of the sources of a mixture, whose lengths differ.
    """

    def __init__(self, ignored: str | None = None) -> None:
        self._ignored = ignored
        self._left = _WINDOWS
        self._constant: dict[str, Any] = {}

    def look(self, window: Window) -> None:
        """Check a window, until a few were checked or something was found."""
        if not self._left or not len(window.plan):
            return
        self._left -= 1
        batches = [
            rows for turn in range(min(_BATCHES, len(window.plan))) if len(rows := window.plan.rows(turn)) >= _FEWEST_ROWS
        ]
        if len(batches) < 2:
            return
        for name, column in window.columns.items():
            found = None if name in (self._ignored, window.spec.group) else self._describe(name, column, batches)
            if found is not None:
                _logger.warning(
                    "%s; a model that sees one class at a time learns little, so raise window_bytes, give plain files, more "
                    "row groups or a list, which are shuffled as a whole, or sum several batches a step with accumulate",
                    found,
                )
                self._left = 0
                return

    def _describe(self, name: str, column: Column, batches: list[Index]) -> str | None:
        """Return what is wrong with a column, with numbers; ``None`` if nothing is, or if it has no classes.

        Args:
            name: Name of the column.
            column: All rows of a window.
            batches: ``int64 (n,)`` each, the rows of some batches.
        """
        values = _values(column, np.concatenate(batches))
        if values is None:
            return None
        distinct, codes = np.unique(values, return_inverse=True)
        if len(distinct) == 1:
            value = distinct[0].item()
            before = self._constant.setdefault(name, value)
            return None if before == value else f"a window holds {name}={before!r} alone, a later one {value!r}"
        cuts = np.cumsum([0, *map(len, batches[:-1])])
        single = int((np.maximum.reduceat(codes, cuts) == np.minimum.reduceat(codes, cuts)).sum())
        if len(distinct) > len(values) / _FEWEST_ROWS or 2 * single <= len(batches):
            return None
        return (
            f"{single} of the first {len(batches)} batches hold one value of {name!r} each, of {len(distinct)} that there are"
        )


def _values(column: Column, rows: Index) -> Any:
    """Return the values of rows if they can be classes, which are whole numbers, booleans or texts; else ``None``."""
    if isinstance(column, Dense) and column.values.ndim == 1 and column.values.dtype.kind in "iub":
        return column.values[rows]
    if isinstance(column, Objects) and pa.types.is_string(column.values.type):
        return np.array(column.values.take(to_arrow(rows)).fill_null("").to_pylist())
    return None
