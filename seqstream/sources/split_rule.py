"""Which part of a split a record is in: decided by a hash of its content, so that it stays there whatever its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrow import take_rows
from seqstream.records import Json, drop_record_numbers
from seqstream.shuffling import hash_index
from seqstream.sources.record_hashes import U64s, hash_column, hash_rows, is_null

Sides: TypeAlias = npt.NDArray[np.uint8]
"""The part that each record is in, ``uint8 (records,)``: `UNKNOWN` or a key of `SIDES`."""

UNKNOWN, TRAIN, VALID, TEST = 0, 1, 2, 3
SIDES = {TRAIN: "train", VALID: "valid", TEST: "test"}
"""Names of the parts of a split."""

TEXT = "text"
"""The column whose values are hashed by default, in records that have one."""

_ALL = 1 << 64
"""Numbers of records are below it."""


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How records are split: by a number of 64 bits, a hash of each record's content.

    Attributes:
        valid: Share of the records for validation, those of the lowest numbers.
        test: Share of the records for testing, those of the highest numbers.
        by: Columns that are hashed; if empty, the column ``text``, or all columns of a record without it.
        seed: Another seed gives another split.
        level: Number of splits before this one; each hashes anew.
        stratify: Column of classes, if each class has its own thresholds.
        cuts: Thresholds ``(low, high)`` of each class, by the hash of its value: records below ``low`` are for validation,
            those from ``high`` on for testing.
    """

    valid: float
    test: float
    by: tuple[str, ...] = ()
    seed: int = 0
    level: int = 0
    stratify: str | None = None
    cuts: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, share in (("valid", self.valid), ("test", self.test)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be a share between 0 and 1, got {share}")
        if not 0 < self.valid + self.test < 1:
            raise ValueError(
                f"valid + test must be between 0 and 1, so that training has a share, got {self.valid} + {self.test}"
            )

    def fingerprint(self) -> Json:
        """Return what decides which part a record is in, as JSON."""
        by = list(self.by) or "content"
        rule = {"valid": self.valid, "test": self.test, "by": by, "seed": self.seed, "level": self.level}
        if self.stratify is None:
            return rule
        return {**rule, "stratify": self.stratify, "cuts": {name: list(cuts) for name, cuts in sorted(self.cuts.items())}}

    def share(self, side: int) -> float:
        """Return the share of the records that are in a part."""
        return {TRAIN: 1 - self.valid - self.test, VALID: self.valid, TEST: self.test}[side]

    def sides(self, table: pa.Table) -> Sides:
        """Return the part that each record is in, ``uint8 (records,)``.

        Raises:
            ValueError: A column of ``by`` or ``stratify`` is missing.
        """
        table = drop_record_numbers(table)
        numbers = self.numbers(table)
        lows, highs = (np.full(len(table), cut, dtype=np.uint64) for cut in self._plain_cuts)
        if self.stratify is not None:
            classes = hash_column(_column(table, self.stratify, "stratify"))
            for value in np.unique(classes):
                lows[classes == value], highs[classes == value] = self.cuts.get(_name(value), self._plain_cuts)
        sides = np.full(len(table), TRAIN, dtype=np.uint8)
        sides[numbers < lows] = VALID
        if self.test:
            sides[numbers >= highs] = TEST
        return sides

    def numbers(self, table: pa.Table) -> U64s:
        """Return the number of each record that decides which part it is in, ``uint64 (records,)``."""
        return hash_index(self._content(table).view(np.int64), self.seed, "split", self.level)

    @property
    def _plain_cuts(self) -> tuple[int, int]:
        return int(self.valid * _ALL), min(int((1 - self.test) * _ALL), _ALL - 1)

    def _content(self, table: pa.Table) -> U64s:
        """Hash the content of each record, ``uint64 (records,)``: its values in ``by``, else its text, else all its columns."""
        if len(self.by) > 1:
            chosen = pa.table({name: _column(table, name, "by") for name in self.by})
            content, missing = hash_rows(chosen), np.logical_and.reduce([is_null(column) for column in chosen.columns])
        elif self.by or TEXT in table.column_names:
            column = _column(table, self.by[0], "by") if self.by else table.column(TEXT)
            content, missing = hash_column(column), is_null(column)
        else:
            return hash_rows(table)
        if missing.any():
            rows = np.flatnonzero(missing)
            rest = take_rows(table, rows)
            content[rows] = hash_column(rest.column(TEXT)) if self.by and TEXT in rest.column_names else hash_rows(rest)
        return content

    def with_exact_shares(self, tables: Iterable[pa.Table]) -> SplitRule:
        """Return the rule with thresholds at which each class has its exact shares of the records of a source."""
        numbers, classes = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for table in map(drop_record_numbers, tables):
            numbers.append(self.numbers(table))
            classes.append(hash_column(_column(table, self.stratify or "", "stratify")))
        values, class_index = np.unique(np.concatenate(classes), return_inverse=True)
        all_numbers = np.concatenate(numbers)
        order = np.lexsort((all_numbers, class_index))
        ends = np.cumsum(np.bincount(class_index, minlength=len(values)))
        by_class = np.split(all_numbers[order], ends[:-1]) if len(values) else []
        return dataclasses.replace(
            self, cuts={_name(value): self._cuts_of(own) for value, own in zip(values, by_class, strict=True)}
        )

    def _cuts_of(self, numbers: U64s) -> tuple[int, int]:
        """Return the thresholds of a class whose records have ``numbers``, ascending: those nearest to the plain thresholds."""
        low, high = self._plain_cuts
        num_valid, num_test = (round(share * len(numbers)) for share in (self.valid, self.test))
        return _nearest(low, numbers, num_valid), _nearest(high, numbers, len(numbers) - num_test)


def make_rule(
    *,
    valid: float | None,
    test: float | None,
    by: str | Sequence[str] | None,
    stratify: str | Json,
    seed: int,
    level: int,
) -> tuple[SplitRule, list[int]]:
    """Return the rule for the options of `Source.split`, and the parts of the split.

    Raises:
        ValueError: An option is out of range, or options exclude each other.
    """
    if valid is None and test is None:
        valid = 0.05
    for name, share in (("valid", valid), ("test", test)):
        if share is not None and not 0 < share < 1:
            raise ValueError(f"{name} must be a share between 0 and 1, got {share}")
    if by and stratify is not None:
        raise ValueError(
            "by and stratify cannot both be given: by keeps records together that share a value, stratify divides each class"
        )
    columns = (by,) if isinstance(by, str) else tuple(by or ())
    rule = SplitRule(valid or 0.0, test or 0.0, columns, seed, level)
    if isinstance(stratify, str):
        rule = dataclasses.replace(rule, stratify=stratify)
    elif stratify is not None:
        rule = dataclasses.replace(rule, **_read_cuts(stratify))
    return rule, [TRAIN, *([VALID] if valid is not None else []), *([TEST] if test is not None else [])]


class KnownSides:
    """The parts of records that were read by their numbers, so that records of other parts are not read again."""

    def __init__(self) -> None:
        self._sides: Sides | None = None

    def of(self, num_records: int) -> Sides:
        """Return the array of parts, ``uint8 (num_records,)``, `UNKNOWN` at first, for the caller to write to."""
        if self._sides is None or len(self._sides) != num_records:
            self._sides = np.full(num_records, UNKNOWN, dtype=np.uint8)
        return self._sides

    def __reduce__(self) -> tuple[type[KnownSides], tuple[()]]:
        return KnownSides, ()  # another process begins with none


def _column(table: pa.Table, name: str, parameter: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        present = ", ".join(map(repr, table.column_names)) or "none"
        raise ValueError(f"{parameter} must name columns that all records have, got {name!r}; there are {present}")
    return table.column(name)


def _name(value: Any) -> str:
    """Return the hash of a class as text, a key in JSON."""
    return f"{int(value):016x}"


def _nearest(wanted: int, numbers: U64s, below: int) -> int:
    """Return the threshold nearest to ``wanted`` that is above exactly ``below`` of ``numbers``, which ascend."""
    least = int(numbers[below - 1]) + 1 if below else 0
    most = int(numbers[below]) if below < len(numbers) else _ALL - 1
    return max(least, min(wanted, most))


def _read_cuts(given: Json) -> dict[str, Any]:
    try:
        cuts = {str(name): (int(low), int(high)) for name, (low, high) in given["cuts"].items()}
        return {"stratify": str(given["column"]), "cuts": cuts}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(f"stratify must be the name of a column, or the cuts of an earlier split, got {given!r:.80}") from None
