"""Batches: attributes, the mapping for models of transformers, devices, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqstream.batch import Batch


def make(**columns: Any) -> Batch:
    """Make a batch of two rows, of lengths 3 and 1."""
    lengths = torch.tensor([3, 1])
    padded = columns or {"input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]])}
    return Batch(
        columns=padded,
        lengths=lengths,
        device_lengths=lengths,
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        row_ids=torch.tensor([1 << 32, 5]),
        pieces=torch.tensor([0, 0]),
        weights=torch.ones(2),
        column_lengths=dict.fromkeys(padded, lengths),
        padding_side="right",
        num_tokens=4,
        seed=17,
        window=5,
        state={"epoch": 0},
    )


IDS = torch.tensor([[5, 6, 7], [8, 0, 0]])
LABELS = torch.tensor([1, 0])


def test_columns_are_attributes() -> None:
    """Whatever the source calls them."""
    batch = make(input_ids=IDS, text=["a", "b"])
    assert batch.input_ids is IDS
    assert batch.text == ["a", "b"]


def test_a_missing_column_is_named_beside_those_there_are() -> None:
    """The error says what there is; hasattr and getattr with a default work."""
    batch = make(input_ids=IDS, label=LABELS)
    with pytest.raises(AttributeError, match=r"^batch has no column 'labels'; it has input_ids, label$"):
        _ = batch.labels
    assert not hasattr(batch, "labels")
    assert getattr(batch, "labels", None) is None


def test_the_mapping_holds_what_models_accept() -> None:
    """Known inputs that are tensors, and the mask as int64; nothing else, in no other order than that of the columns."""
    batch = make(text=["a", "b"], labels=LABELS, input_ids=IDS, score=LABELS, position_ids=[1, 2])
    assert list(batch) == ["labels", "input_ids", "attention_mask"]
    assert len(batch) == 3
    assert {**batch}.keys() == {"labels", "input_ids", "attention_mask"}
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["attention_mask"].dtype == torch.int64
    assert batch["score"] is LABELS, "any column can be asked for"
    with pytest.raises(KeyError, match="nothing"):
        batch["nothing"]


def test_label_is_known_as_labels() -> None:
    """A column ``label`` of a data set reaches models under the name they know, unless there are ``labels`` as well."""
    batch = make(input_ids=IDS, label=LABELS)
    assert list(batch) == ["input_ids", "labels", "attention_mask"]
    assert batch["labels"] is batch["label"] is LABELS
    others = torch.tensor([4, 4])
    batch = make(label=LABELS, labels=others, input_ids=IDS)
    assert list(batch) == ["labels", "input_ids", "attention_mask"]
    assert batch["labels"] is others
    batch = make(label=["a", "b"], input_ids=IDS)
    assert list(batch) == ["input_ids", "attention_mask"], "strings are no labels of a model"


def test_without_ids_there_is_no_attention_mask() -> None:
    """Models that take features have no such argument; it can still be asked for."""
    assert list(make(features=torch.zeros(2, 3, 4))) == []
    assert list(make(inputs_embeds=torch.zeros(2, 3, 4))) == ["inputs_embeds", "attention_mask"]
    assert make(features=torch.zeros(2, 3, 4))["attention_mask"].sum() == 4


def test_an_attention_mask_of_ones_own_is_used() -> None:
    """A column of that name comes instead of the mask: whole numbers as int64, floats as they are."""
    batch = make(input_ids=IDS, attention_mask=torch.tensor([[1, 0, 1], [1, 0, 0]], dtype=torch.int8))
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["attention_mask"].tolist() == [[1, 0, 1], [1, 0, 0]]
    assert batch["attention_mask"].dtype == torch.int64
    bias = torch.zeros(2, 1, 3, 3)
    assert make()["attention_mask"].shape == (2, 3)
    assert make().with_columns(attention_mask=bias)["attention_mask"] is bias


def test_a_model_takes_a_batch() -> None:
    """``model(**batch)`` computes the loss that the same tensors give."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.eval()
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    batch = make(input_ids=IDS, labels=labels, text=["a", "b"])
    loss = model(**batch).loss
    assert torch.equal(loss, model(input_ids=IDS, labels=labels, attention_mask=batch.mask.long()).loss)


def test_lengths_pack_a_batch() -> None:
    """``lengths`` are what `pack_padded_sequence` wants, also after moving the batch."""
    batch = make(features=torch.rand(2, 3, 4)).to("cpu")
    packed = pack_padded_sequence(batch.features, batch.lengths, batch_first=True)
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(lengths, batch.lengths)
    assert torch.equal(padded, batch.features * batch.mask[:, :, None])


def test_moving_leaves_what_belongs_on_the_cpu() -> None:
    """Columns, mask, weights and device_lengths move; lengths, row ids, pieces and lists stay."""
    batch = make(input_ids=IDS, text=["a", "b"])
    moved = batch.to("meta")
    assert moved.input_ids.is_meta
    assert moved.mask.is_meta
    assert moved.weights.is_meta
    assert moved.device_lengths.is_meta
    assert not any(tensor.is_meta for tensor in (moved.lengths, moved.row_ids, moved.pieces, *moved.column_lengths.values()))
    assert moved.text == ["a", "b"]
    assert (moved.num_tokens, moved.num_rows, moved.num_slots, moved.state) == (4, 2, 6, {"epoch": 0})
    assert not batch.input_ids.is_meta
    assert all(tensor.is_meta for tensor in moved.device_tensors())
    assert len(moved.device_tensors()) == 4


def test_columns_are_added_and_replaced_on_a_copy() -> None:
    """``with_columns`` leaves the batch as it was."""
    batch = make()
    other = batch.with_columns(labels=LABELS, input_ids=IDS + 1)
    assert other.labels is LABELS
    assert other.input_ids[0, 0] == 6
    assert "labels" not in batch.columns
    assert batch.input_ids[0, 0] == 5


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_batches_can_be_copied_and_pickled(clone: Any) -> None:
    """Every part comes back."""
    batch = make(input_ids=IDS, text=["a", "b"])
    other = clone(batch)
    assert other is not batch
    assert torch.equal(other.input_ids, IDS)
    assert other.text == ["a", "b"]
    assert torch.equal(other.mask, batch.mask)
    assert (other.seed, other.window, other.state, other.padding_side) == (17, 5, {"epoch": 0}, "right")
    assert list(other) == list(batch)


def test_batches_are_compared_by_identity() -> None:
    """Tensors have no truth value, so batches compare and hash as objects do."""
    batch, other = make(), make()
    assert batch == batch  # noqa: PLR0124 - that is the point
    assert batch != other
    assert len({batch, other}) == 2


def test_a_batch_cannot_be_changed_by_accident() -> None:
    """It is frozen; columns are added by ``with_columns``."""
    with pytest.raises(AttributeError, match="cannot assign to field 'labels'"):
        make().labels = LABELS  # type: ignore[attr-defined]


def test_the_generator_is_the_same_each_time() -> None:
    """Randomness of a batch follows from its seed."""
    first, again = (torch.rand(3, generator=make().generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert make().generator().initial_seed() == 17


def test_a_batch_prints_what_it_is() -> None:
    """Rows, tokens, padding, and the shape and type of each column."""
    batch = make(input_ids=IDS, text=["a", "b"])
    assert repr(batch) == "Batch(2 rows, 4 tokens, 33.3% padding: input_ids (2, 3) int64, text list of 2)"
