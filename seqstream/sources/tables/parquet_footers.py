"""Footers of Parquet files: their row groups, and a cache of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from seqstream.sources.tables.table_parts import TablePart

_CACHED_BYTES = 32 << 20


def row_groups(file: int, metadata: Any, names: Iterable[str]) -> Iterator[TablePart]:
    """Yield the row groups of a file, with the bytes of the columns ``names``.

    Single columns are looked at only where some are left out: that is slow, and Arrow ends the process on some damaged ones.
    """
    first, names = 0, set(names)
    are_all = names.issuperset(metadata.schema.to_arrow_schema().names)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = map(group.column, range(0 if are_all else group.num_columns))
        size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in names)
        size = group.total_byte_size if are_all else size
        yield TablePart(file, number, size, first, group.num_rows)
        first += group.num_rows


class FooterCache:
    """Parsed footers by the number of their file, up to 32 MiB of serialized footers; a pickled copy is empty."""

    def __init__(self) -> None:
        self._footers: dict[int, Any] = {}
        self._size = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return FooterCache, ()

    def get(self, number: int) -> Any:
        """Return the footer of a file, or ``None``."""
        return self._footers.get(number)

    def put(self, number: int, footer: Any) -> None:
        """Keep a footer; the oldest ones are dropped where all are too large."""
        if number in self._footers:
            return
        self._footers[number] = footer
        self._size += footer.serialized_size
        while self._size > _CACHED_BYTES and len(self._footers) > 1:
            with contextlib.suppress(KeyError, RuntimeError):  # another thread dropped it
                self._size -= self._footers.pop(next(iter(self._footers))).serialized_size
