"""Results of a function for the rows of a batch: checked, copied off the batch and its device, and taken row by row.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import ranges
from seqstream.batches.batch import Batch
from seqstream.batches.ragged_tensors import to_device
from seqstream.batches.restore_order import RowKeys
from seqstream.records import PIECE, ROW_ID, Record

PerToken: TypeAlias = bool | Collection[str | int]
"""Whether results have a value for each token; or the keys of those that have, in a dict or a tuple of results."""


@dataclasses.dataclass(frozen=True)
class _TokenRows:
    """Values of each token of rows, without padding: ``flat`` is ``(T, ...)``, row ``i`` from ``bounds[i]`` on."""

    flat: Tensor
    bounds: list[int]

    def __getitem__(self, row: int) -> Tensor:
        return self.flat[self.bounds[row] : self.bounds[row + 1]]


@dataclasses.dataclass(frozen=True)
class HeldRows:
    """The rows of a batch without its tokens, and the results of a function for them.

    Attributes:
        keys: Row ids and pieces.
        columns: The columns of the batch that have one value for each row, on the CPU.
        results: What the function has returned, on the CPU, in memory of its own.
        width: Padded length of the batch.
        padded: Names of the results whose second dimension is as long.
        devices: CUDA devices from which copies may be under way.
    """

    keys: RowKeys
    columns: dict[str, Any]
    results: Any
    width: int
    padded: set[str]
    devices: set[torch.device]

    @classmethod
    def of(cls, batch: Batch, results: Any, per_token: PerToken) -> HeldRows:
        """Hold the results of a batch.

        Raises:
            TypeError: A result is not one of tensors, arrays and lists, or dicts and tuples of these.
            ValueError: A result has not one value for each row, or for each token.
        """
        layout, holder = batch.layout, _Holder(batch)
        columns = {
            name: holder.hold_rows(values)
            for name, values in layout.columns.items()
            if name not in layout.column_lengths and _size(values) == holder.num_rows
        }
        held = holder.hold(results, per_token, "result")
        return cls(RowKeys.of(batch), columns, held, holder.width, holder.padded, holder.devices)

    def record(self, row: int) -> Record:
        """Return the keys and the columns of a row."""
        record: Record = {ROW_ID: int(self.keys.row_ids[row]), PIECE: int(self.keys.pieces[row])}
        for name, values in self.columns.items():
            value = values[row]
            record[name] = value.item() if isinstance(value, Tensor) and not value.ndim else value
        return record

    def result(self, row: int) -> Any:
        """Return the result of a row, in the form in which the function has returned those of the batch."""
        return _row_of(self.results, row)


def check_window(batches: Sequence[HeldRows]) -> None:
    """Wait until the results of a window are on the CPU, and check that they are those of rows.

    Raises:
        ValueError: The second dimension of a result is the padded length, whatever that is: it has a value for each token.
    """
    for device in {device for held in batches for device in held.devices}:
        torch.cuda.synchronize(device)
    widths = sorted({held.width for held in batches})
    if len(widths) > 1 and (names := set.intersection(*(held.padded for held in batches))):
        raise ValueError(
            f"{min(names)} of function must have one value for each row, got one for each token: its second dimension is the "
            f"padded length, {widths[0]} in one batch and {widths[-1]} in another; set per_token=True, or per_token=[NAME]"
        )


class _Holder:
    """Holds what belongs to the rows of a batch, on the CPU."""

    def __init__(self, batch: Batch) -> None:
        self.num_rows = len(batch.row_ids)
        self.width = batch.layout.widths.get(batch.layout.sequence or "", 0)
        self.padded: set[str] = set()
        self.devices: set[torch.device] = set()
        self._batch = batch

    def hold(self, values: Any, per_token: PerToken, name: str) -> Any:
        """Return results in memory of their own: dicts and tuples of them as dicts and tuples.

        Args:
            values: What the function has returned, or a part of it.
            per_token: Whether they have a value for each token, or which of them.
            name: What messages call them.
        """
        if not isinstance(values, Mapping | tuple):
            if not isinstance(per_token, bool):
                kind = type(values).__name__
                raise ValueError(f"per_token must be True or False for one result, got {list(per_token)} for a {kind}")
            return self._hold_tokens(values, name) if per_token else self._hold_checked(values, name)
        items = dict(values) if isinstance(values, Mapping) else dict(enumerate(values))
        chosen = dict.fromkeys(items, per_token) if isinstance(per_token, bool) else {key: key in per_token for key in items}
        if not isinstance(per_token, bool) and (unknown := [key for key in per_token if key not in items]):
            raise ValueError(f"per_token must name results of {', '.join(map(repr, items))}, got {unknown[0]!r}")
        held = {key: self.hold(each, chosen[key], f"{name}[{key!r}]") for key, each in items.items()}
        return held if isinstance(values, Mapping) else tuple(held.values())

    def hold_rows(self, values: Any) -> Any:
        """Return values of rows. Tensors and arrays are copied: a result is often a slice of a larger one."""
        if isinstance(values, Tensor):
            return values.clone() if values.is_cpu else self._to_cpu(values)
        return values.copy() if isinstance(values, np.ndarray) else values

    def _hold_checked(self, values: Any, name: str) -> Any:
        size = _size(values)
        if size is None:
            raise TypeError(
                "function must return a tensor, an array or a list of one value for each row, or a dict or tuple of these, got "
                f"{type(values).__name__} for {name}"
            )
        if size != self.num_rows:
            got = f"shape {tuple(values.shape)}" if hasattr(values, "shape") else f"{size}"
            raise ValueError(f"function must return one value for each of the {self.num_rows} rows, got {got} for {name}")
        if isinstance(values, Tensor) and values.ndim > 1 and values.shape[1] == self.width:
            self.padded.add(name)
        return self.hold_rows(values)

    def _hold_tokens(self, values: Any, name: str) -> _TokenRows:
        """Return the values of real tokens, without those of padding and of rows made up."""
        num_rows = len(RowKeys.of(self._batch).row_ids)
        try:
            slots, starts, lengths = self._batch.find_rows(values, self._batch.layout.sequence or "input_ids")
        except ValueError as error:
            error.add_note(f"{name} must have a value for each token, as per_token says")
            raise
        starts, lengths = starts[:num_rows], lengths[:num_rows]
        flat = slots.index_select(0, to_device(ranges(starts, lengths), slots.device))
        return _TokenRows(self._to_cpu(flat), [0, *lengths.cumsum().tolist()])

    def _to_cpu(self, values: Tensor) -> Tensor:
        """Return a tensor on the CPU; from a CUDA device it is sent without waiting, into page-locked memory."""
        if values.is_cuda:
            self.devices.add(values.device)
        return values.to("cpu", non_blocking=values.is_cuda)


def _size(values: Any) -> int | None:
    """Return the number of values; ``None`` for what has no rows."""
    if isinstance(values, Tensor | np.ndarray):
        return values.shape[0] if values.ndim else None
    return len(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else None


def _row_of(held: Any, row: int) -> Any:
    if isinstance(held, dict):
        return {key: _row_of(values, row) for key, values in held.items()}
    if isinstance(held, tuple):
        return tuple(_row_of(values, row) for values in held)
    return held[row]
