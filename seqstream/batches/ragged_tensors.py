"""Rows of their own lengths as tensors: padded, flat, by time. Pure functions of tensors and lengths that wait for no device.

Every size comes from lengths on the CPU; what a device needs is sent to it without waiting.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqstream.arrays import Index, flat_starts, positions


def to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; the copy to a GPU does not block the CPU."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def row_starts(lengths: Index, width: int, side: str) -> Index:
    """Return the slot of the first step of each row among the ``B * L`` slots of a padded batch, ``int64 (B,)``.

    Args:
        lengths: ``int64 (B,)``.
        width: Padded length ``L``.
        side: Where padding is, ``"right"`` or ``"left"``.
    """
    starts = np.arange(len(lengths)) * width
    return starts if side == "right" else starts + (width - lengths)


def time_major(starts: Index, lengths: Index) -> tuple[Index, Index]:
    """Return where the steps of rows lie, first the first of every row, then the second: the order of a `PackedSequence`.

    Args:
        starts: ``int64 (B,)``, first slot of each row.
        lengths: ``int64 (B,)``, descending, none 0.

    Returns:
        ``int64 (T,)``, the slots, and ``int64 (longest,)``, how many rows have each step.
    """
    shortest = lengths[-1]
    head = starts + np.arange(shortest)[:, None]  # every row has these steps: nothing to count
    times = np.arange(shortest, lengths[0])
    batch_sizes = np.searchsorted(-lengths, -times)
    rows = positions(batch_sizes)
    tail = starts[rows] + np.repeat(times, batch_sizes)
    return np.concatenate([head.ravel(), tail]), np.concatenate([np.full(shortest, len(lengths)), batch_sizes])


def step_mask(lengths: Tensor, width: int, side: str) -> Tensor:
    """Return ``bool (B, L)``, true on real steps, on the device of ``lengths``.

    Args:
        lengths: ``int64 (B,)``.
        width: Padded length ``L``.
        side: Where padding is, ``"right"`` or ``"left"``.
    """
    steps = torch.arange(width, device=lengths.device)
    return steps < lengths[:, None] if side == "right" else steps >= width - lengths[:, None]


def pad_flat(flat: Tensor, lengths: Tensor, width: int, value: float, side: str) -> Tensor:
    """Pad flat rows on their device, element for element as `torch.nn.utils.rnn.pad_sequence` does.

    Args:
        flat: ``(T, ...)``, rows one after the other.
        lengths: ``int64 (B,)`` on the same device.
        width: Padded length ``L``, at least that of the longest row.
        value: What padding holds.
        side: Where padding goes, ``"right"`` or ``"left"``.

    Returns:
        ``(B, L, ...)`` in the type of ``flat``.
    """
    starts = lengths.cumsum(0) - lengths
    if side == "left":
        starts = starts + lengths - width
    steps = starts[:, None] + torch.arange(width, device=flat.device)
    steps = torch.where(step_mask(lengths, width, side), steps, len(flat))
    padding = flat.new_full((1, *flat.shape[1:]), value)
    return torch.cat([flat, padding]).index_select(0, steps.flatten()).view(len(lengths), width, *flat.shape[1:])


def pack_rows(slots: Tensor, starts: Index, lengths: Index) -> PackedSequence:
    """Return the `PackedSequence` of rows: what `torch.nn.utils.rnn.pack_sequence` returns for a list of them.

    Args:
        slots: ``(slots, ...)``, the values in which the rows lie.
        starts: ``int64 (B,)``, first slot of each row.
        lengths: ``int64 (B,)``.

    Returns:
        As with ``enforce_sorted=True`` where rows are longest first, else as with ``False``.

    Raises:
        ValueError: A row has no step.
    """
    if not lengths.all():
        raise ValueError(f"row {int(np.argmin(lengths))} must have at least one step to be packed, got none")
    order = None
    if (lengths[1:] > lengths[:-1]).any():
        order = torch.from_numpy(lengths).sort(descending=True).indices.numpy()
        starts, lengths = starts[order], lengths[order]
    packed, batch_sizes = time_major(starts, lengths)
    data = slots.index_select(0, to_device(packed, slots.device))
    sorted_indices = None if order is None else to_device(order, slots.device)
    return PackedSequence(data, torch.from_numpy(batch_sizes), sorted_indices)


def row_bounds(lengths: Tensor) -> Tensor:
    """Return ``int64 (B + 1,)`` on the device of ``lengths``: where each row begins and the last one ends."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def count_steps(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return the position of each step in its row and the number of its row, two ``int64 (T,)`` on the device of ``lengths``.

    Args:
        lengths: ``int64 (B,)``.
        total: ``T``, the sum of the lengths, which is not read from a device.
    """
    if lengths.device.type == "cpu":  # without the threads of torch: 1 ns a step, where they may take a microsecond
        sizes = lengths.numpy()
        rows = np.repeat(np.arange(len(sizes)), sizes)
        return torch.from_numpy(np.arange(total) - flat_starts(sizes)[rows]), torch.from_numpy(rows)
    starts = lengths.cumsum(0) - lengths
    first = torch.repeat_interleave(starts, lengths, output_size=total)
    numbers = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=total)
    return torch.arange(total, device=lengths.device) - first, numbers
