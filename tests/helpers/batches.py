"""Batches made by hand from rows, with functions of PyTorch and loops: what views of batches are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seqstream.batches.batch import Batch
from seqstream.batches.varlen import Packing

PAD = 9


def random_rows(lengths: Sequence[int], *shape: int, seed: int = 0, vocab: int = 50) -> list[Tensor]:
    """Make rows of random ids, or with ``shape`` of random features."""
    generator = torch.Generator().manual_seed(seed)
    if shape:
        return [torch.rand(length, *shape, generator=generator) for length in lengths]
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def batch_of(  # noqa: PLR0917 - a batch has as many parts
    rows: Sequence[Tensor],
    layout: str = "padded",
    side: str = "right",
    wider: int = 0,
    made: int = 0,
    others: dict[str, Sequence[Tensor]] | None = None,
    **columns: Any,
) -> Batch:
    """Make a batch of rows of ids, and of other columns of sequences; the last ``made`` rows count as made up."""
    ragged: dict[str, Sequence[Tensor]] = {"input_ids": rows, **(others or {})}
    own_lengths = {name: torch.tensor([len(row) for row in own]) for name, own in ragged.items()}
    lengths = own_lengths["input_ids"]
    widths = {name: max(map(len, own)) + wider for name, own in ragged.items()}
    values = {name: -100 if name == "labels" else PAD for name in ragged}
    fields: dict[str, Any] = {
        "columns": dict(columns),
        "jagged": {},
        "lengths": lengths,
        "device_lengths": lengths,
        "row_ids": torch.tensor([*range(len(rows) - made), *[-1] * made]),
        "pieces": torch.zeros(len(rows), dtype=torch.int64),
        "weights": torch.tensor([*[1.0] * (len(rows) - made), *[0.0] * made]),
        "column_lengths": {name: lengths if own.equal(lengths) else own for name, own in own_lengths.items()},
        "padding_side": side,
        "num_tokens": int(lengths.sum()) - made,
        "global_num_tokens": int(lengths.sum()) - made,
        "step": 0,
        "is_step_end": True,
        "step_num_tokens": int(lengths.sum()) - made,
        "num_slots": int(lengths.sum()) if layout == "jagged" else len(rows) * widths["input_ids"],
        "num_made": made,
        "num_repeated": 0,
        "widths": widths,
        "pad_values": values,
        "sequence": "input_ids",
        "packing": None,
        "seed": 17,
        "window": 5,
        "state": {"epoch": 0},
    }
    for name, own in ragged.items():
        if layout == "jagged":
            fields["jagged"][name] = torch.cat(list(own))
        else:
            fields["columns"][name] = padded(own, widths[name], values[name], side)
    if layout == "padded":
        ones = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        fields["mask"] = padded(ones, widths["input_ids"], False, side)
    return Batch.of(fields)


def padded(rows: Sequence[Tensor], width: int, value: float, side: str = "right") -> Tensor:
    """Pad rows to a width by `pad_sequence`."""
    longest_too = torch.zeros(width, *rows[0].shape[1:], dtype=rows[0].dtype)
    return pad_sequence([*rows, longest_too], batch_first=True, padding_value=value, padding_side=side)[:-1]


def packed_batch(rows: Sequence[Sequence[Tensor]], row_length: int, made: int = 0, **columns: Any) -> Batch:
    """Make a batch as `Pack` does, of the sequences that each row holds; the last ``made`` rows count as made up."""
    shape = (len(rows), row_length)
    ids, positions, numbers = torch.full(shape, PAD), torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
    starts, bounds = [], [0]
    for row, sequences in enumerate(rows):
        at = 0
        for number, sequence in enumerate(sequences):
            starts.append(row * row_length + at)
            ids[row, at : at + len(sequence)] = sequence
            positions[row, at : at + len(sequence)] = torch.arange(len(sequence))
            numbers[row, at : at + len(sequence)] = number
            at += len(sequence)
            bounds.append(row * row_length + at)
        if at < row_length:
            positions[row, at:] = torch.arange(row_length - at)
            bounds.append((row + 1) * row_length)
    lengths = [len(sequence) for sequences in rows for sequence in sequences]
    row_lengths = torch.tensor([sum(map(len, sequences)) for sequences in rows])
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    fields: dict[str, Any] = {
        "columns": {"input_ids": ids, "position_ids": positions, "sequence_ids": numbers, **columns},
        "jagged": {},
        "lengths": row_lengths,
        "device_lengths": row_lengths,
        "mask": numbers >= 0,
        "row_ids": torch.tensor([*range(len(lengths) - made), *[-1] * made]),
        "pieces": torch.zeros(len(lengths), dtype=torch.int64),
        "weights": torch.tensor([*[1.0] * (len(lengths) - made), *[0.0] * made]),
        "column_lengths": {"input_ids": row_lengths},
        "padding_side": "right",
        "num_tokens": sum(lengths) - made,
        "global_num_tokens": sum(lengths) - made,
        "step": 0,
        "is_step_end": True,
        "step_num_tokens": sum(lengths) - made,
        "num_slots": ids.numel(),
        "num_made": made,
        "num_repeated": 0,
        "widths": {"input_ids": row_length},
        "pad_values": {"input_ids": PAD},
        "sequence": "input_ids",
        "packing": Packing(torch.tensor(starts), torch.tensor(lengths), cu_seqlens, int(cu_seqlens.diff().max())),
        "seed": 17,
        "window": 5,
        "state": {"epoch": 0},
    }
    return Batch.of(fields)
