"""Attention that stays inside documents: the mask that FlexAttention takes, made from where documents lie.

Legend: ``B`` rows, ``L`` slots of a row, ``N`` blocks of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Slots of a block, as FlexAttention has them by default."""


def document_mask(documents: Tensor, *, causal: bool) -> BlockMask:
    """Return a mask that lets slots see those of their own document only.

    It equals what `torch.nn.attention.flex_attention.create_block_mask` makes, which looks at all ``L * L`` pairs: here
    ``N * N`` pairs of blocks are looked at, as a document is a run.

    Args:
        documents: ``(B, L)``; slots of one document are neighbours and have one number, padding has its own.
        causal: Whether a slot sees only itself and those before it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    runs = _number_runs(documents)

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = runs[row, query] == runs[row, key]
        return same & (query >= key) if causal else same

    some, all_of = _block_pairs(runs, causal)
    length = documents.shape[1]
    return BlockMask.from_kv_blocks(
        *_listed(some), *_listed(all_of), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def _number_runs(documents: Tensor) -> Tensor:
    """Return ``int32 (B, L)``, the number of the run of equal values that each slot belongs to, ascending."""
    changes = documents[:, 1:] != documents[:, :-1]
    return torch.nn.functional.pad(changes.cumsum(1, dtype=torch.int32), (1, 0))


def _block_pairs(runs: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Return for pairs of blocks whether some slots see each other but not all, and whether all do, ``bool (B, N, N)``."""
    length = runs.shape[1]
    begins = torch.arange(0, length, BLOCK, device=runs.device)
    ends = begins + BLOCK
    first, last = runs[:, begins], runs[:, ends.clamp(max=length) - 1]
    some = (first[:, :, None] <= last[:, None]) & (first[:, None] <= last[:, :, None])
    one = (first == last) & (ends <= length)
    full = one[:, :, None] & one[:, None] & (first[:, :, None] == first[:, None])
    if causal:
        some = some & (begins[:, None] >= begins)
        full = full & (begins[:, None] > begins)
    return some & ~full, full


def _listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each block looks at, ``int32 (B, 1, N)``, and which, those first, ``int32 (B, 1, N, N)``."""
    which = pairs.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return pairs.sum(-1, dtype=torch.int32)[:, None], which.to(torch.int32)[:, None]
