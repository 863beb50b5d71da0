"""How the columns of a batch lie in memory: what its views, its copies and the functions that label it work with.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from seqstream.batches.varlen import Packing
from seqstream.records import IGNORE_INDEX, is_label

RENAMED = {"label": "labels"}
"""Columns that models know by another name."""


class BatchLayout(NamedTuple):
    """The machinery of a batch, ``batch.layout``; a training loop needs none of it.

    A *column of sequences* has a value for each step of a row. It is held padded, ``(B, L, ...)``, or flat, ``(T, ...)``, its
    rows one after the other without padding, or in both forms. All other columns have one value for each row.

    Attributes:
        columns: Padded columns of sequences, ``(B, L, ...)``, and columns of one value a row, ``(B, ...)`` or a list of B
            objects, by name. A flat column is added the first time that its padded form is read.
        jagged: Flat columns of sequences, ``(T, ...)``, by name; a padded column is added by the first `Batch.flat`.
        device_lengths: ``int64 (B,)``, ``batch.lengths`` on the device of the other tensors.
        column_lengths: ``int64 (B,)`` on the CPU, the steps of each row, by column of sequences; ``batch.lengths`` for most. In
            a batch of `Pack` a row has the steps of all its sequences.
        widths: Padded length ``L`` by column of sequences.
        pad_values: What padding holds, by column of sequences.
        sequence: The column of sequences whose lengths are ``batch.lengths``; ``None`` where no column has them.
        packing: Where the sequences lie in the rows of a batch of `Pack`; ``None`` for other batches.
        num_made_up: Rows that fill the batch up to a fixed shape and that no record gives. They are the last rows, of one
            padding token each. Sequences for a batch of `Pack`.
        num_repeated: Rows that another rank has as well: none, or all that are not made up. Their weight is 0 and they have
            no labels.
        seed: Seed of `Batch.generator`, the same whenever the batch is rebuilt.
    """

    columns: dict[str, Any]
    jagged: dict[str, Tensor]
    device_lengths: Tensor
    column_lengths: dict[str, Tensor]
    widths: dict[str, int]
    pad_values: dict[str, float]
    sequence: str | None
    packing: Packing | None
    num_made_up: int
    num_repeated: int
    seed: int

    @property
    def names(self) -> list[str]:
        """Names of all columns, in either form."""
        return list({**self.columns, **self.jagged})

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of a name."""
        return name in self.columns or name in self.jagged

    def is_tensor(self, name: str) -> bool:
        """Return whether a column is a tensor, not a list of objects."""
        return name in self.jagged or isinstance(self.columns[name], Tensor)

    def column_of(self, name: str) -> str | None:
        """Return the column of a name, ``label`` for ``labels`` where only that is there; ``None`` where neither is."""
        if name in self:
            return name
        return next((column for column, renamed in RENAMED.items() if renamed == name and column in self), None)

    def check_sequence(self, argument: str, name: str) -> None:
        """Raise unless a column is one of sequences.

        Raises:
            ValueError: It is not; the message names ``argument`` and the columns of sequences.
        """
        if name not in self.column_lengths:
            known = ", ".join(self.column_lengths) or "there is none"
            raise ValueError(f"{argument} must be a column of sequences ({known}), got {name!r}")

    def with_rows_of(self, like: str, names: Iterable[str]) -> BatchLayout:
        """Return the layout with columns whose rows are as long as those of another; labels among them are padded with -100.

        Args:
            like: A column of sequences.
            names: Columns that become columns of sequences.

        Raises:
            ValueError: ``like`` is no column of sequences.
        """
        self.check_sequence("like", like)
        names = list(names)
        pad_values = {name: IGNORE_INDEX if is_label(name) else self.pad_values[like] for name in names}
        return self._replace(
            column_lengths={**self.column_lengths, **dict.fromkeys(names, self.column_lengths[like])},
            widths={**self.widths, **dict.fromkeys(names, self.widths[like])},
            pad_values={**pad_values, **self.pad_values},
        )

    def renamed(self, names: Mapping[str, str | None]) -> BatchLayout:
        """Return the layout with other names for some columns, and without the columns whose new name is ``None``."""

        def rename(values: dict[str, Any]) -> dict[str, Any]:
            pairs = ((names.get(name, name), value) for name, value in values.items())
            return {name: value for name, value in pairs if name is not None}

        return self._replace(
            columns=rename(self.columns),
            jagged=rename(self.jagged),
            column_lengths=rename(self.column_lengths),
            widths=rename(self.widths),
            pad_values=rename(self.pad_values),
            sequence=None if self.sequence is None else names.get(self.sequence, self.sequence),
        )

    def on_tensors(self, function: Callable[[Tensor], Tensor]) -> BatchLayout:
        """Return the layout with a function applied to the tensors that live on the device."""
        packing = self.packing
        if packing is not None:
            packing = dataclasses.replace(packing, cu_seqlens=function(packing.cu_seqlens))
        return self._replace(
            columns={name: function(value) if isinstance(value, Tensor) else value for name, value in self.columns.items()},
            jagged={name: function(value) for name, value in self.jagged.items()},
            device_lengths=function(self.device_lengths),
            packing=packing,
        )
