"""Attention inside documents: the mask that FlexAttention takes, computed from where documents lie.

Legend: ``B`` rows, ``L`` slots of a row, ``N`` blocks of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Slots of a block, FlexAttention's default."""


def document_mask(documents: Tensor, *, causal: bool) -> BlockMask:
    """Return a mask with which slots attend to those of their own document only.

    It equals the result of `torch.nn.attention.flex_attention.create_block_mask`, which evaluates all ``L * L`` pairs of slots;
    this function evaluates ``N * N`` pairs of blocks, as a document is a run.

    Args:
        documents: ``(B, L)``; slots of one document are neighbours and have one number, padding has its own.
        causal: Whether a slot attends only to itself and to slots before it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    runs = _number_runs(documents)

    def attends(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = runs[row, query] == runs[row, key]
        return same & (query >= key) if causal else same

    partial, full = _block_pairs(runs, causal)
    length = documents.shape[1]
    return BlockMask.from_kv_blocks(
        *_key_blocks(partial), *_key_blocks(full), BLOCK_SIZE=BLOCK, mask_mod=attends, seq_lengths=(length, length)
    )


def _number_runs(documents: Tensor) -> Tensor:
    """Return the number of the run of equal values that each slot belongs to, ascending, ``int32 (B, L)``."""
    changes = documents[:, 1:] != documents[:, :-1]
    return torch.nn.functional.pad(changes.cumsum(1, dtype=torch.int32), (1, 0))


def _block_pairs(runs: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Return which pairs of query and key blocks attend in part, and which in full, two ``bool (B, N, N)``."""
    length = runs.shape[1]
    begins = torch.arange(0, length, BLOCK, device=runs.device)
    ends = begins + BLOCK
    first, last = runs[:, begins], runs[:, ends.clamp(max=length) - 1]
    overlap = (first[:, :, None] <= last[:, None]) & (first[:, None] <= last[:, :, None])
    has_one_run = (first == last) & (ends <= length)
    full = has_one_run[:, :, None] & has_one_run[:, None] & (first[:, :, None] == first[:, None])
    if causal:
        overlap = overlap & (begins[:, None] >= begins)
        full = full & (begins[:, None] > begins)
    return overlap & ~full, full


def _key_blocks(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of key blocks of each query block, ``int32 (B, 1, N)``, and all blocks, those first.

    The blocks are ``int32 (B, 1, N, N)``.
    """
    blocks = pairs.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return pairs.sum(-1, dtype=torch.int32)[:, None], blocks.to(torch.int32)[:, None]
