"""Views of a batch: each equals the function that it replaces, shares memory where it says so, and models learn the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence, unpack_sequence

from seqstream.batches.batch import Batch
from seqstream.batches.labels import CausalLabels
from tests.helpers.batches import batch_of, packed_batch, padded, random_rows

LENGTHS = [5, 3, 3, 1, 8]
LAYOUTS = ["padded", "jagged"]
SIDES = ["right", "left"]
VOCAB = 50


def same(first: PackedSequence, second: PackedSequence) -> bool:
    """Tell whether two are equal in all four parts."""
    parts = zip(first, second, strict=True)
    return all(one is other if one is None or other is None else one.equal(other) for one, other in parts)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    layout=st.sampled_from(LAYOUTS),
    side=st.sampled_from(SIDES),
    wider=st.integers(0, 2),
)
def test_padded_and_flat_are_the_same_rows(lengths: list[int], layout: str, side: str, wider: int) -> None:
    """Whichever a batch holds, the other is made of it: ids, features, and columns of other lengths."""
    rows, features, targets = random_rows(lengths), random_rows(lengths, 3), random_rows(lengths[::-1])
    batch = batch_of(rows, layout, side, wider, others={"features": features, "target_ids": targets})
    for name, own in {"input_ids": rows, "features": features, "target_ids": targets}.items():
        value = batch.layout.pad_values[name]
        assert batch.flat(name).equal(torch.cat(own))
        assert batch[name].equal(padded(own, max(map(len, own)) + wider, value, side))
        assert batch.flat(name) is batch.flat(name)
    assert batch.flat() is batch.flat("input_ids")
    assert batch.mask.equal(batch.mask_of("features"))
    assert batch.mask.sum(1).tolist() == lengths


def test_flat_slots_of_a_packed_batch_are_its_memory() -> None:
    """Nothing is copied, padding is among them."""
    batch = packed_batch([random_rows([3, 1]), random_rows([5])], 5, features=torch.rand(2, 5, 3))
    assert batch.flat().data_ptr() == batch.input_ids.data_ptr()
    assert batch.flat().equal(batch.input_ids.flatten())
    assert batch.flat("features").shape == (10, 3)
    assert batch.layout.jagged == {}


def test_what_has_no_steps_is_not_flat() -> None:
    """A column of one value a row, a list, and a column that is not there are named."""
    batch = batch_of(random_rows([2, 3]), score=torch.rand(2), text=["a", "b"])
    with pytest.raises(ValueError, match=r"^score must be padded \(2, 3\) or flat \(5,\) in its first dimensions, got \(2,\)$"):
        batch.flat("score")
    with pytest.raises(ValueError, match=r"^text must be padded \(2, 3\) or flat \(5,\) in its first dimensions, got list$"):
        batch.flat("text")
    with pytest.raises(AttributeError, match=r"^batch has no column 'x'; it has score, text, input_ids$"):
        batch.flat("x")
    with pytest.raises(ValueError, match=r"^input_ids must be padded \(2, 3\) or flat \(5,\) in its .*, got \(2, 4, 7\)$"):
        batch.packed_sequence(torch.rand(2, 4, 7))
    with pytest.raises(AttributeError, match=r"^batch has no column 'input_ids'; it has score, text$"):
        batch.without("input_ids").flat()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lengths", [LENGTHS, sorted(LENGTHS, reverse=True)])
def test_packed_sequences_are_those_of_pack_sequence(layout: str, side: str, lengths: list[int]) -> None:
    """Of columns by name, and of tensors computed from them, padded or flat; sorted indices only where they are needed."""
    rows, features, targets = random_rows(lengths), random_rows(lengths, 3), random_rows(lengths[::-1])
    batch = batch_of(rows, layout, side, 2, others={"features": features, "target_ids": targets})
    is_sorted = lengths != LENGTHS
    assert (batch.packed_sequence().sorted_indices is None) is is_sorted
    assert same(batch.packed_sequence(), pack_sequence(rows, enforce_sorted=is_sorted))
    assert same(batch.packed_sequence("features"), pack_sequence(features, enforce_sorted=is_sorted))
    assert same(batch.packed_sequence("target_ids"), pack_sequence(targets, enforce_sorted=False))
    embed = nn.Embedding(VOCAB, 4)
    expected = pack_sequence([embed(row) for row in rows], enforce_sorted=is_sorted)
    assert same(batch.packed_sequence(embed(batch.input_ids)), expected)
    assert same(batch.packed_sequence(embed(batch.flat())), expected)
    expected = pack_sequence([embed(row) for row in targets], enforce_sorted=False)
    assert same(batch.packed_sequence(embed(batch.target_ids), like="target_ids"), expected)


def test_sequences_of_a_packed_batch_are_packed_one_by_one() -> None:
    """Its rows are the sequences, in their order."""
    sequences = random_rows([3, 1, 5, 2])
    batch = packed_batch([sequences[:2], sequences[2:3], sequences[3:]], 5)
    assert same(batch.packed_sequence(), pack_sequence(sequences, enforce_sorted=False))
    embed = nn.Embedding(VOCAB, 4)
    expected = pack_sequence([embed(row) for row in sequences], enforce_sorted=False)
    assert same(batch.packed_sequence(embed(batch.input_ids)), expected)
    assert same(batch.packed_sequence(embed(batch.flat())), expected)


@pytest.mark.parametrize("make", [lambda rows: batch_of(rows, "jagged"), batch_of, lambda rows: packed_batch([rows], 25)])
@pytest.mark.parametrize("lengths", [LENGTHS, sorted(LENGTHS, reverse=True)])
def test_an_lstm_learns_the_same(make: Callable[[list[Tensor]], Batch], lengths: list[int]) -> None:
    """Outputs and gradients are those of rows packed by PyTorch, and those of rows run one at a time."""
    torch.manual_seed(0)
    rows = random_rows(lengths)
    embed, lstm = nn.Embedding(VOCAB, 6), nn.LSTM(6, 7, batch_first=True)
    batch = make(rows)
    parameters = [*embed.parameters(), *lstm.parameters()]

    def learn(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weights = random_rows([len(output) for output in outputs], 7)
        return torch.autograd.grad(sum((out * own).sum() for out, own in zip(outputs, weights, strict=True)), parameters)

    outputs = unpack_sequence(lstm(batch.packed_sequence(embed(batch.flat())))[0])
    in_pytorch = unpack_sequence(lstm(pack_sequence([embed(row) for row in rows], enforce_sorted=False))[0])
    one_by_one = [lstm(embed(row)[None])[0][0] for row in rows]
    torch.testing.assert_close(outputs, in_pytorch)
    torch.testing.assert_close(outputs, one_by_one)
    grads = learn(outputs)
    torch.testing.assert_close(grads, learn(in_pytorch))
    torch.testing.assert_close(grads, learn(one_by_one))


def test_packed_outputs_come_in_the_order_of_the_batch() -> None:
    """Also where rows are not longest first: `pad_packed_sequence` gives them beside the padded columns."""
    batch = batch_of(random_rows(LENGTHS))
    ids, lengths = pad_packed_sequence(batch.packed_sequence(), batch_first=True, padding_value=9)
    assert ids.equal(batch.input_ids)
    assert lengths.equal(batch.lengths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_rows_share_the_flat_memory(layout: str) -> None:
    """They are the rows, and give gradients to what they were made of."""
    rows, features = random_rows(LENGTHS), random_rows(LENGTHS, 3)
    batch = batch_of(rows, layout, others={"features": features})
    nested = batch.nested()
    assert nested.layout == torch.jagged
    assert nested.values().data_ptr() == batch.flat().data_ptr()
    assert nested.offsets().tolist() == [0, 5, 8, 11, 12, 20]
    assert all(one.equal(other) for one, other in zip(nested.unbind(), rows, strict=True))
    assert batch.nested("features").shape[::2] == (5, 3)
    assert torch.nested.to_padded_tensor(batch.nested("features"), 0.0).equal(padded(features, 8, 0))
    # Known without a look at the offsets, which are on the device.
    assert nested._min_seqlen == 1
    assert nested._max_seqlen == 8


def test_nested_sequences_of_a_packed_batch() -> None:
    """They are its sequences, without padding, and can be computed with."""
    sequences = random_rows([3, 1, 5, 2])
    nested = packed_batch([sequences[:2], sequences[2:3], sequences[3:]], 6).nested()
    assert all(one.equal(other) for one, other in zip(nested.unbind(), sequences, strict=True))
    assert nn.Embedding(VOCAB, 4)(nested).shape[::2] == (4, 4)


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


def everything(batch: Batch) -> dict[str, Tensor]:
    """Ask a batch for all its forms, and flatten them to tensors by name."""
    varlen = batch.varlen()
    names = ["input_ids", "labels", *(() if batch.layout.packing is not None else ("features", "target_ids"))]
    found = {name: batch[name] for name in names} | {f"flat {name}": batch.flat(name) for name in names}
    found |= {f"mask {name}": batch.mask_of(name) for name in names} | {"attention": batch.mask.clone()}
    for name in names:
        found[f"packed {name}"] = batch.packed_sequence(name).data
        nested = batch.nested(name)
        found |= {f"nested {name}": nested.values(), f"offsets {name}": nested.offsets()}
    for name in ("cu_seqlens", "position_ids", "sequence_ids", "labels"):
        found[f"varlen {name}"] = getattr(varlen, name)
    for name, mask in (("rows", batch.document_mask()), ("varlen", varlen.document_mask())):
        found |= {f"mask of {name}": mask.kv_indices, f"count of {name}": mask.kv_num_blocks}
    return found


FORMS = ["padded", "left", "jagged", "jagged left", "packed"]


def make(form: str) -> Batch:
    """Make a labelled batch of one form, columns of features and of other lengths among it."""
    if form == "packed":
        return CausalLabels()(packed_batch([random_rows([3, 1]), random_rows([2, 2, 1])], 5))
    others = {"features": random_rows(LENGTHS, 3), "target_ids": random_rows(LENGTHS[::-1])}
    layout, side = "jagged" if "jagged" in form else "padded", "left" if "left" in form else "right"
    return CausalLabels()(batch_of(random_rows(LENGTHS), layout, side, 2, others=others))


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_made_without_looking_at_a_device(form: str) -> None:
    """All of them can be made on a device that holds no values at all, in the same shapes and types."""
    found, expected = everything(make(form).to("meta")), everything(make(form))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].is_meta, name
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        assert value.isfinite().all(), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("form", FORMS)
def test_forms_on_cuda_are_those_of_the_cpu_and_wait_for_nothing(form: str) -> None:
    """Padding on the device equals padding on the CPU, element for element; no form synchronises, nor does the copy."""
    everything(make(form).to("cuda"))  # the first use of a kernel loads it
    pinned = make(form).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = pinned.to("cuda", non_blocking=True)
        found = everything(moved)
        num_label_tokens = moved.num_label_tokens
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert num_label_tokens == make(form).num_label_tokens > 0
    for name, expected in everything(make(form)).items():
        assert found[name].is_cuda, name
        assert found[name].cpu().equal(expected), name
