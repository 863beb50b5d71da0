"""What a loader yields: the tensors of one batch, which of their values are real, and the state to resume from after it.

Legend: ``B`` rows, ``L`` padded length, ``T`` steps of all rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seqstream.batches.batch_layout import RENAMED, BatchLayout
from seqstream.batches.parts import flat_fields, part_layout
from seqstream.batches.views import Views
from seqstream.records import Json

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
    """Rows of similar length in tensors: padded to the longest, or in another form that a method returns.

    Every name works in both ways, as an attribute and as an item: ``batch.input_ids`` is ``batch["input_ids"]``, and
    ``batch.lengths`` is ``batch["lengths"]``. The names are

    - the columns, called what the source or a stage calls them;
    - ``attention_mask``: a column of that name, else ``mask``; int64 unless it is of floats;
    - ``labels`` for a column ``label``, where there is no column ``labels``;
    - the attributes and properties below, not the methods.

    A column whose name is that of an attribute or a method below is an item only: ``batch["weights"]`` is the column, and
    ``batch.weights`` the attribute. The loader warns of such a column.

    Iteration, ``keys()``, ``len(batch)``, ``dict(batch)`` and ``model(**batch)`` have fewer names: the columns that models of
    transformers accept, ``label`` as ``labels``, and ``attention_mask`` beside ids or embeddings. A batch of `Pack` has
    ``use_cache=False`` in place of ``attention_mask``: with neither mask nor cache, decoders of transformers find the sequences
    by ``position_ids``. Its encoders do not, and let sequences of a row see each other.

    Columns and views are read only: a view may share the memory of a column, and is kept for the next call.

    Attributes:
        lengths: ``int64 (B,)``, real steps of each row, always on the CPU, where `torch.nn.utils.rnn.pack_padded_sequence`
            wants them. Longest first, unless batched by `Unbucketed`, or planned by another column that is longer.
        mask: ``bool (B, L)``, true on real steps.
        row_ids: ``int64 (B,)`` on the CPU, ``shard << 32 | record``: unique, ascending in source order; -1 for rows made up.
            ``row_ids``, ``pieces`` and ``weights`` are those of each sequence for a batch of `Pack`.
        pieces: ``int64 (B,)`` on the CPU, the number of the piece where a long record was split, else 0.
        weights: ``float32 (B,)``, 0 for rows made up or repeated, else 1.
        padding_side: Where padding is, ``"right"`` or ``"left"``.
        num_tokens: Real steps in all rows, without those made up or repeated.
        num_slots: Real steps, rows made up and padding together.
        global_num_tokens: Real steps of the batches that all ranks take at once; ``num_tokens`` in one process.
        step: The optimiser step of the epoch that the batch belongs to, from 0: ``Loader(accumulate=K)`` plans K batches a rank
            for each.
        is_step_end: Whether it is the last batch of that step.
        step_num_tokens: Real steps of all batches of the optimiser step, of all ranks, known from its first batch on.
        window: A number that differs between the windows of an epoch; rows of one window are neighbours in source order.
        state: What to save to go on after this batch: JSON, as `Loader.load_state_dict` takes it.
        layout: How the columns lie in memory, and what this class works with; see `BatchLayout`.
    """

    lengths: Tensor
    mask: Tensor
    row_ids: Tensor
    pieces: Tensor
    weights: Tensor
    padding_side: str
    num_tokens: int
    num_slots: int
    global_num_tokens: int
    step: int
    is_step_end: bool
    step_num_tokens: int
    window: int
    state: dict[str, Json]
    layout: BatchLayout

    def __new__(cls, *items: Mapping[str, Any], **fields: Any) -> Any:
        """Return a batch, or a dict when called as ``type(mapping)(items)``, as Trainer and accelerate rebuild mappings."""
        return dict(*items) if items else object.__new__(cls)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Batch:
        """Return a batch of all its fields, set at once: one by one they take a tenth of a small batch's time."""
        batch = object.__new__(cls)
        object.__setattr__(batch, "__dict__", fields)
        return batch

    def __getattr__(self, name: str) -> Any:
        if "layout" not in self.__dict__:  # while unpickling
            raise AttributeError(name)
        if name == "mask":  # also where there is a column of that name
            return self._make_mask()
        if self._is_input(name):
            return self[name]
        raise AttributeError(self._no_such_name(name), name=name, obj=self)

    def __getitem__(self, name: str) -> Any:
        layout = self.layout
        if name == "attention_mask":
            mask = self._padded(name) if name in layout else self.mask
            return mask.long() if isinstance(mask, Tensor) and not mask.is_floating_point() else mask
        if (column := layout.column_of(name)) is not None:
            return self._padded(column)
        if name == "use_cache" and layout.packing is not None:
            return False
        if name in ATTRIBUTES:
            return getattr(self, name)
        raise KeyError(self._no_such_name(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._is_input(name) or name in ATTRIBUTES)

    def __iter__(self) -> Iterator[str]:
        layout = self.layout
        names = {RENAMED.get(name, name): None for name in layout.names}
        yield from (name for name in names if name in MODEL_INPUTS and layout.is_tensor(layout.column_of(name) or name))
        if "input_ids" in names or "inputs_embeds" in names:
            yield "attention_mask" if layout.packing is None or "attention_mask" in names else "use_cache"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def num_rows(self) -> int:
        """Number of rows, ``B``."""
        return len(self.lengths)

    def generator(self) -> torch.Generator:
        """Return a random generator for this batch, on the CPU: the same whenever the batch is rebuilt."""
        return torch.Generator().manual_seed(self.layout.seed)

    def with_columns(self, like: str | None = None, /, **columns: Any) -> Batch:
        """Return the batch with columns added or replaced.

        Args:
            like: A column of sequences whose rows are as long as those of the new columns; needed where these are not as long
                as ``lengths``.
            columns: Tensors ``(B, L, ...)`` or ``(B, ...)``, or lists of B objects.

        Raises:
            ValueError: ``like`` is no column of sequences.
        """
        layout = self.layout if like is None else self.layout.with_rows_of(like, columns)
        jagged = {name: flat for name, flat in layout.jagged.items() if name not in columns}
        return self._with(columns, layout=layout._replace(columns={**layout.columns, **columns}, jagged=jagged))

    def with_flat(self, like: str, /, **columns: Tensor) -> Batch:
        """Return the batch with columns added or replaced that have the form of `flat`.

        Args:
            like: A column of sequences whose rows are as long as those of the new columns.
            columns: Tensors ``(T, ...)``.

        Raises:
            ValueError: ``like`` is no column of sequences.
        """
        if self.layout.packing is not None:
            return self.with_columns(
                like, **{name: flat.view(*self.mask.shape, *flat.shape[1:]) for name, flat in columns.items()}
            )
        layout = self.layout.with_rows_of(like, columns)
        padded = {name: values for name, values in layout.columns.items() if name not in columns}
        return self._with(columns, layout=layout._replace(columns=padded, jagged={**layout.jagged, **columns}))

    def without(self, *names: str) -> Batch:
        """Return the batch without some columns; ``lengths`` and ``mask`` stay."""
        return self._renamed(dict.fromkeys(names))

    def renamed(self, **names: str) -> Batch:
        """Return the batch with other names for some columns: ``batch.renamed(source_ids="input_ids")``.

        Raises:
            ValueError: There is a column of the new name.
        """
        taken = [name for name in names.values() if name in self.layout and name not in names]
        if taken:
            raise ValueError(f"column {taken[0]!r} is there already; leave it out by without({taken[0]!r})")
        return self._renamed(names)

    def with_lengths_of(self, name: str) -> Batch:
        """Return the batch with the ``lengths`` and the ``mask`` of another column of sequences.

        Raises:
            ValueError: It is no column of sequences.
        """
        layout = self.layout
        layout.check_sequence("name", name)
        fields = {key: value for key, value in self.__dict__.items() if key != "mask"}
        fields["layout"] = layout._replace(sequence=name, device_lengths=self.device_lengths_of(name))
        return type(self).of({**fields, "lengths": layout.column_lengths[name]})

    def part(self, name: str) -> Batch:
        """Return one of several texts of each row as a batch that ``model(**batch)`` takes.

        ``batch.part("chosen")`` has the column ``chosen_ids`` as ``input_ids``, and ``chosen_labels`` as ``labels``. Its rows,
        and the columns of one value a row, are those of the batch.

        Args:
            name: A field of ``Tokenize(field=[...])`` or of a dict of tokenizers, or its column of ids.

        Raises:
            ValueError: There is no such text, rows have several of it, or the batch is one of `Pack`.
        """
        layout = part_layout(self, name)
        lengths = layout.column_lengths["input_ids"]
        fields = {key: value for key, value in self.__dict__.items() if key not in ("mask", "_num_label_tokens")}
        num_tokens = 0 if layout.num_repeated else int(lengths.sum()) - layout.num_made_up
        sizes = {"num_tokens": num_tokens, "num_slots": len(lengths) * layout.widths["input_ids"]}
        return type(self).of({**fields, **self._labels_unknown(), **sizes, "lengths": lengths, "layout": layout})

    def flatten(self, name: str, *, multiple_of: int = 1) -> Batch:
        """Return several texts of each row as rows of a batch that ``model(**batch)`` takes: ``(rows * texts, L)``.

        ``batch.flatten("choices").weights.view(batch.num_rows, -1)`` is 1 on the texts of each row; the same view of what a
        model returns has its results. Rows with fewer texts are filled up with rows of one padding token, whose weight is 0.
        ``row_ids`` are those of the records, ``pieces`` the numbers of the texts. Columns of one value a row are left out.

        Args:
            name: As of `part`.
            multiple_of: Padded lengths are rounded up to a multiple of it.

        Raises:
            ValueError: There is no such text, or the batch is one of `Pack`.
        """
        fields = {key: value for key, value in self.__dict__.items() if key not in ("mask", "_num_label_tokens")}
        return type(self).of({**fields, **self._labels_unknown(), **flat_fields(self, name, multiple_of)})

    def _labels_unknown(self) -> dict[str, int]:
        """Return the numbers of labels of other ranks and batches for one text of each row: they are not known."""
        return {field: -1 for field in ("_global_labels", "_step_labels") if self.__dict__.get(field) is not None}

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device; ``lengths``, ``row_ids`` and ``pieces`` stay on the CPU."""
        if self.layout.device_lengths.is_cpu:
            self.num_label_tokens  # noqa: B018 - counted while the labels are on the CPU, so that no one waits for a device
        return self._on_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU do not block."""
        return self._on_tensors(Tensor.pin_memory)

    def device_tensors(self) -> list[Tensor]:
        """Return the tensors that live on the device."""
        found: list[Tensor] = []
        self._on_tensors(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def _is_input(self, name: str) -> bool:
        """Return whether a name is that of a column, here or to models, or of another input of models."""
        if name == "attention_mask" or self.layout.column_of(name) is not None:
            return True
        return name == "use_cache" and self.layout.packing is not None

    def _no_such_name(self, name: str) -> str:
        columns, attributes = ", ".join(self.layout.names) or "(none)", ", ".join(("attention_mask", *ATTRIBUTES))
        return f"batch has no column or attribute {name!r}; its columns are {columns}; its attributes are {attributes}"

    def _with(self, changed: Container[str], **fields: Any) -> Batch:
        """Return the batch with other fields, in which some columns have changed."""
        known = {**self.__dict__, **fields}
        if "labels" in changed or "label" in changed:
            known.pop("_num_label_tokens", None)
        return type(self).of(known)

    def _renamed(self, names: Mapping[str, str | None]) -> Batch:
        """Return the batch with other names for columns, without those whose new name is ``None``."""
        fields: dict[str, Any] = {"layout": self.layout.renamed(names)}
        if self.layout.sequence in names:
            fields["mask"] = self.mask  # computed while its width is known
        return self._with({**names, **dict.fromkeys(filter(None, names.values()))}, **fields)

    def _on_tensors(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with a function applied to the tensors that live on the device."""
        own = {name: function(self.__dict__[name]) for name in ("mask", "weights") if name in self.__dict__}
        return self._with((), layout=self.layout.on_tensors(function), **own)

    def __repr__(self) -> str:
        layout = self.layout
        values = {**layout.jagged, **layout.columns}
        shown = ", ".join(f"{name} {_described(values[name])}" for name in layout.names)
        padding = 1 - self.num_tokens / max(self.num_slots, 1)
        rows = f"{self.num_rows} rows" if layout.packing is None else f"{self.num_rows} rows of {len(self.row_ids)} sequences"
        return f"Batch({rows}, {self.num_tokens:,} tokens, {padding:.1%} padding: {shown})"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


ATTRIBUTES = (
    *(field.name for field in dataclasses.fields(Batch)),
    *(name for name in dir(Batch) if isinstance(getattr(Batch, name), property)),
)
"""The batch's own attributes, which are items as well unless a column has the name."""

OWN_NAMES = frozenset({*ATTRIBUTES, *(name for name in dir(Batch) if name[0] != "_")})
"""Names of attributes and methods; a column of such a name is an item only."""


def _described(value: Any) -> str:
    """Return the shape and the type of a tensor, or the length of a list."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"list of {len(value)}"
