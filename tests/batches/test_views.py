"""Views of a batch: each equals the function that it replaces, shares memory where documented, and models learn the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence, unpack_sequence

from seqstream.batches.batch import Batch
from seqstream.batches.labels import CausalLabels
from tests.helpers.batches import batch_of, packed_batch, padded, random_rows

LENGTHS = [5, 3, 3, 1, 8]
LAYOUTS = ["padded", "jagged"]
SIDES = ["right", "left"]
VOCAB = 50


def same(first: PackedSequence, second: PackedSequence) -> bool:
    """Return whether two are equal in all four parts."""
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
    """Whichever a batch holds, the other is computed from it: ids, features, and columns of other lengths."""
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


def test_packed_outputs_are_in_the_order_of_the_batch() -> None:
    """Also where rows are not longest first: `pad_packed_sequence` gives them beside the padded columns."""
    batch = batch_of(random_rows(LENGTHS))
    ids, lengths = pad_packed_sequence(batch.packed_sequence(), batch_first=True, padding_value=9)
    assert ids.equal(batch.input_ids)
    assert lengths.equal(batch.lengths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_rows_share_the_flat_memory(layout: str) -> None:
    """They are the rows, and pass gradients to what they were computed from."""
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
def test_forms_are_computed_without_reading_from_a_device(form: str) -> None:
    """All of them can be computed on a device that holds no values at all, in the same shapes and types."""
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
