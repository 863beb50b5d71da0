"""Copies of a batch: on another device, pickled, with other columns, names, lengths and counts of labels."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from tests.helpers.batches import IDS, LABELS, batch_of, small_batch, small_jagged, small_packed


def test_moving_leaves_what_belongs_on_the_cpu() -> None:
    """Columns, mask, weights and device_lengths move; lengths, row ids, pieces and lists stay."""
    batch = small_batch(input_ids=IDS, text=["a", "b"])
    moved = batch.to("meta")
    assert moved.input_ids.is_meta
    assert moved.mask.is_meta
    assert moved.weights.is_meta
    assert moved.layout.device_lengths.is_meta
    assert not any(
        tensor.is_meta for tensor in (moved.lengths, moved.row_ids, moved.pieces, *moved.layout.column_lengths.values())
    )
    assert moved.text == ["a", "b"]
    assert (moved.num_tokens, moved.num_rows, moved.num_slots, moved.state) == (4, 2, 6, {"epoch": 0})
    assert not batch.input_ids.is_meta
    assert all(tensor.is_meta for tensor in moved.device_tensors())
    assert len(moved.device_tensors()) == 4


def test_columns_are_added_and_replaced_on_a_copy() -> None:
    """``with_columns`` leaves the batch as it was."""
    batch = small_batch()
    other = batch.with_columns(labels=LABELS, input_ids=IDS + 1)
    assert other.labels is LABELS
    assert other.input_ids[0, 0] == 6
    assert "labels" not in batch.layout.columns
    assert batch.input_ids[0, 0] == 5


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_batches_can_be_copied_and_pickled(clone: Any) -> None:
    """Every part is that of the original."""
    batch = small_batch(input_ids=IDS, text=["a", "b"])
    other = clone(batch)
    assert other is not batch
    assert torch.equal(other.input_ids, IDS)
    assert other.text == ["a", "b"]
    assert torch.equal(other.mask, batch.mask)
    assert (other.layout.seed, other.window, other.state, other.padding_side) == (17, 5, {"epoch": 0}, "right")
    assert list(other) == list(batch)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
@pytest.mark.parametrize("asked_before", [False, True])
def test_jagged_and_packed_batches_can_be_pickled(clone: Any, asked_before: bool) -> None:
    """With and without what was computed from them so far."""
    batch, packed = small_jagged(), small_packed()
    if asked_before:
        assert batch.input_ids.shape == batch.mask.shape
    other = clone(batch)
    assert ("input_ids" in other.layout.columns) is asked_before
    assert other.input_ids.equal(batch.input_ids)
    assert other.mask.equal(batch.mask)
    assert clone(packed).varlen().cu_seqlens.equal(packed.varlen().cu_seqlens)


def test_moving_a_jagged_batch_moves_it_flat() -> None:
    """Nothing is padded before it is on the device, where it is padded when asked for."""
    moved = small_jagged().to("meta")
    assert moved.layout.jagged["input_ids"].is_meta
    assert "input_ids" not in moved.layout.columns
    assert "mask" not in vars(moved)
    assert not moved.layout.column_lengths["input_ids"].is_meta
    assert moved.mask.is_meta
    assert moved.input_ids.is_meta
    assert moved.input_ids.shape == moved.mask.shape == (2, 3)
    assert len(moved.device_tensors()) == 6
    assert all(tensor.is_meta for tensor in moved.device_tensors())


def test_moving_a_packed_batch_moves_its_bounds() -> None:
    """Where sequences lie stays on the CPU."""
    moved = small_packed().to("meta")
    assert moved.layout.packing is not None
    assert moved.layout.packing.cu_seqlens.is_meta
    assert not moved.layout.packing.starts.is_meta
    assert not moved.layout.packing.lengths.is_meta
    assert any(tensor is moved.layout.packing.cu_seqlens for tensor in moved.device_tensors())


def test_a_column_replaced_is_no_longer_flat() -> None:
    """What was kept of the old column is dropped, whichever form the new one is given in."""
    for batch in (small_batch(), small_jagged()):
        assert batch.flat().tolist() == [5, 6, 7, 8]
        other = batch.with_columns(input_ids=IDS + 1)
        assert other.flat().tolist() == [6, 7, 8, 9]
        assert batch.flat().tolist() == [5, 6, 7, 8]
        again = other.with_flat("input_ids", input_ids=torch.tensor([1, 2, 3, 4]))
        assert again.input_ids.tolist() == [[1, 2, 3], [4, *[batch.layout.pad_values["input_ids"]] * 2]]
        assert other.flat().tolist() == [6, 7, 8, 9]


def test_columns_have_the_rows_of_another() -> None:
    """Lengths, width and padding value go with them; labels are padded with -100."""
    rows = [torch.tensor([1, 2]), torch.tensor([3])]
    targets = [torch.tensor([4]), torch.tensor([5, 6, 7])]
    batch = batch_of(rows, "jagged", others={"target_ids": targets}, wider=1)
    flat = torch.tensor([0, 1, 2, 3])
    other = batch.with_flat("target_ids", labels=flat, more=flat)
    assert other.labels.tolist() == [[0, -100, -100, -100], [1, 2, 3, -100]]
    assert other.more.tolist() == [[0, 9, 9, 9], [1, 2, 3, 9]]
    assert other.layout.column_lengths["labels"].tolist() == [1, 3]
    padded = batch.with_columns("target_ids", labels=other.labels)
    assert padded.flat("labels").tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"^like must be a column of sequences \(input_ids, target_ids\), got 'nothing'$"):
        batch.with_flat("nothing", labels=flat)
    with pytest.raises(ValueError, match=r"^like must be a column of sequences \(there is none\), got 'x'$"):
        batch.without("input_ids", "target_ids").with_columns("x", labels=flat)


def test_flat_columns_of_a_packed_batch_are_its_slots() -> None:
    """They are rows again, on the memory of the flat tensor."""
    batch = small_packed()
    flat = torch.arange(10)
    other = batch.with_flat("input_ids", labels=flat, features=torch.zeros(10, 4))
    assert other.labels.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert other.labels.data_ptr() == flat.data_ptr()
    assert other.features.shape == (2, 5, 4)


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_columns_are_left_out_and_renamed(layout: str) -> None:
    """Everything that is known of a column goes with it; lengths and mask stay."""
    others = {"target_ids": [torch.tensor([4]), torch.tensor([5, 6, 7])]}
    batch = batch_of([torch.tensor([1, 2]), torch.tensor([3])], layout, others=others, label=LABELS)
    other = batch.without("label").renamed(input_ids="source_ids", target_ids="input_ids")
    assert other.source_ids.tolist() == [[1, 2], [3, 9]]
    assert other.input_ids.tolist() == [[4, 9, 9], [5, 6, 7]]
    assert other.flat("input_ids").tolist() == [4, 5, 6, 7]
    assert (other.layout.sequence, set(other)) == ("source_ids", {"input_ids", "attention_mask"})
    assert other.mask.tolist() == [[True, True], [True, False]]
    assert "label" in batch.layout.columns
    bare = batch.without("input_ids")
    assert bare.layout.sequence is None
    assert bare.mask.tolist() == [[True, True], [True, False]]
    assert bare.lengths.tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"^column 'target_ids' is there already; leave it out by without\('target_ids'\)$"):
        batch.renamed(input_ids="target_ids")


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_another_column_can_have_the_lengths(layout: str) -> None:
    """Lengths, on either device, and the mask are then its own."""
    others = {"target_ids": [torch.tensor([4]), torch.tensor([5, 6, 7])]}
    batch = batch_of([torch.tensor([1, 2]), torch.tensor([3])], layout, others=others, wider=1)
    other = batch.with_lengths_of("target_ids")
    assert other.lengths.tolist() == other.layout.device_lengths.tolist() == [1, 3]
    assert other.mask.tolist() == [[True, False, False, False], [True, True, True, False]]
    assert other.mask.equal(batch.mask_of("target_ids"))
    assert other.flat().tolist() == [4, 5, 6, 7]
    assert batch.mask.shape == batch.mask_of("input_ids").shape == (2, 3)
    with pytest.raises(ValueError, match=r"^name must be a column of sequences \(input_ids, target_ids\), got 'x'$"):
        batch.with_lengths_of("x")


def test_labels_are_counted() -> None:
    """Those that are not -100, whatever the column is called; 0 where there are none; anew where they change."""
    labels = torch.tensor([[-100, 6, 7], [-100, -100, -100]])
    batch = small_batch(input_ids=IDS, labels=labels)
    assert batch.num_label_tokens == 2
    assert batch.with_columns(labels=IDS).num_label_tokens == 6
    assert batch.without("labels").num_label_tokens == 0
    assert small_batch(input_ids=IDS, label=torch.tensor([1, -100])).num_label_tokens == 1
    assert small_batch(input_ids=IDS, label=["a", "b"]).num_label_tokens == 0
    assert small_packed().with_flat("input_ids", labels=torch.arange(-103, -93)).num_label_tokens == 9
    assert small_jagged().with_flat("input_ids", labels=torch.arange(-102, -98)).num_label_tokens == 3


def test_labels_are_counted_before_they_leave_the_cpu() -> None:
    """A device need not be asked: here it could not even answer."""
    batch = small_batch(input_ids=IDS, labels=torch.tensor([[-100, 6, 7], [-100, -100, -100]]))
    assert batch.to("meta").num_label_tokens == 2
    assert batch.to("meta").with_columns(score=LABELS).to("meta").num_label_tokens == 2
