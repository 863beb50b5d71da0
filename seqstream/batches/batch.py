"""What the user holds: the tensors of one step, what is real in them, and the forms that models take them in.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seqstream.batches.varlen import Packing
from seqstream.batches.views import RENAMED, Views
from seqstream.records import IGNORE_INDEX, Json, is_label

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


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Batch(Views, Mapping[str, Any]):
    """Rows of similar length in tensors: padded to the longest, or in whatever form they are asked for.

    Columns are attributes: ``batch.input_ids``, ``batch.labels``, or whatever the source calls them. As a mapping it holds what
    transformers models accept, so that ``model(**batch)`` works: those columns, and ``attention_mask``. A column ``label`` is
    ``batch.label``, and ``labels`` to a model. A batch of `Pack` has ``use_cache=False`` there in place of ``attention_mask``:
    decoders of transformers tell sequences apart by ``position_ids`` where there is neither mask nor cache. Its encoders do not
    tell them apart at all.

    A column that is called as one of the attributes below, or as a method, is had as an item only: ``batch["weights"]``; a
    warning says so.

    Columns and views are read only: a view may share the memory of a column, and is kept for the next time.

    Attributes:
        columns: Every column by name: padded ``(B, L)`` or ``(B, L, ...)``, stacked ``(B, ...)``, or a list of B objects.
            With ``layout="jagged"`` a padded column is there once it was asked for.
        jagged: Columns of sequences as `flat` gives them, those that are there already.
        lengths: ``int64 (B,)``, real steps of each row, always on the CPU, where `torch.nn.utils.rnn.pack_padded_sequence`
            wants them. Longest first, unless batched by `Unbucketed`, or planned by another column that is longer.
        device_lengths: The same on the device of the other tensors.
        mask: ``bool (B, L)``, true on real steps.
        row_ids: ``int64 (B,)`` on the CPU, ``shard << 32 | record``: unique, ascending in source order; -1 for rows made up.
            Of each sequence for a batch of `Pack`, as are ``pieces`` and ``weights``.
        pieces: ``int64 (B,)`` on the CPU, the number of the piece where a long record was split, else 0.
        weights: ``float32 (B,)``, 0 for rows made up or repeated, else 1.
        column_lengths: ``int64 (B,)`` on the CPU for each column of sequences; most have the same ``lengths``.
        padding_side: Where padding is, ``"right"`` or ``"left"``.
        num_tokens: Real steps in all rows, without those made up or repeated.
        num_slots: Real steps, rows made up and padding together.
        num_made: Rows made up to fill a fixed shape, the last of the batch: one padding token each.
        num_repeated: Rows that another rank has as well: none, or all that are not made up. They weigh 0, and have no labels.
        global_num_tokens: Real steps of the batches that all ranks take at once; ``num_tokens`` in one process.
        step: The optimiser step of the epoch that the batch belongs to, from 0: ``Loader(accumulate=K)`` plans K batches a rank
            for each.
        is_step_end: Whether it is the last of them.
        step_num_tokens: Real steps of all batches of the optimiser step, of all ranks, known from its first batch on.
        widths: Padded length of each column of sequences.
        pad_values: What its padding holds.
        sequence: The column of which ``lengths`` are the lengths.
        packing: Where sequences lie in a batch of `Pack`; ``None`` for others.
        seed: A number of this batch alone, the same whenever it is made again; see `generator`.
        window: Tells the windows of an epoch apart; rows of one window are neighbours in source order.
        state: What to save to go on after this batch: JSON, as `Loader.load_state_dict` takes it.
    """

    columns: dict[str, Any]
    jagged: dict[str, Tensor]
    lengths: Tensor
    device_lengths: Tensor
    mask: Tensor
    row_ids: Tensor
    pieces: Tensor
    weights: Tensor
    column_lengths: dict[str, Tensor]
    padding_side: str
    num_tokens: int
    num_slots: int
    num_made: int
    num_repeated: int
    global_num_tokens: int
    step: int
    is_step_end: bool
    step_num_tokens: int
    widths: dict[str, int]
    pad_values: dict[str, float]
    sequence: str | None
    packing: Packing | None
    seed: int
    window: int
    state: dict[str, Json]

    def __new__(cls, *rebuilt: Mapping[str, Any], **fields: Any) -> Any:
        """Make a batch, or a dict for who rebuilds every mapping by ``type(mapping)({...})``, as Trainer and accelerate do."""
        return dict(*rebuilt) if rebuilt else object.__new__(cls)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Batch:
        """Make a batch of all its fields at once: a frozen dataclass sets them one by one, a tenth of a small batch's time."""
        batch = object.__new__(cls)
        object.__setattr__(batch, "__dict__", fields)
        return batch

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__  # without columns while unpickling
        if name == "mask" and "device_lengths" in known:  # also where there is a column of that name
            return self._make_mask()
        if name in known.get("columns", ()) or name in known.get("jagged", ()):
            return self._padded(name)
        raise self._unknown(name)

    def __getitem__(self, name: str) -> Any:
        if name == "attention_mask":
            mask = self.columns.get(name, self.mask)
            return mask if mask.is_floating_point() else mask.long()
        if name == "use_cache" and self.packing is not None:
            return False
        return self._padded(self._known_as(name))

    def __iter__(self) -> Iterator[str]:
        names = {RENAMED.get(name, name): None for name in self._names()}
        yield from (name for name in names if name in MODEL_INPUTS and self._is_tensor(self._known_as(name)))
        if "input_ids" in names or "inputs_embeds" in names:
            yield "attention_mask" if self.packing is None or "attention_mask" in names else "use_cache"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def num_rows(self) -> int:
        """Number of rows, ``B``."""
        return len(self.lengths)

    def generator(self) -> torch.Generator:
        """Return a random generator for this batch, the same whenever the batch is made again, on the CPU."""
        return torch.Generator().manual_seed(self.seed)

    def with_columns(self, like: str | None = None, /, **columns: Any) -> Batch:
        """Return the batch with columns added or replaced.

        Args:
            like: A column of sequences with whose rows the new ones are padded; needed where they are not those of ``lengths``.
            columns: Tensors ``(B, L, ...)`` or ``(B, ...)``, or lists of B objects.
        """
        jagged = {name: flat for name, flat in self.jagged.items() if name not in columns}
        return self._changed(like, columns, columns={**self.columns, **columns}, jagged=jagged)

    def with_flat(self, like: str, /, **columns: Tensor) -> Batch:
        """Return the batch with columns added or replaced that are given as `flat` gives them.

        Args:
            like: The column of sequences that has as many steps in each row.
            columns: Tensors ``(T, ...)``.
        """
        if self.packing is not None:
            return self.with_columns(
                like, **{name: flat.view(*self.mask.shape, *flat.shape[1:]) for name, flat in columns.items()}
            )
        padded = {name: values for name, values in self.columns.items() if name not in columns}
        return self._changed(like, columns, columns=padded, jagged={**self.jagged, **columns})

    def without(self, *names: str) -> Batch:
        """Return the batch without some columns; ``lengths`` and ``mask`` stay."""
        return self._renamed(dict.fromkeys(names))

    def renamed(self, **names: str) -> Batch:
        """Return the batch with other names for some columns: ``batch.renamed(source_ids="input_ids")``.

        Raises:
            ValueError: There is a column of the new name.
        """
        taken = [name for name in names.values() if name in self._names() and name not in names]
        if taken:
            raise ValueError(f"column {taken[0]!r} is there already; leave it out by without({taken[0]!r})")
        return self._renamed(names)

    def with_lengths_of(self, name: str) -> Batch:
        """Return the batch with the ``lengths`` and the ``mask`` of another column of sequences."""
        self._check_sequence("name", name)
        fields = {**self.__dict__, "sequence": name}
        fields.pop("mask", None)
        return type(self).of({**fields, "lengths": self.column_lengths[name], "device_lengths": self._device_lengths(name)})

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device; ``lengths``, ``row_ids`` and ``pieces`` stay on the CPU."""
        if self.device_lengths.is_cpu:
            self.num_label_tokens  # noqa: B018 - counted here, where nobody has to wait for it
        return self._on_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU do not block."""
        return self._on_tensors(Tensor.pin_memory)

    def device_tensors(self) -> list[Tensor]:
        """Return the tensors that live on the device."""
        found: list[Tensor] = []
        self._on_tensors(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def _with(self, changed: Container[str], **fields: Any) -> Batch:
        """Return the batch with other fields, some columns of which have changed."""
        known = {**self.__dict__, **fields}
        if "labels" in changed or "label" in changed:
            known.pop("_num_label_tokens", None)
        return type(self).of(known)

    def _changed(self, like: str | None, new: Mapping[str, Any], **fields: Any) -> Batch:
        """Return the batch with other columns, the new ones having the rows of another."""
        if like is not None:
            self._check_sequence("like", like)
            pad_values = {name: IGNORE_INDEX if is_label(name) else self.pad_values[like] for name in new}
            fields["column_lengths"] = {**self.column_lengths, **dict.fromkeys(new, self.column_lengths[like])}
            fields["widths"] = {**self.widths, **dict.fromkeys(new, self.widths[like])}
            fields["pad_values"] = {**pad_values, **self.pad_values}
        return self._with(new, **fields)

    def _check_sequence(self, argument: str, name: str) -> None:
        if name not in self.column_lengths:
            known = ", ".join(self.column_lengths) or "there is none"
            raise ValueError(f"{argument} must be a column of sequences ({known}), got {name!r}")

    def _renamed(self, names: Mapping[str, str | None]) -> Batch:
        """Return the batch with other names for columns, without those that are to have none."""
        fields: dict[str, Any] = {}
        for part in ("columns", "jagged", "column_lengths", "widths", "pad_values"):
            pairs = ((names.get(name, name), value) for name, value in getattr(self, part).items())
            fields[part] = {name: value for name, value in pairs if name is not None}
        if self.sequence is not None and self.sequence in names:
            fields["sequence"] = names[self.sequence]
            fields["mask"] = self.mask  # made while its width is known
        return self._with({**names, **dict.fromkeys(filter(None, names.values()))}, **fields)

    def _on_tensors(self, move: Callable[[Tensor], Tensor]) -> Batch:
        fields: dict[str, Any] = {}
        for part in ("columns", "jagged"):
            values = getattr(self, part)
            fields[part] = {name: move(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        for name in ("device_lengths", "mask", "weights"):
            if name in self.__dict__:
                fields[name] = move(self.__dict__[name])
        if self.packing is not None:
            fields["packing"] = dataclasses.replace(self.packing, cu_seqlens=move(self.packing.cu_seqlens))
        return self._with((), **fields)

    def __repr__(self) -> str:
        values = {**self.jagged, **self.columns}
        shown = ", ".join(f"{name} {_described(values[name])}" for name in self._names())
        padding = 1 - self.num_tokens / max(self.num_slots, 1)
        rows = f"{self.num_rows} rows" if self.packing is None else f"{self.num_rows} rows of {len(self.row_ids)} sequences"
        return f"Batch({rows}, {self.num_tokens:,} tokens, {padding:.1%} padding: {shown})"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


OWN_NAMES = frozenset({field.name for field in dataclasses.fields(Batch)} | {name for name in dir(Batch) if name[0] != "_"})
"""What attributes of a batch are called; a column of such a name is had as an item only."""


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"list of {len(value)}"
