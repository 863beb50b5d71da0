"""A batch: its names, the mapping that models of transformers take, its seed, what it prints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqstream.batches.batch import ATTRIBUTES
from tests.helpers.batches import IDS, LABELS, small_batch, small_jagged, small_packed


def test_columns_are_attributes() -> None:
    """Whatever the source calls them."""
    batch = small_batch(input_ids=IDS, text=["a", "b"])
    assert batch.input_ids is IDS
    assert batch.text == ["a", "b"]


UNKNOWN = (
    r"batch has no column or attribute 'nothing'; its columns are input_ids, label; its attributes are attention_mask, "
    r"lengths, mask, row_ids, pieces, weights, padding_side, num_tokens, num_slots, global_num_tokens, step, is_step_end, "
    r"step_num_tokens, window, state, layout, global_num_label_tokens, num_label_tokens, num_rows, step_num_label_tokens, "
    r"step_share"
)


def test_a_missing_name_is_refused_with_those_there_are() -> None:
    """The error lists columns and attributes; hasattr, getattr with a default, ``in`` and ``get`` work."""
    batch = small_batch(input_ids=IDS, label=LABELS)
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
    batch = {"padded": small_batch(input_ids=IDS, label=LABELS), "jagged": small_jagged(), "packed": small_packed()}[form]
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
    batch = small_batch(input_ids=IDS, label=LABELS)
    assert list(batch) == list(batch.keys()) == list(dict(batch)) == ["input_ids", "labels", "attention_mask"]
    assert len(batch) == len(batch.values()) == 3


def test_a_column_with_the_name_of_an_attribute_is_an_item() -> None:
    """The attribute is the batch's own."""
    batch = small_batch(input_ids=IDS, weights=LABELS, flat=LABELS)
    assert batch["weights"] is batch["flat"] is LABELS
    assert batch.weights.tolist() == [1, 1]
    assert callable(batch.flat)


def test_the_layout_is_not_part_of_the_batch() -> None:
    """The machinery has one place: no name of it is one of the batch."""
    batch = small_batch()
    assert not {*batch.layout._fields} & {*ATTRIBUTES}
    for name in batch.layout._fields:
        assert not hasattr(batch, name), name


def test_the_mapping_holds_what_models_accept() -> None:
    """Known inputs that are tensors, and the mask as int64; nothing else, in no other order than that of the columns."""
    batch = small_batch(text=["a", "b"], labels=LABELS, input_ids=IDS, score=LABELS, position_ids=[1, 2])
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
    batch = small_batch(input_ids=IDS, label=LABELS)
    assert list(batch) == ["input_ids", "labels", "attention_mask"]
    assert batch["labels"] is batch["label"] is LABELS
    others = torch.tensor([4, 4])
    batch = small_batch(label=LABELS, labels=others, input_ids=IDS)
    assert list(batch) == ["labels", "input_ids", "attention_mask"]
    assert batch["labels"] is others
    batch = small_batch(label=["a", "b"], input_ids=IDS)
    assert list(batch) == ["input_ids", "attention_mask"], "strings are no labels of a model"


def test_without_ids_there_is_no_attention_mask() -> None:
    """Models that take features have no such argument; it can still be asked for."""
    assert list(small_batch(features=torch.zeros(2, 3, 4))) == []
    assert list(small_batch(inputs_embeds=torch.zeros(2, 3, 4))) == ["inputs_embeds", "attention_mask"]
    assert small_batch(features=torch.zeros(2, 3, 4))["attention_mask"].sum() == 4


def test_an_attention_mask_of_ones_own_is_used() -> None:
    """A column of that name replaces the mask: whole numbers become int64, floats keep their type."""
    batch = small_batch(input_ids=IDS, attention_mask=torch.tensor([[1, 0, 1], [1, 0, 0]], dtype=torch.int8))
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["attention_mask"].tolist() == [[1, 0, 1], [1, 0, 0]]
    assert batch["attention_mask"].dtype == torch.int64
    bias = torch.zeros(2, 1, 3, 3)
    assert small_batch()["attention_mask"].shape == (2, 3)
    assert small_batch().with_columns(attention_mask=bias)["attention_mask"] is bias


def test_a_model_takes_a_batch() -> None:
    """``model(**batch)`` computes the loss that the same tensors give."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.eval()
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    batch = small_batch(input_ids=IDS, labels=labels, text=["a", "b"])
    loss = model(**batch).loss
    assert torch.equal(loss, model(input_ids=IDS, labels=labels, attention_mask=batch.mask.long()).loss)


def test_lengths_pack_a_batch() -> None:
    """``lengths`` are what `pack_padded_sequence` wants, also after moving the batch."""
    batch = small_batch(features=torch.rand(2, 3, 4)).to("cpu")
    packed = pack_padded_sequence(batch.features, batch.lengths, batch_first=True)
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(lengths, batch.lengths)
    assert torch.equal(padded, batch.features * batch.mask[:, :, None])


def test_batches_are_compared_by_identity() -> None:
    """Tensors have no truth value, so batches compare and hash as objects do."""
    batch, other = small_batch(), small_batch()
    assert batch == batch  # noqa: PLR0124 - that is the point
    assert batch != other
    assert len({batch, other}) == 2


def test_a_batch_cannot_be_changed_by_accident() -> None:
    """It is frozen; columns are added by ``with_columns``."""
    with pytest.raises(AttributeError, match="cannot assign to field 'labels'"):
        small_batch().labels = LABELS  # type: ignore[attr-defined]


def test_the_generator_is_the_same_each_time() -> None:
    """Randomness of a batch follows from its seed."""
    first, again = (torch.rand(3, generator=small_batch().generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert small_batch().generator().initial_seed() == 17


def test_a_batch_prints_what_it_is() -> None:
    """Rows, tokens, padding, and the shape and type of each column."""
    batch = small_batch(input_ids=IDS, text=["a", "b"])
    assert repr(batch) == "Batch(2 rows, 4 tokens, 33.3% padding: input_ids (2, 3) int64, text list of 2)"


def test_a_jagged_batch_is_padded_when_asked() -> None:
    """Attribute, item and mask are computed when they are first read, kept, and the same in both ways."""
    batch = small_jagged()
    assert "input_ids" not in batch.layout.columns
    assert "mask" not in vars(batch)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.layout.columns["input_ids"] is batch.input_ids is batch["input_ids"]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.mask is batch.mask
    other = small_jagged()
    assert other["input_ids"].equal(batch.input_ids)
    assert other["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_jagged_batch_is_a_mapping_for_models() -> None:
    """It holds what the padded one holds; saying what there is pads nothing."""
    batch = small_jagged()
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
    """Models of transformers find sequences by positions only if there is neither a mask nor a cache."""
    batch = small_packed()
    assert list(batch) == ["input_ids", "position_ids", "use_cache"]
    assert batch["use_cache"] is False
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert repr(batch).startswith("Batch(2 rows of 3 sequences, 6 tokens, 40.0% padding: input_ids (2, 5) int64, position_ids")
    own = batch.with_columns(attention_mask=torch.zeros(2, 1, 5, 5))
    assert list(own) == ["input_ids", "position_ids", "attention_mask"], "a mask of one's own can keep sequences apart"
    with pytest.raises(KeyError, match="use_cache"):
        small_batch()["use_cache"]
