"""One of several texts of each record as a batch of its own: what `Batch.part` and `Batch.flatten` return.

Legend: ``B`` rows, ``C`` most texts of a row, ``T`` steps of all texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import Index, flat_starts, positions, ranges
from seqstream.batches import ragged_tensors
from seqstream.batches.batch_layout import BatchLayout
from seqstream.batches.views import Views
from seqstream.records import IGNORE_INDEX, INPUT_IDS, lengths_column

_LABELS = "labels"


def part_layout(batch: Views, name: str) -> BatchLayout:
    """Return the layout of a batch with only the text ``name`` of each row, as ``input_ids`` and ``labels``.

    Columns of one value a row stay; all other columns of sequences are left out.

    Raises:
        ValueError: There is no such text, or rows have several.
    """
    layout, ids = batch.layout, ids_of(batch, name)
    if lengths_column(ids) in layout:
        raise ValueError(f"part({name!r}) cannot be one text of each row, which has several; use flatten({name!r})")
    kept: dict[str, str | None] = {ids: INPUT_IDS, _labels_of(ids): _LABELS}
    if kept.keys() - {ids} <= layout.column_lengths.keys():
        kept |= {column: None for column in ("label", _LABELS) if column not in layout.column_lengths}  # of the whole record
    others = dict.fromkeys(column for column in layout.column_lengths if column not in kept)
    return layout.renamed({**others, **kept})._replace(sequence=INPUT_IDS, device_lengths=batch.device_lengths_of(ids))


def flat_fields(batch: Views, name: str, multiple_of: int) -> dict[str, Any]:
    """Return the fields of a batch with each text of a column as a row: those that differ from the fields of ``batch``.

    Args:
        batch: The batch of records.
        name: The column, or the field of `Tokenize` that it was made from.
        multiple_of: Padded lengths are rounded up to a multiple of it.

    Returns:
        Fields of ``B * C`` rows. A row with fewer than ``C`` texts is filled up with rows of one padding token and weight 0.

    Raises:
        ValueError: There is no such text.
    """
    layout, ids = batch.layout, ids_of(batch, name)
    counts, lengths = _texts_of(batch, ids)
    most = int(counts.max(initial=1))
    slots = np.repeat(np.arange(len(counts)) * most, counts) + positions(counts)
    padded = np.ones(len(counts) * most, dtype=np.int64)
    padded[slots] = np.maximum(lengths, 1)
    targets = ranges(flat_starts(padded)[slots], lengths)
    labels = _labels_of(ids)
    jagged = {INPUT_IDS: _spread(batch.flat(ids), targets, padded, layout.pad_values[ids])}
    if labels in layout.column_lengths:
        jagged[_LABELS] = _spread(batch.flat(labels), targets, padded, IGNORE_INDEX)
    width = -(-int(padded.max(initial=1)) // multiple_of) * multiple_of
    is_text = np.zeros(len(padded), dtype=np.bool_)
    is_text[slots] = True
    weights = batch.weights.cpu().numpy().repeat(most) * is_text
    of_rows = torch.from_numpy(padded)
    return {
        "lengths": of_rows,
        "row_ids": batch.row_ids.repeat_interleave(most),
        "pieces": torch.arange(most).repeat(len(counts)),
        "weights": ragged_tensors.to_device(weights.astype(np.float32), batch.weights.device),
        "num_tokens": int(padded[weights > 0].sum()),
        "num_slots": len(padded) * width,
        "layout": layout._replace(
            columns={},
            jagged=jagged,
            device_lengths=of_rows.to(layout.device_lengths.device),
            column_lengths=dict.fromkeys(jagged, of_rows),
            widths=dict.fromkeys(jagged, width),
            pad_values={INPUT_IDS: layout.pad_values[ids], _LABELS: IGNORE_INDEX},
            sequence=INPUT_IDS,
            num_made_up=0,
            num_repeated=len(padded) if layout.num_repeated else 0,
        ),
    }


def ids_of(batch: Views, name: str) -> str:
    """Return the column of ids that a name means: its own, or that of a field of `Tokenize`.

    Raises:
        ValueError: There is none, or the batch is one of `Pack`.
    """
    layout = batch.layout
    if layout.packing is not None:
        raise ValueError("texts of a batch of Pack cannot be taken apart, as its rows hold several records; use Bucket")
    known = [column for column in layout.column_lengths if column.endswith("_ids")]
    for column in (name, f"{name}_ids"):
        if column in known:
            return column
    fields = ", ".join(column.removesuffix("_ids") for column in known) or "none"
    raise ValueError(f"name must be one of the texts of a row ({fields}), got {name!r}")


def _texts_of(batch: Views, ids: str) -> tuple[Index, Index]:
    """Return the number of texts of each row, ``int64 (B,)``, and the length of each text, ``int64 (V,)``."""
    layout, lengths = batch.layout, lengths_column(ids)
    if lengths not in layout.column_lengths:
        of_rows = layout.column_lengths[ids].numpy()
        return np.ones_like(of_rows), of_rows
    return layout.column_lengths[lengths].numpy(), batch.flat(lengths).cpu().numpy()


def _labels_of(ids: str) -> str:
    return _LABELS if ids == INPUT_IDS else f"{ids.removesuffix('_ids')}_labels"


def _spread(flat: Tensor, targets: Index, lengths: Index, value: float) -> Tensor:
    """Return flat texts with the steps of rows that are filled up between them, ``(sum of lengths, ...)``."""
    if len(targets) == lengths.sum():
        return flat
    spread = flat.new_full((int(lengths.sum()), *flat.shape[1:]), value)
    spread[ragged_tensors.to_device(targets, flat.device)] = flat
    return spread
