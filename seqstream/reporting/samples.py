"""The section on samples: some rows as text with their location, and how many rows are suspicious.

Legend: ``N`` rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Ids, Index, flat_starts
from seqstream.arrow import to_numpy
from seqstream.records import ROW_ID, location_of, sequence_column
from seqstream.sources.record_hashes import U64s, hash_column
from seqstream.sources.source import Source
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning.survey import Survey

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_SHOWN = 3
"""Rows of each kind that are shown."""

_MOST_TOKENS = 120
"""Tokens of a row that are decoded."""

_DRAWN = 4
"""Rows of each block that are candidates for the median."""


@dataclasses.dataclass(frozen=True)
class SampleRow:
    """A row.

    Attributes:
        tokens: Its length in tokens.
        location: Where its record is in the data.
        text: Its first tokens, decoded, special tokens included; ids where there is no tokenizer.
        is_cut: Whether it has more tokens than these.
    """

    tokens: int
    location: str
    text: str
    is_cut: bool


@dataclasses.dataclass(frozen=True)
class Suspicion:
    """Rows that may be mistakes.

    Attributes:
        kind: ``"empty"``, ``"unknown"`` or ``"repeated"``.
        count: Number of them.
        locations: Where some of them are.
    """

    kind: str
    count: int
    locations: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SampleSection:
    """Rows as text, and suspicious rows.

    Attributes:
        shortest: Some of the shortest rows.
        median: Some of about the median length.
        longest: Some of the longest rows.
        suspicions: Empty records, rows of unknown tokens only, and rows with the tokens of an earlier row.
    """

    shortest: tuple[SampleRow, ...]
    median: tuple[SampleRow, ...]
    longest: tuple[SampleRow, ...]
    suspicions: tuple[Suspicion, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
    tokens: int
    row_id: int
    ids: Ids


class SampleCollector:
    """Keeps a few rows of all that pass, and a hash of each.

    Args:
        columns: Columns of ids; the first one is shown.
        tokenize: The stage that made them; ``None`` where ids are given.
    """

    def __init__(self, columns: Sequence[str], tokenize: Tokenize | None) -> None:
        self._column = columns[0] if columns else None
        self._num_special = 0 if tokenize is None else tokenize.num_special
        self._tokenizer = None if tokenize is None else tokenize.decoder(self._column)
        self._unknown = None if self._tokenizer is None else unknown_id(self._tokenizer)
        self._kept: dict[str, list[_Row]] = {"shortest": [], "drawn": [], "longest": []}
        self._hashes: list[U64s] = []
        self._row_ids: list[Index] = []
        self._empty: list[int] = []
        self._unknown_rows: list[int] = []
        self._num_unknown = 0
        self._draw = np.random.default_rng(0)

    def add(self, records: pa.Table, rows: pa.Table) -> None:
        """Look at the rows of a block, and at the records that they are made of."""
        column = self._column or sequence_column(rows.schema)
        if len(self._empty) < NUM_SHOWN and len(rows) < len(records):
            left_out = np.setdiff1d(to_numpy(records.column(ROW_ID)), to_numpy(rows.column(ROW_ID)))
            self._empty += left_out[: NUM_SHOWN - len(self._empty)].tolist()
        if not len(rows) or column is None:
            return
        ids = rows.column(column)
        array = ids.combine_chunks()
        offsets = to_numpy(array.offsets).astype(np.int64)
        row_ids = to_numpy(rows.column(ROW_ID))
        flat = to_numpy(array.values)
        self._hashes.append(hash_column(ids))
        self._row_ids.append(row_ids)
        self._count_unknown(flat, offsets, row_ids)
        self._keep(flat, offsets, row_ids)

    def _count_unknown(self, flat: Ids, offsets: Index, row_ids: Index) -> None:
        if self._unknown is None:
            return
        is_unknown = flat[offsets[0] : offsets[-1]] == self._unknown
        if not is_unknown.any():
            return
        lengths = np.diff(offsets)
        counts = np.zeros(len(lengths), dtype=np.int64)
        filled = lengths > 0
        counts[filled] = np.add.reduceat(is_unknown, flat_starts(lengths)[filled], dtype=np.int64)
        found = np.flatnonzero((counts > 0) & (counts >= lengths - self._num_special))
        self._num_unknown += len(found)
        self._unknown_rows = (self._unknown_rows + row_ids[found[:NUM_SHOWN]].tolist())[:NUM_SHOWN]

    def _keep(self, flat: Ids, offsets: Index, row_ids: Index) -> None:
        lengths = np.diff(offsets)
        num = min(NUM_SHOWN, len(lengths))
        drawn = self._draw.integers(0, len(lengths), _DRAWN)
        for kind, sign, chosen in (
            ("shortest", 1, np.argpartition(lengths, num - 1)[:num]),
            ("longest", -1, np.argpartition(-lengths, num - 1)[:num]),
            ("drawn", 0, drawn),
        ):
            kept = self._kept[kind]
            if sign and len(kept) == NUM_SHOWN:
                chosen = chosen[sign * lengths[chosen] < sign * kept[-1].tokens]
            kept += [_row(flat, offsets, row_ids, row) for row in chosen.tolist()]
            if sign:
                kept.sort(key=lambda row: sign * row.tokens)
                del kept[NUM_SHOWN:]

    def section(self, source: Source, survey: Survey) -> SampleSection:
        """Return what was found.

        Args:
            source: Names the locations of rows.
            survey: The lengths of all rows.
        """
        middle = float(np.median(survey.lengths))
        near = sorted(self._kept["drawn"], key=lambda row: abs(row.tokens - middle))
        near = list({row.row_id: row for row in near[: 4 * NUM_SHOWN]}.values())[:NUM_SHOWN]
        num_repeated, repeated = self._repeated()
        counts = (
            ("empty", survey.empty, self._empty),
            ("unknown", self._num_unknown, self._unknown_rows),
            ("repeated", num_repeated, repeated),
        )
        shown = self._kept["shortest"], near, self._kept["longest"]
        located = {row.row_id for rows in shown for row in rows}.union(*(rows for _, count, rows in counts if count))
        locations = {row_id: location_of(source.locate, row_id) for row_id in sorted(located)}  # a file is read once for all
        suspicions = tuple(
            Suspicion(kind, count, tuple(locations[row_id] for row_id in rows if count)) for kind, count, rows in counts
        )
        shortest, median, longest = (tuple(self._show(locations[row.row_id], row) for row in rows) for rows in shown)
        return SampleSection(shortest, median, longest, suspicions)

    def _repeated(self) -> tuple[int, list[int]]:
        """Return the number of rows with the tokens of an earlier row, and the row ids of some that occur most often."""
        if not self._hashes:
            return 0, []
        hashes, row_ids = np.concatenate(self._hashes), np.concatenate(self._row_ids)
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:NUM_SHOWN]
        return len(hashes) - len(counts), row_ids[first[most[counts[most] > 1]]].tolist()

    def _show(self, location: str, row: _Row) -> SampleRow:
        if self._tokenizer is None:
            text = " ".join(map(str, row.ids.tolist()))
        else:
            text = self._tokenizer.decode(row.ids.tolist(), skip_special_tokens=False)
        return SampleRow(row.tokens, location, text, row.tokens > len(row.ids))


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of the unknown token of a tokenizer; ``None`` if it has none."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    found: int | None = getattr(tokenizer.model, "unk_id", None) if unknown is None else tokenizer.token_to_id(unknown)
    return found


def _row(flat: npt.NDArray[np.int32], offsets: Index, row_ids: Index, row: int) -> _Row:
    first, last = int(offsets[row]), int(offsets[row + 1])
    return _Row(last - first, int(row_ids[row]), flat[first : min(last, first + _MOST_TOKENS)].copy())
