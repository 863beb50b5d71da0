"""The mask of FlexAttention: block by block what `create_block_mask` makes, and attention within each document alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from seqstream.batches.document_mask import document_mask

PARTS = ["kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"]
PARTS += ["q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"]


def number_documents(*rows: list[int]) -> Tensor:
    """Number the slots of rows, each given as the lengths of its documents, the last being padding."""
    numbers = [torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)) for lengths in rows]
    return torch.stack([torch.where(own == own[-1], -1, own) for own in numbers])


def attend_by_run(documents: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attend within each run of equal numbers alone, one after the other."""
    out = torch.empty_like(query)
    for row, numbers in enumerate(documents):
        bounds = [0, *(numbers.diff().nonzero().flatten() + 1).tolist(), len(numbers)]
        for begin, end in itertools.pairwise(bounds):
            own = (tensor[row : row + 1, :, begin:end] for tensor in (query, key, value))
            out[row, :, begin:end] = scaled_dot_product_attention(*own, is_causal=causal)[0]
    return out


def test_a_mask_by_hand() -> None:
    """Two documents of 3 and 2 slots and one of padding: which slots attend to which."""
    mask = document_mask(torch.tensor([[0, 0, 0, 1, 1, -1]]), causal=True)
    seen = create_mask(mask.mask_mod, 1, 1, 6, 6, "cpu")[0, 0]
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert seen.int().tolist() == expected
    both_ways = document_mask(torch.tensor([[0, 0, 0, 1, 1, -1]]), causal=False)
    assert create_mask(both_ways.mask_mod, 1, 1, 6, 6, "cpu")[0, 0].equal(seen | seen.T)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.lists(st.sampled_from([1, 5, 127, 128, 129, 256]), min_size=1, max_size=4), min_size=1, max_size=3),
    causal=st.booleans(),
)
def test_blocks_are_those_of_create_block_mask(lengths: list[list[int]], causal: bool) -> None:
    """Which blocks are looked at in part, and which in full, for documents that end anywhere about the edge of a block."""
    longest = max(map(sum, lengths)) + 1
    documents = number_documents(*([*row, longest - sum(row)] for row in lengths))
    mask = document_mask(documents, causal=causal)
    expected = create_block_mask(mask.mask_mod, len(lengths), None, longest, longest, device="cpu")
    for part in PARTS:
        assert getattr(mask, part).equal(getattr(expected, part)), part
        assert getattr(mask, part).dtype == torch.int32
    assert mask.shape == expected.shape == (len(lengths), 1, longest, longest)
    assert mask.BLOCK_SIZE == expected.BLOCK_SIZE


def test_whole_blocks_may_fill_the_row() -> None:
    """With no slot over, the last block is a full one like the others."""
    mask = document_mask(torch.zeros(1, 256), causal=False)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks.tolist() == [[[2, 2]]]
    assert mask.kv_num_blocks.tolist() == [[[0, 0]]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False])
def test_attention_stays_inside_documents(causal: bool) -> None:
    """FlexAttention gives what attention one document at a time gives; padding is attended to by padding, never NaN."""
    torch.manual_seed(0)
    documents = number_documents([70, 1, 129, 50], [249, 1], [1, 9, 40, 200])
    query, key, value = torch.randn(3, 3, 2, 250, 8).unbind()
    out = flex_attention(query, key, value, block_mask=document_mask(documents, causal=causal))
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out, attend_by_run(documents, query, key, value, causal))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device, and FlexAttention has no gradients on the CPU"
)
@pytest.mark.parametrize("causal", [True, False])
def test_attention_and_gradients_on_cuda(causal: bool) -> None:
    """Compiled, and with gradients, it is attention one document at a time; making the mask waits for nothing."""
    documents = number_documents([70, 1, 129, 300], [499, 1], [1, 9, 40, 450]).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mask: BlockMask = document_mask(documents, causal=causal)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tensors = [torch.randn(3, 2, 500, 32, device="cuda", requires_grad=True) for _ in range(3)]
    out = torch.compile(flex_attention)(*tensors, block_mask=mask)
    grads = torch.autograd.grad(out.square().sum(), tensors)
    expected = attend_by_run(documents, *tensors, causal)
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), tensors), atol=1e-2, rtol=1e-2)
