"""A small causal transformer in plain PyTorch, and the three forms of batches that it takes: padded, packed and varlen.

All layers take tokens in any shape; only attention must know which tokens belong together. Legend: ``B`` rows, ``L`` padded
length, ``T`` real tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

if TYPE_CHECKING:
    import seqstream as ss

WIDTH, HEADS = 128, 4
MAX_LENGTH = 256


class Form(NamedTuple):
    """The input of the model: three tensors of one shape, and a function that attends, from queries, keys and values."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    attend: Callable[[Tensor], Tensor]


def padded(batch: ss.Batch) -> Form:
    """Return ``(B, L)``: padding goes through all layers; it is at the end of rows, so no real token attends to it."""
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
    return Form(batch.input_ids, positions, batch.labels, attend_in_rows)


def packed(batch: ss.Batch) -> Form:
    """Return ``(B, L)`` of a batch of `Pack`: a token attends to the tokens before it in its own sequence."""
    ids = batch.sequence_ids
    mask = (ids[:, :, None] == ids[:, None, :]).tril()[:, None]
    return Form(batch.input_ids, batch.position_ids, batch.labels, lambda qkv: attend_in_rows(qkv, mask))


def varlen(batch: ss.Batch) -> Form:
    """Return ``(T,)``: only attention on a CPU needs padding; on a GPU, FlashAttention takes ``flat.cu_seqlens``."""
    flat = batch.varlen()
    shape = batch.num_rows, flat.max_seqlen
    slots = flat.sequence_ids * flat.max_seqlen + flat.position_ids

    def attend(qkv: Tensor) -> Tensor:
        rows = qkv.new_zeros(shape[0] * shape[1], *qkv.shape[1:]).index_copy(0, slots, qkv)
        return attend_in_rows(rows.unflatten(0, shape)).flatten(0, 1).index_select(0, slots)

    return Form(flat.input_ids, flat.position_ids, flat.labels, attend)


def attend_in_rows(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend in each row of ``(B, L, 3, heads, width of a head)`` to the tokens before, or to those that a mask allows."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Attention and then two linear layers, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Unflatten(-1, (3, HEADS, WIDTH // HEADS)))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        tokens = tokens + self.out(attend(self.qkv(tokens)))
        return tokens + self.mlp(tokens)


class Transformer(nn.Module):
    """A language model that returns the sum of the losses of all label tokens, or with ``reduction="none"`` each of them."""

    def __init__(self, vocabulary: int = 8_192, num_blocks: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(MAX_LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.logits = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary))

    def forward(self, form: Form, reduction: str = "sum") -> Tensor:
        tokens = self.tokens(form.ids) + self.positions(form.positions)
        for block in self.blocks:
            tokens = block(tokens, form.attend)
        targets = form.labels.flatten()[1:]  # -100 for the first token of a sequence, which no token predicts
        known = (targets != -100).nonzero()[:, 0]  # logits are computed only for these
        return cross_entropy(self.logits(tokens.flatten(0, -2).index_select(0, known)), targets[known], reduction=reduction)
