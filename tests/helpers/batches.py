"""Batches built by hand from rows, with functions of PyTorch and loops: what views of batches are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seqstream.batches.batch import Batch
from seqstream.batches.batch_layout import BatchLayout
from seqstream.batches.varlen import Packing

PAD = 9
IDS = torch.tensor([[5, 6, 7], [8, 0, 0]])
LABELS = torch.tensor([1, 0])


def random_rows(lengths: Sequence[int], *shape: int, seed: int = 0, vocab: int = 50) -> list[Tensor]:
    """Make rows of random ids, or with ``shape`` of random features."""
    generator = torch.Generator().manual_seed(seed)
    if shape:
        return [torch.rand(length, *shape, generator=generator) for length in lengths]
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def bare_batch(lengths: Tensor, num_made_up: int = 0, layout: dict[str, Any] | None = None, **fields: Any) -> Batch:
    """Make a batch of one process from the lengths of its rows.

    Args:
        lengths: ``int64 (B,)``.
        num_made_up: How many of the last rows, or sequences, are made up.
        layout: Fields of `BatchLayout` in place of the defaults: no column, and so on.
        fields: Fields of `Batch` in place of the defaults: no padding, ascending row ids, and so on.
    """
    parts: dict[str, Any] = {
        "columns": {},
        "jagged": {},
        "device_lengths": lengths,
        "column_lengths": {},
        "widths": {},
        "pad_values": {},
        "sequence": "input_ids",
        "packing": None,
        "num_made_up": num_made_up,
        "num_repeated": 0,
        "seed": 17,
    }
    parts |= layout or {}
    num_rows = len(lengths if parts["packing"] is None else parts["packing"].lengths)
    num_real, num_tokens = num_rows - num_made_up, int(lengths.sum()) - num_made_up
    known: dict[str, Any] = {
        "lengths": lengths,
        "row_ids": torch.tensor([*range(num_real), *[-1] * num_made_up]),
        "pieces": torch.zeros(num_rows, dtype=torch.int64),
        "weights": torch.tensor([*[1.0] * num_real, *[0.0] * num_made_up]),
        "padding_side": "right",
        "num_tokens": num_tokens,
        "num_slots": int(lengths.sum()),
        "global_num_tokens": num_tokens,
        "step": 0,
        "is_step_end": True,
        "step_num_tokens": num_tokens,
        "window": 5,
        "state": {"epoch": 0},
        "layout": BatchLayout(**parts),
    }
    return Batch.of(known | fields)


def batch_of(  # noqa: PLR0917 - a batch has as many parts
    rows: Sequence[Tensor],
    layout: str = "padded",
    side: str = "right",
    wider: int = 0,
    num_made_up: int = 0,
    others: dict[str, Sequence[Tensor]] | None = None,
    **columns: Any,
) -> Batch:
    """Make a batch of rows of ids, and of other columns of sequences; the last ``num_made_up`` rows are made up."""
    ragged: dict[str, Sequence[Tensor]] = {"input_ids": rows, **(others or {})}
    column_lengths = {name: torch.tensor([len(row) for row in own]) for name, own in ragged.items()}
    lengths = column_lengths["input_ids"]
    widths = {name: max(map(len, own)) + wider for name, own in ragged.items()}
    values = {name: -100 if name == "labels" else PAD for name in ragged}
    padding: dict[str, Any] = {"padding_side": side}
    if layout == "jagged":
        forms = {"columns": dict(columns), "jagged": {name: torch.cat(list(own)) for name, own in ragged.items()}}
    else:
        tensors = {name: padded(own, widths[name], values[name], side) for name, own in ragged.items()}
        forms = {"columns": columns | tensors}
        ones = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        padding["mask"] = padded(ones, widths["input_ids"], False, side)
        padding["num_slots"] = len(rows) * widths["input_ids"]
    parts = {
        "column_lengths": {name: lengths if own.equal(lengths) else own for name, own in column_lengths.items()},
        "widths": widths,
        "pad_values": values,
    }
    return bare_batch(lengths, num_made_up, {**parts, **forms}, **padding)


def padded(rows: Sequence[Tensor], width: int = 0, value: float = 0, side: str = "right") -> Tensor:
    """Pad rows to a width, or to the longest, by `pad_sequence`; rows reversed for the left, which torch 2.4 does not pad."""
    rows = [*rows, rows[0].new_zeros(width, *rows[0].shape[1:])]
    if side == "left":
        return pad_sequence([row.flip(0) for row in rows], batch_first=True, padding_value=value).flip(1)[:-1]
    return pad_sequence(rows, batch_first=True, padding_value=value)[:-1]


def packed_batch(rows: Sequence[Sequence[Tensor]], row_length: int, num_made_up: int = 0, **columns: Any) -> Batch:
    """Make a batch as `Pack` does, of the sequences that each row holds; the last ``num_made_up`` sequences are made up."""
    shape = (len(rows), row_length)
    ids, positions, numbers = torch.full(shape, PAD), torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
    starts, bounds = [], [0]
    for row, sequences in enumerate(rows):
        slot = 0
        for number, sequence in enumerate(sequences):
            starts.append(row * row_length + slot)
            ids[row, slot : slot + len(sequence)] = sequence
            positions[row, slot : slot + len(sequence)] = torch.arange(len(sequence))
            numbers[row, slot : slot + len(sequence)] = number
            slot += len(sequence)
            bounds.append(row * row_length + slot)
        if slot < row_length:
            positions[row, slot:] = torch.arange(row_length - slot)
            bounds.append((row + 1) * row_length)
    lengths = torch.tensor([len(sequence) for sequences in rows for sequence in sequences])
    row_lengths = torch.tensor([sum(map(len, sequences)) for sequences in rows])
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    layout = {
        "columns": {"input_ids": ids, "position_ids": positions, "sequence_ids": numbers, **columns},
        "column_lengths": {"input_ids": row_lengths},
        "widths": {"input_ids": row_length},
        "pad_values": {"input_ids": PAD},
        "packing": Packing(torch.tensor(starts), lengths, cu_seqlens, int(cu_seqlens.diff().max())),
    }
    return bare_batch(row_lengths, num_made_up, layout, mask=numbers >= 0, num_slots=ids.numel())


def small_batch(**columns: Any) -> Batch:
    """Make a batch of two rows, of lengths 3 and 1."""
    lengths = torch.tensor([3, 1])
    columns = columns or {"input_ids": IDS.clone()}
    layout = {
        "columns": columns,
        "column_lengths": dict.fromkeys(columns, lengths),
        "widths": dict.fromkeys(columns, 3),
        "pad_values": dict.fromkeys(columns, 0),
    }
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return bare_batch(lengths, 0, layout, mask=mask, num_slots=6)


def small_jagged() -> Batch:
    """Make the same batch flat, with a class for each row."""
    return batch_of([torch.tensor([5, 6, 7]), torch.tensor([8])], "jagged", label=LABELS)


def small_packed() -> Batch:
    """Make a batch of two rows of five slots that hold three sequences."""
    return packed_batch([[torch.tensor([5, 6, 7]), torch.tensor([8])], [torch.tensor([4, 3])]], 5)
