"""Sequences that lie one after the other, in one row or in several, and where each begins.

Legend: ``B`` rows, ``T`` steps of all rows, ``S`` sequences in packed rows.
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
    """How sequences lie in the rows of a batch of `Pack`, which is ``(rows, row_length)``.

    Attributes:
        starts: ``int64 (S,)`` on the CPU, first slot of each sequence in the flattened batch.
        lengths: ``int64 (S,)`` on the CPU.
        cu_seqlens: ``int32 (S' + 1,)`` on the device, bounds of all runs of the flattened batch; padding at the end of a row
            is a run of its own.
        max_seqlen: The longest run.
    """

    starts: Tensor
    lengths: Tensor
    cu_seqlens: Tensor
    max_seqlen: int


@dataclasses.dataclass(frozen=True, eq=False)
class Varlen(Mapping[str, Any]):
    """All rows of a batch one after the other, as FlashAttention's varlen functions take them.

    As a mapping it is one row, for ``model(**batch.varlen())``: models of transformers tell the sequences apart by
    ``position_ids``, which they look at only where there is no mask and no cache.

    Attributes:
        input_ids: ``(T,)``, the very memory of `Batch.flat`.
        cu_seqlens: ``int32 (B + 1,)``, where each row begins and the last one ends.
        max_seqlen: The longest row.
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
        """Return what models of transformers hand on to FlashAttention, which then need not find it out."""
        both = {"cu_seq_lens_q": self.cu_seqlens, "cu_seq_lens_k": self.cu_seqlens}
        return {**both, "max_length_q": self.max_seqlen, "max_length_k": self.max_seqlen}

    def document_mask(self, causal: bool = True) -> BlockMask:
        """Return the mask for FlexAttention over ``(1, T)`` that keeps rows apart; see `Batch.document_mask`."""
        return document_mask(self.sequence_ids[None], causal=causal)

    __eq__ = object.__eq__
    __hash__ = object.__hash__
