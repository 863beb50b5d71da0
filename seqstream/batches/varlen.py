"""Sequences one after the other, in one row or in several, and where each begins.

Legend: ``B`` rows, ``T`` steps of all rows, ``S`` sequences in packed rows, ``P`` runs: sequences and padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from seqstream.batches.document_mask import document_mask

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where sequences lie in the rows of a batch of `Pack`, which is ``(rows, row_length)``.

    Attributes:
        starts: ``int64 (S,)`` on the CPU, first slot of each sequence in the flattened batch.
        lengths: ``int64 (S,)`` on the CPU, steps of each sequence.
        cu_seqlens: ``int32 (P + 1,)`` on the device, bounds of all runs of the flattened batch: sequences, and padding at the
            end of a row.
        max_seqlen: Slots of the longest run.
    """

    starts: Tensor
    lengths: Tensor
    cu_seqlens: Tensor
    max_seqlen: int


@dataclasses.dataclass(frozen=True, eq=False)
class Varlen(Mapping[str, Any]):
    """All rows of a batch one after the other, as FlashAttention's varlen functions take them.

    As a mapping it is one row, for ``model(**batch.varlen())``: models of transformers find the sequences by ``position_ids``,
    but only where there is neither a mask nor a cache. Items are ``(1, T)``, and ``use_cache`` is ``False``.

    Attributes:
        input_ids: ``(T,)``, on the memory of `Batch.flat`.
        cu_seqlens: ``int32 (B + 1,)``, where each row begins and the last one ends.
        max_seqlen: Steps of the longest row.
        position_ids: ``int64 (T,)``, from 0 in every row.
        sequence_ids: ``int64 (T,)``, the number of the row.
        labels: ``(T,)``, or ``None`` if the batch has none for each step.
    """

    input_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    position_ids: Tensor
    sequence_ids: Tensor
    labels: Tensor | None

    def __getitem__(self, name: str) -> Any:
        if name == "use_cache":
            return False
        if name not in ("input_ids", "position_ids", "labels") or getattr(self, name) is None:
            raise KeyError(name)
        return getattr(self, name)[None]

    def __iter__(self) -> Iterator[str]:
        yield from ("input_ids", "position_ids")
        if self.labels is not None:
            yield "labels"
        yield "use_cache"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def flash_kwargs(self) -> dict[str, Any]:
        """Return the arguments that models of transformers pass on to FlashAttention, so that they compute no bounds."""
        both = {"cu_seq_lens_q": self.cu_seqlens, "cu_seq_lens_k": self.cu_seqlens}
        return {**both, "max_length_q": self.max_seqlen, "max_length_k": self.max_seqlen}

    def document_mask(self, causal: bool = True) -> BlockMask:
        """Return the mask for FlexAttention over ``(1, T)`` that keeps rows apart; see `Batch.document_mask`."""
        return document_mask(self.sequence_ids[None], causal=causal)

    __eq__ = object.__eq__
    __hash__ = object.__hash__
