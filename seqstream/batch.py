"""What the user holds: the tensors of one step, and what is real in them.

Legend: ``B`` rows, ``L`` padded length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seqstream.sources.protocol import Json

MODEL_INPUTS = (
    "input_ids",
    "inputs_embeds",
    "token_type_ids",
    "position_ids",
    "labels",
    "decoder_input_ids",
    "decoder_attention_mask",
)
"""Columns that models of transformers accept by name; the others stay out of ``model(**batch)``."""

RENAMED = {"label": "labels"}
"""Columns that models know by another name."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Batch(Mapping[str, Any]):
    """Rows of similar length, padded to the longest, in tensors.

    Columns are attributes: ``batch.input_ids``, ``batch.labels``, or whatever the source calls them. As a mapping it holds what
    transformers models accept, so that ``model(**batch)`` works: those columns, and ``attention_mask``. A column ``label`` is
    ``batch.label``, and ``labels`` to a model.

    Attributes:
        columns: Every column by name: padded ``(B, L)`` or ``(B, L, ...)``, stacked ``(B, ...)``, or a list of B objects.
        lengths: ``int64 (B,)``, real steps of each row, always on the CPU, where `torch.nn.utils.rnn.pack_padded_sequence`
            wants them. Longest first, unless batched by `InOrder`, or planned by another column that is longer.
        device_lengths: The same on the device of the other tensors.
        mask: ``bool (B, L)``, true on real steps.
        row_ids: ``int64 (B,)`` on the CPU, ``shard << 32 | record``: unique, ascending in source order.
        pieces: ``int64 (B,)`` on the CPU, the number of the piece where a long record was split, else 0.
        weights: ``float32 (B,)``, 0 for rows made up or repeated, else 1.
        column_lengths: ``int64 (B,)`` on the CPU for each padded column; most have the same ``lengths``.
        padding_side: Where padding is, ``"right"`` or ``"left"``.
        num_tokens: Real steps in all rows.
        seed: A number of this batch alone, the same whenever it is made again; see `generator`.
        window: Tells the windows of an epoch apart; rows of one window are neighbours in source order.
        state: What to save to go on after this batch: JSON, as `Loader.load_state_dict` takes it.
    """

    columns: dict[str, Any]
    lengths: Tensor
    device_lengths: Tensor
    mask: Tensor
    row_ids: Tensor
    pieces: Tensor
    weights: Tensor
    column_lengths: dict[str, Tensor]
    padding_side: str
    num_tokens: int
    seed: int
    window: int
    state: dict[str, Json]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Batch:
        """Make a batch of all its fields at once: a frozen dataclass sets them one by one, a tenth of a small batch's time."""
        batch = object.__new__(cls)
        object.__setattr__(batch, "__dict__", fields)
        return batch

    def __getattr__(self, name: str) -> Any:
        columns = self.__dict__.get("columns", {})  # absent while unpickling
        if name in columns:
            return columns[name]
        known = ", ".join(columns)
        raise AttributeError(f"batch has no column {name!r}; it has {known}", name=name, obj=self)

    def __getitem__(self, name: str) -> Any:
        if name == "attention_mask":
            mask = self.columns.get(name, self.mask)
            return mask if mask.is_floating_point() else mask.long()
        for column, known_as in RENAMED.items():
            if name == known_as and name not in self.columns and column in self.columns:
                return self.columns[column]
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        names = {RENAMED.get(name, name): None for name in self.columns}
        yield from (name for name in names if name in MODEL_INPUTS and isinstance(self[name], Tensor))
        if "input_ids" in names or "inputs_embeds" in names:
            yield "attention_mask"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def num_rows(self) -> int:
        """Number of rows, ``B``."""
        return len(self.lengths)

    @property
    def num_slots(self) -> int:
        """Real steps and padding together, ``B * L``."""
        return self.mask.numel()

    def generator(self) -> torch.Generator:
        """Return a random generator for this batch, the same whenever the batch is made again, on the CPU."""
        return torch.Generator().manual_seed(self.seed)

    def with_columns(self, **columns: Any) -> Batch:
        """Return the batch with columns added or replaced."""
        return dataclasses.replace(self, columns={**self.columns, **columns})

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device; ``lengths``, ``row_ids`` and ``pieces`` stay on the CPU."""
        return self._on_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU do not block."""
        return self._on_tensors(Tensor.pin_memory)

    def device_tensors(self) -> list[Tensor]:
        """Return the tensors that live on the device."""
        found = [value for value in self.columns.values() if isinstance(value, Tensor)]
        return [*found, self.device_lengths, self.mask, self.weights]

    def _on_tensors(self, move: Any) -> Batch:
        moved = {name: move(value) if isinstance(value, Tensor) else value for name, value in self.columns.items()}
        return dataclasses.replace(
            self,
            columns=moved,
            device_lengths=move(self.device_lengths),
            mask=move(self.mask),
            weights=move(self.weights),
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {_described(value)}" for name, value in self.columns.items())
        waste = 1 - self.num_tokens / max(self.num_slots, 1)
        return f"Batch({self.num_rows} rows, {self.num_tokens:,} tokens, {waste:.1%} padding: {shown})"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"list of {len(value)}"
