"""Rows one after the other, and attention that keeps them apart: models learn what they learn from rows one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from seqstream.batches.labels import CausalLabels
from tests.helpers.batches import batch_of, packed_batch, random_rows

LENGTHS = [5, 3, 3, 1, 8]
LAYOUTS = ["padded", "jagged"]
SIDES = ["right", "left"]
VOCAB = 50


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", SIDES)
def test_varlen_is_what_the_flattening_collator_makes(layout: str, side: str) -> None:
    """Field by field, with and without labels of one's own, and in the types of FlashAttention."""
    from transformers import DataCollatorWithFlattening

    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    rows, labels = random_rows(LENGTHS), random_rows(LENGTHS, seed=1)
    for batch, features in (
        (CausalLabels()(batch_of(rows, layout, side)), [{"input_ids": row} for row in rows]),
        (
            batch_of(rows, layout, side, others={"labels": labels}),
            [{"input_ids": row, "labels": own} for row, own in zip(rows, labels, strict=True)],
        ),
    ):
        expected = collator(features, return_tensors="pt")
        varlen = batch.varlen()
        got = {**varlen, **varlen.flash_kwargs(), "seq_idx": varlen.sequence_ids[None].int()}
        assert got.pop("use_cache") is False
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert type(got[name]) is type(value)
            assert got[name].equal(value) if isinstance(value, Tensor) else got[name] == value, name
            assert not isinstance(value, Tensor) or got[name].dtype == value.dtype
        assert varlen.input_ids.data_ptr() == batch.flat().data_ptr()


def test_varlen_by_hand() -> None:
    """Rows of 3 and 1 ids; labels of tokens are left as they are if asked."""
    batch = batch_of(
        [torch.tensor([5, 6, 7]), torch.tensor([8])], others={"labels": [torch.tensor([1, 2, 3]), torch.tensor([4])]}
    )
    varlen = batch.varlen()
    assert varlen.input_ids.tolist() == [5, 6, 7, 8]
    assert varlen.cu_seqlens.tolist() == [0, 3, 4]
    assert varlen.cu_seqlens.dtype == torch.int32
    assert varlen.max_seqlen == 3
    assert type(varlen.max_seqlen) is int
    assert varlen.position_ids.tolist() == [0, 1, 2, 0]
    assert varlen.sequence_ids.tolist() == [0, 0, 0, 1]
    assert varlen.labels is not None
    assert varlen.labels.tolist() == [-100, 2, 3, -100]
    assert batch.varlen(causal=False)["labels"].tolist() == [[1, 2, 3, 4]]
    assert batch.labels.tolist() == [[1, 2, 3], [4, -100, -100]]
    assert len(varlen) == 4
    assert varlen == varlen  # noqa: PLR0124 - it is compared by identity, as a batch is
    assert len({varlen, batch.varlen()}) == 2


def test_labels_of_rows_are_no_labels_of_steps() -> None:
    """A class for each row, or labels of a column of other lengths, have no place beside the steps."""
    batch = batch_of(random_rows([2, 3]), labels=torch.tensor([1, 0]))
    varlen = batch.varlen()
    assert varlen.labels is None
    assert list(varlen) == ["input_ids", "position_ids", "use_cache"]
    with pytest.raises(KeyError, match="labels"):
        varlen["labels"]
    with pytest.raises(KeyError, match="cu_seqlens"):
        varlen["cu_seqlens"]
    assert batch_of(random_rows([2, 3]), others={"labels": random_rows([3, 2])}).varlen().labels is None


def test_varlen_of_a_packed_batch_is_its_memory() -> None:
    """Slots as they lie; padding at the end of a row is a run like any other."""
    batch = CausalLabels()(packed_batch([random_rows([3, 1]), random_rows([2, 2, 1])], 5))
    varlen = batch.varlen()
    assert varlen.input_ids.data_ptr() == batch.input_ids.data_ptr()
    assert varlen.position_ids.data_ptr() == batch.position_ids.data_ptr()
    assert varlen.cu_seqlens.tolist() == [0, 3, 4, 5, 7, 9, 10]
    assert varlen.sequence_ids.tolist() == [0, 0, 0, 1, 2, 3, 3, 4, 4, 5]
    assert varlen.max_seqlen == 3
    assert varlen.labels is not None
    assert varlen.labels.equal(batch.labels.flatten())


def gpt2(attention: str) -> Any:
    """Make a small GPT-2 with random weights, not so small ones that all positions look alike."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation=attention)
    model: Any = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def learn_alone(model: Any, rows: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the sum of losses over all rows run one at a time, and its gradients."""
    losses = [model(row[None], labels=row[None]).loss * (len(row) - 1) for row in rows if len(row) > 1]
    loss = torch.stack(losses).sum()
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_gpt2_learns_the_same_from_any_form(attention: str, training: bool) -> None:
    """``model(**batch)``, padded, packed and flat: loss and gradients are those of the rows one at a time."""
    model = gpt2(attention)
    rows = random_rows(LENGTHS)
    expected, expected_grads = learn_alone(model, rows)
    if training:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train()
    right = CausalLabels()(batch_of(rows, "jagged"))
    packed = CausalLabels()(packed_batch([rows[:2], rows[2:4], rows[4:]], 10))
    for form, count in ((right, right.num_label_tokens), (right.varlen(), 15), (packed, 15), (packed.varlen(), 15)):
        assert count == sum(LENGTHS) - len(LENGTHS)
        loss = model(**form).loss * count
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), expected_grads, atol=1e-5, rtol=1e-4)


class Attending(nn.Module):
    """One layer of causal attention with positions, written by hand, that takes whatever mask it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, 16), nn.Embedding(32, 16)
        self.mix, self.out = nn.Linear(16, 48), nn.Linear(16, VOCAB)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Return the logits, ``(B, L, vocabulary)``; ``mask`` is true where a slot may see another."""
        hidden = self.tokens(ids) + self.positions(positions)
        query, key, value = self.mix(hidden).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(hidden + mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("form", ["padded", "left", "packed", "varlen", "packed varlen"])
def test_a_document_mask_keeps_rows_apart(form: str) -> None:
    """Loss and gradients of an attention layer are those of the rows one at a time, and nothing is NaN.

    The mask is spread out to all pairs, as FlexAttention has no gradients on the CPU.
    """
    torch.manual_seed(0)
    model, rows = Attending(), random_rows(LENGTHS)
    if "packed" in form:
        batch = CausalLabels()(packed_batch([rows[:2], rows[2:4], rows[4:]], 10))
    else:
        batch = CausalLabels()(batch_of(rows, side="left" if form == "left" else "right"))
    if "varlen" in form:
        varlen = batch.varlen()
        ids, positions, labels = varlen["input_ids"], varlen["position_ids"], varlen["labels"]
        mask = varlen.document_mask()
    else:
        ids, labels, mask = batch.input_ids, batch.labels, batch.document_mask()
        positions = batch.position_ids if form == "packed" else (batch.mask.cumsum(1) - 1).clamp(min=0)
    seen = create_mask(mask.mask_mod, len(ids), 1, *ids.shape[1:] * 2, "cpu")
    logits = model(ids, positions, seen)
    assert logits.isfinite().all()
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    one_by_one = []
    for row in rows:
        causal = torch.ones(len(row), len(row), dtype=torch.bool).tril()
        own = model(row[None], torch.arange(len(row))[None], causal)[0]
        one_by_one.append(cross_entropy(own[:-1], row[1:], reduction="sum"))
    expected = torch.stack(one_by_one).sum()
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, parameters, allow_unused=True), atol=1e-5, rtol=1e-4)


def test_a_mask_both_ways_is_for_encoders() -> None:
    """Without ``causal`` each slot sees all of its own sequence and nothing else."""
    mask = batch_of(random_rows([3, 2])).document_mask(causal=False)
    seen = create_mask(mask.mask_mod, 2, 1, 3, 3, "cpu")[:, 0]
    assert seen.int().tolist() == [[[1, 1, 1]] * 3, [[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
    flat = batch_of(random_rows([3, 2])).varlen().document_mask(causal=False)
    assert create_mask(flat.mask_mod, 1, 1, 5, 5, "cpu").sum() == 9 + 4
    packed = packed_batch([random_rows([3, 2]), random_rows([1])], 6).document_mask(causal=False)
    assert create_mask(packed.mask_mod, 2, 1, 6, 6, "cpu").sum((1, 2, 3)).tolist() == [9 + 4 + 1, 1 + 25]
