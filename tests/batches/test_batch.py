"""Batches: attributes, the mapping for models of transformers, devices, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqstream.batches.batch import ATTRIBUTES, Batch
from tests.helpers.batches import bare_batch, batch_of, packed_batch

IDS = torch.tensor([[5, 6, 7], [8, 0, 0]])
LABELS = torch.tensor([1, 0])


def make(**columns: Any) -> Batch:
    """Make a batch of two rows, of lengths 3 and 1."""
    lengths = torch.tensor([3, 1])
    columns = columns or {"input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]])}
    layout = {
        "columns": columns,
        "column_lengths": dict.fromkeys(columns, lengths),
        "widths": dict.fromkeys(columns, 3),
        "pad_values": dict.fromkeys(columns, 0),
    }
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return bare_batch(lengths, 0, layout, mask=mask, num_slots=6)


def make_jagged() -> Batch:
    """Make the same batch flat, with a class for each row."""
    return batch_of([torch.tensor([5, 6, 7]), torch.tensor([8])], "jagged", label=LABELS)


def make_packed() -> Batch:
    """Make a batch of two rows of five slots that hold three sequences."""
    return packed_batch([[torch.tensor([5, 6, 7]), torch.tensor([8])], [torch.tensor([4, 3])]], 5)


def test_columns_are_attributes() -> None:
    """Whatever the source calls them."""
    batch = make(input_ids=IDS, text=["a", "b"])
    assert batch.input_ids is IDS
    assert batch.text == ["a", "b"]


UNKNOWN = (
    r"batch has no column or attribute 'nothing'; its columns are input_ids, label; its attributes are attention_mask, "
    r"lengths, mask, row_ids, pieces, weights, padding_side, num_tokens, num_slots, global_num_tokens, step, is_step_end, "
    r"step_num_tokens, window, state, layout, global_num_label_tokens, num_label_tokens, num_rows, step_num_label_tokens"
)


def test_a_missing_name_is_refused_with_those_there_are() -> None:
    """The error lists columns and attributes; hasattr, getattr with a default, ``in`` and ``get`` work."""
    batch = make(input_ids=IDS, label=LABELS)
    with pytest.raises(AttributeError, match=rf"^{UNKNOWN}$"):
        _ = batch.nothing
    with pytest.raises(KeyError, match=UNKNOWN):
        batch["nothing"]
    assert not hasattr(batch, "nothing")
    assert getattr(batch, "nothing", None) is batch.get("nothing") is None
    assert "nothing" not in batch
    assert 3 not in batch
    with pytest.raises(AttributeError, match=r"its columns are \(none\); "):
        _ = batch.without("input_ids", "label").nothing


@pytest.mark.parametrize("form", ["padded", "jagged", "packed"])
def test_every_name_is_an_attribute_and_an_item(form: str) -> None:
    """Columns, what models call them, and all attributes have one value in both ways, and are ``in`` the batch."""
    batch = {"padded": make(input_ids=IDS, label=LABELS), "jagged": make_jagged(), "packed": make_packed()}[form]
    others = ["use_cache"] if form == "packed" else ["label", "labels"]
    for name in ["input_ids", "attention_mask", *others, *ATTRIBUTES]:
        assert name in batch
        value, item = getattr(batch, name), batch[name]
        assert torch.equal(value, item) if isinstance(value, torch.Tensor) else value == item, name
    assert batch.attention_mask.equal(batch.mask.long())
    assert batch["num_rows"] == 2
    assert {"lengths", "mask", "weights", "row_ids", "num_rows", "layout"} <= {*ATTRIBUTES}
    assert not {"to", "flat", "keys"} & {*ATTRIBUTES}, "methods are no items"
    with pytest.raises(KeyError, match="'flat'"):
        batch["flat"]


def test_models_get_no_attributes() -> None:
    """What can be asked for by name is more than what a model is given."""
    batch = make(input_ids=IDS, label=LABELS)
    assert list(batch) == list(batch.keys()) == list(dict(batch)) == ["input_ids", "labels", "attention_mask"]
    assert len(batch) == len(batch.values()) == 3


def test_a_column_with_the_name_of_an_attribute_is_an_item() -> None:
    """The attribute is the batch's own."""
    batch = make(input_ids=IDS, weights=LABELS, flat=LABELS)
    assert batch["weights"] is batch["flat"] is LABELS
    assert batch.weights.tolist() == [1, 1]
    assert callable(batch.flat)


def test_the_layout_is_not_part_of_the_batch() -> None:
    """The machinery has one place: no name of it is one of the batch."""
    batch = make()
    assert not {*batch.layout._fields} & {*ATTRIBUTES}
    for name in batch.layout._fields:
        assert not hasattr(batch, name), name


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
    batch = make()
    other = batch.with_columns(labels=LABELS, input_ids=IDS + 1)
    assert other.labels is LABELS
    assert other.input_ids[0, 0] == 6
    assert "labels" not in batch.layout.columns
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
    assert (other.layout.seed, other.window, other.state, other.padding_side) == (17, 5, {"epoch": 0}, "right")
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


def test_a_jagged_batch_is_padded_when_asked() -> None:
    """Attribute, item and mask are made when they are wanted, kept, and the same however they are asked for."""
    batch = make_jagged()
    assert "input_ids" not in batch.layout.columns
    assert "mask" not in vars(batch)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.layout.columns["input_ids"] is batch.input_ids is batch["input_ids"]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.mask is batch.mask
    other = make_jagged()
    assert other["input_ids"].equal(batch.input_ids)
    assert other["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_jagged_batch_is_a_mapping_for_models() -> None:
    """It holds what the padded one holds; saying what there is pads nothing."""
    batch = make_jagged()
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    assert len(batch) == 3
    assert repr(batch) == "Batch(2 rows, 4 tokens, 0.0% padding: label (2,) int64, input_ids (4,) int64)"
    with pytest.raises(
        AttributeError, match=r"^batch has no .* 'nothing'; its columns are label, input_ids; its attributes are "
    ):
        _ = batch.nothing
    with pytest.raises(KeyError, match="nothing"):
        batch["nothing"]
    assert "input_ids" not in batch.layout.columns
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "labels": [1, 0],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }


def test_a_packed_batch_is_a_mapping_without_a_mask() -> None:
    """Models of transformers tell sequences apart by positions only if there is neither a mask nor a cache."""
    batch = make_packed()
    assert list(batch) == ["input_ids", "position_ids", "use_cache"]
    assert batch["use_cache"] is False
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert repr(batch).startswith("Batch(2 rows of 3 sequences, 6 tokens, 40.0% padding: input_ids (2, 5) int64, position_ids")
    own = batch.with_columns(attention_mask=torch.zeros(2, 1, 5, 5))
    assert list(own) == ["input_ids", "position_ids", "attention_mask"], "a mask of one's own can tell sequences apart"
    with pytest.raises(KeyError, match="use_cache"):
        make()["use_cache"]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
@pytest.mark.parametrize("asked_before", [False, True])
def test_jagged_and_packed_batches_can_be_pickled(clone: Any, asked_before: bool) -> None:
    """With and without what was made of them so far."""
    batch, packed = make_jagged(), make_packed()
    if asked_before:
        assert batch.input_ids.shape == batch.mask.shape
    other = clone(batch)
    assert ("input_ids" in other.layout.columns) is asked_before
    assert other.input_ids.equal(batch.input_ids)
    assert other.mask.equal(batch.mask)
    assert clone(packed).varlen().cu_seqlens.equal(packed.varlen().cu_seqlens)


def test_moving_a_jagged_batch_moves_it_flat() -> None:
    """Nothing is padded before it is on the device, where it is padded when asked for."""
    moved = make_jagged().to("meta")
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
    moved = make_packed().to("meta")
    assert moved.layout.packing is not None
    assert moved.layout.packing.cu_seqlens.is_meta
    assert not moved.layout.packing.starts.is_meta
    assert not moved.layout.packing.lengths.is_meta
    assert any(tensor is moved.layout.packing.cu_seqlens for tensor in moved.device_tensors())


def test_a_column_replaced_is_no_longer_flat() -> None:
    """What was kept of the old column is dropped, whichever form the new one is given in."""
    for batch in (make(), make_jagged()):
        assert batch.flat().tolist() == [5, 6, 7, 8]
        other = batch.with_columns(input_ids=IDS + 1)
        assert other.flat().tolist() == [6, 7, 8, 9]
        assert batch.flat().tolist() == [5, 6, 7, 8]
        again = other.with_flat("input_ids", input_ids=torch.tensor([1, 2, 3, 4]))
        assert again.input_ids.tolist() == [[1, 2, 3], [4, *[batch.layout.pad_values["input_ids"]] * 2]]
        assert other.flat().tolist() == [6, 7, 8, 9]


def test_columns_come_with_the_rows_of_another() -> None:
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
    """They come back as rows, and are the memory that was given."""
    batch = make_packed()
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
def test_another_column_can_say_the_lengths(layout: str) -> None:
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
    batch = make(input_ids=IDS, labels=labels)
    assert batch.num_label_tokens == 2
    assert batch.with_columns(labels=IDS).num_label_tokens == 6
    assert batch.without("labels").num_label_tokens == 0
    assert make(input_ids=IDS, label=torch.tensor([1, -100])).num_label_tokens == 1
    assert make(input_ids=IDS, label=["a", "b"]).num_label_tokens == 0
    assert make_packed().with_flat("input_ids", labels=torch.arange(-103, -93)).num_label_tokens == 9
    assert make_jagged().with_flat("input_ids", labels=torch.arange(-102, -98)).num_label_tokens == 3


def test_labels_are_counted_before_they_leave_the_cpu() -> None:
    """A device need not be asked: here it could not even answer."""
    batch = make(input_ids=IDS, labels=torch.tensor([[-100, 6, 7], [-100, -100, -100]]))
    assert batch.to("meta").num_label_tokens == 2
    assert batch.to("meta").with_columns(score=LABELS).to("meta").num_label_tokens == 2
