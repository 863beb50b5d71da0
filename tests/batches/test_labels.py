"""Labels for causal and for encoder-decoder models, in every form of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import seqstream as ss
from seqstream.batches.labels import CausalLabels, TeacherForcing
from seqstream.testing.rank_laws import Taken, take
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.batches import PAD, batch_of, packed_batch, padded, random_rows

ROWS = [torch.tensor(row) for row in ([1, 9, 3], [9], [5, 6])]


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize(
    ("side", "expected"),
    [("right", [[-100, 9, 3], [-100, -100, -100], [-100, 6, -100]]), ("left", [[-100, 9, 3], [-100] * 3, [-100, -100, 6]])],
)
def test_labels_are_the_ids_that_can_be_predicted(layout: str, side: str, expected: list[list[int]]) -> None:
    """Not padding, which the mask marks, as an id may be the padding value; and not the first of a row."""
    batch = batch_of(ROWS, layout, side)
    labelled = CausalLabels()(batch)
    assert labelled["labels"].tolist() == expected
    assert labelled["labels"].dtype == torch.int64
    assert labelled.input_ids.equal(batch.input_ids)
    assert labelled.flat("labels").tolist() == [-100, 9, 3, -100, -100, 6]
    assert labelled.num_label_tokens == 3
    assert "labels" not in {**batch.layout.columns, **batch.layout.jagged}
    assert set(labelled) == {"input_ids", "labels", "attention_mask"}


def test_labels_of_a_jagged_batch_stay_flat() -> None:
    """Nothing is padded to make them; ids that were padded before still give the same labels."""
    batch = batch_of(ROWS, "jagged")
    labelled = CausalLabels()(batch)
    assert not labelled.layout.columns
    assert not batch.layout.columns
    assert batch.input_ids.shape == (3, 3)
    again = CausalLabels()(batch)
    assert "labels" in again.layout.columns, "what is padded already stays so"
    assert again.labels.equal(labelled.labels)


def test_labels_of_a_packed_batch_end_with_its_sequences() -> None:
    """Nothing predicts the first of a sequence, nor padding; rows made up have no label."""
    batch = CausalLabels()(packed_batch([ROWS[:2], ROWS[2:], [torch.tensor([PAD])]], 5, num_made_up=1))
    assert batch.labels.tolist() == [[-100, 9, 3, -100, -100], [-100, 6, -100, -100, -100], [-100] * 5]
    assert batch.num_label_tokens == 3


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_without_ids_have_no_labels(layout: str, side: str) -> None:
    """Their first label would be that of another row, or of none."""
    batch = batch_of([torch.tensor(row, dtype=torch.int64) for row in ([], [4, 5], [])], layout, side)
    assert CausalLabels()(batch).labels.tolist() == [[-100, -100], [-100, 5], [-100, -100]]
    empty = batch_of(ROWS, layout, side, others={"target_ids": batch.flat().split([0, 2, 0])})
    forced = TeacherForcing(3, source="input_ids")(empty)
    assert forced.labels.tolist() == [[-100, -100], [4, 5], [-100, -100]]
    assert forced.flat("decoder_input_ids").tolist() == [3, 4]


def test_columns_cut_short_are_labelled_too() -> None:
    """Columns of a user's own need not be contiguous."""
    batch = batch_of(ROWS, wider=2)
    batch = batch.with_columns(input_ids=batch.input_ids.T.contiguous().T)
    assert CausalLabels()(batch).labels[:, :3].tolist() == [[-100, 9, 3], [-100, -100, -100], [-100, 6, -100]]
    plain = batch_of(ROWS).with_columns(mine=batch_of(ROWS).input_ids + 1)
    assert CausalLabels("mine")(plain).labels.tolist() == [[-100, 10, 4], [-100, -100, -100], [-100, 7, -100]]


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize(
    ("side", "expected"),
    [("right", [[-100, 5], [-100, -100], [-100, 8]]), ("left", [[-100, 5], [-100, -100], [-100, 8]])],
)
def test_another_column_has_its_own_padding(layout: str, side: str, expected: list[list[int]]) -> None:
    """Labels from targets are ignored where targets are padded, not where ids are, of whatever width."""
    targets = [torch.tensor(row) for row in ([4, 5], [6], [7, 8])]
    for lengths in ([1, 2, 1], [1, 3, 1]):
        batch = batch_of(random_rows(lengths), layout, side, others={"target_ids": targets})
        labelled = CausalLabels("target_ids")(batch)
        assert labelled.labels.tolist() == expected
        assert labelled.flat("labels").tolist() == [-100, 5, -100, -100, 8]


def test_a_missing_column_is_named() -> None:
    """The message lists the columns."""
    batch = batch_of(ROWS).renamed(input_ids="source_ids")
    with pytest.raises(ValueError, match=r"^column must be one of the batch \(source_ids\), got 'input_ids'$"):
        CausalLabels()(batch)
    with pytest.raises(ValueError, match=r"^column must be one of the batch \(source_ids\), got 'target_ids'$"):
        TeacherForcing(0)(batch)


def test_a_model_computes_the_loss_of_next_tokens() -> None:
    """The labels are not shifted; the loss is the mean over real next tokens, as computed by hand."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    model: Any = GPT2LMHeadModel(config).eval()
    batch = CausalLabels()(batch_of([torch.tensor(row) for row in ([1, 9, 3, 4], [9], [5, 6])]))
    scores = model(batch.input_ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    pairs = [(0, 0, 9), (0, 1, 3), (0, 2, 4), (2, 0, 6)]
    expected = -torch.stack([scores[row, step, token] for row, step, token in pairs]).mean()
    torch.testing.assert_close(model(**batch).loss, expected)


def t5() -> Any:
    """Make a small T5 with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model: Any = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=3, pad_token_id=PAD)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_teacher_forcing_by_hand(layout: str) -> None:
    """Two pairs and one made up: what the encoder reads, what the decoder reads, and what it is to predict."""
    others = {"target_ids": [torch.tensor(row) for row in ([4, 5], [6, 7, 8], [PAD])]}
    batch = batch_of([*ROWS[::2], torch.tensor([PAD])], layout, others=others, num_made_up=1).renamed(input_ids="source_ids")
    forced = TeacherForcing(3)(batch)
    assert forced.input_ids.tolist() == [[1, 9, 3], [5, 6, PAD], [PAD, PAD, PAD]]
    assert forced.labels.tolist() == [[4, 5, -100], [6, 7, 8], [-100, -100, -100]]
    last = 5 if layout == "padded" else PAD  # has no label, so that no loss depends on it
    assert forced.decoder_input_ids.tolist() == [[3, 4, last], [3, 6, 7], [3, PAD, PAD]]
    assert forced.flat("decoder_input_ids").tolist() == [3, 4, 3, 6, 7, 3]
    assert forced.lengths.tolist() == [3, 2, 1]
    assert forced.mask.int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert {name: lengths.tolist() for name, lengths in forced.layout.column_lengths.items()} == {
        "input_ids": [3, 2, 1],
        "labels": [2, 3, 1],
        "decoder_input_ids": [2, 3, 1],
    }
    assert (forced.layout.sequence, forced.num_label_tokens) == ("input_ids", 5)
    assert set(forced) == {"input_ids", "labels", "decoder_input_ids", "attention_mask"}
    assert forced.packed_sequence("decoder_input_ids").batch_sizes.tolist() == [3, 2, 1]


def test_padding_on_the_left_begins_where_the_target_does() -> None:
    """The start stands before the first real token, and the decoder has a mask of its padding."""
    others = {"target_ids": [torch.tensor(row) for row in ([4, 5], [6, 7, 8])]}
    forced = TeacherForcing(3, source="input_ids")(batch_of(ROWS[::2], side="left", others=others))
    assert forced.labels.tolist() == [[-100, 4, 5], [6, 7, 8]]
    assert forced.decoder_input_ids.tolist() == [[PAD, 3, 4], [3, 6, 7]]
    assert forced["decoder_attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert "decoder_attention_mask" in list(forced)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), wider=st.integers(0, 2))
def test_decoder_inputs_are_those_of_t5(lengths: list[int], wider: int) -> None:
    """Slot by slot what T5 makes of the labels itself."""
    from transformers import T5Config, T5ForConditionalGeneration

    targets = random_rows(lengths)
    forced = TeacherForcing(3, source="input_ids")(batch_of(random_rows(lengths), wider=wider, others={"target_ids": targets}))
    assert forced.labels.equal(padded(targets, max(lengths) + wider, -100))
    model = T5ForConditionalGeneration.__new__(T5ForConditionalGeneration)
    torch.nn.Module.__init__(model)
    model.config = T5Config(decoder_start_token_id=3, pad_token_id=PAD)
    assert forced.decoder_input_ids.equal(model._shift_right(forced.labels))


def learn(model: Any, loss: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a loss."""
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_t5_learns_the_same_from_a_batch(layout: str, side: str) -> None:
    """Loss and gradients are those of the pairs one at a time, on whatever side padding is."""
    model = t5()
    sources, targets = random_rows([5, 2, 7, 1]), random_rows([3, 6, 1, 2], seed=1)
    batch = batch_of(sources, layout, side, others={"target_ids": targets}).renamed(input_ids="source_ids")
    forced = TeacherForcing(3)(batch)
    assert forced.num_label_tokens == 12
    loss = model(**forced).loss * forced.num_label_tokens
    pairs = zip(sources, targets, strict=True)
    alone = torch.stack([model(source[None], labels=target[None]).loss * len(target) for source, target in pairs]).sum()
    torch.testing.assert_close(loss, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(learn(model, loss), learn(model, alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_lengths_become_those_of_the_source(layout: str) -> None:
    """Also where the batch was planned by its target."""
    others = {"source_ids": [torch.tensor([4]), torch.tensor([5, 6, 7])]}
    batch = batch_of([torch.tensor([1, 2]), torch.tensor([3])], layout, others=others).renamed(input_ids="target_ids")
    forced = TeacherForcing(3)(batch)
    assert forced.lengths.tolist() == forced.layout.device_lengths.tolist() == [1, 3]
    assert forced.mask.int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert forced.flat().tolist() == [4, 5, 6, 7]
    assert forced.labels.tolist() == [[1, 2], [3, -100]]


def test_teacher_forcing_says_what_it_cannot_do() -> None:
    """Packed rows hold several sequences, and a batch has one column of a name."""
    with pytest.raises(ValueError, match=r"^TeacherForcing cannot take a batch of Pack, whose rows .* sequences; use Bucket$"):
        TeacherForcing(0)(packed_batch([ROWS[:1]], 5))
    batch = batch_of(ROWS, others={"source_ids": ROWS, "target_ids": ROWS})
    with pytest.raises(ValueError, match=r"^column 'input_ids' is there already; leave it out by without\('input_ids'\)$"):
        TeacherForcing(0)(batch)


def test_labelling_prints_what_it_is() -> None:
    """A loader prints what runs on its batches."""
    assert repr(CausalLabels()) == "CausalLabels(column='input_ids')"
    assert repr(TeacherForcing(3)) == "TeacherForcing(start_id=3, source='source_ids', target='target_ids')"


def take_on_ranks(on_batch: Any) -> list[Taken]:
    """Take all batches of two ranks, of rows of 1 to 7 ids."""

    def job(options: Options) -> Taken:
        rows = [[5] * (number % 7 + 1) for number in range(120)]
        return take(ss.Loader(ss.Generator(rows, block_bytes=64), ss.Bucket(40), on_batch=on_batch, accumulate=2, **options))

    return run_ranks(2, job)


def test_a_function_around_labels_passes_their_rule_on() -> None:
    """Two ranks count the labels of a function with a ``label_rule`` as those of what it calls, and drop the same rows."""
    plain, around = CausalLabels(), lambda batch: plain(batch).with_columns(scores=batch.weights)
    around.label_rule = plain.label_rule  # type: ignore[attr-defined]
    for own, other in zip(take_on_ranks(plain), take_on_ranks(around), strict=True):
        assert own.stats.rows_without_labels == other.stats.rows_without_labels > 0
        for name in ("num_label_tokens", "global_num_label_tokens", "step_num_label_tokens"):
            counts = [batch[name] for batch in own.batches]
            assert counts == [batch[name] for batch in other.batches]
            assert min(counts) > 0
    for at_once in zip(*(each.batches for each in take_on_ranks(around)), strict=True):
        assert at_once[0].global_num_label_tokens == sum(batch.num_label_tokens for batch in at_once)


def test_a_function_without_a_rule_is_named_with_the_remedy() -> None:
    """Counts that no rank can know raise an error that names the remedy; tokens are counted."""
    message = (
        r"num_label_tokens cannot be known for labels that on_batch adds without a label_rule, or draws at random; for a "
        r"function fn that calls ss\.CausalLabels\(\) set fn\.label_rule = ss\.CausalLabels\(\)\.label_rule, for others add up "
    )
    for taken in take_on_ranks(lambda batch: CausalLabels()(batch).without("scores")):
        for batch in taken.batches:
            assert batch.global_num_tokens > batch.num_label_tokens
            with pytest.raises(RuntimeError, match=f"^global_{message}"):
                _ = batch.global_num_label_tokens
            with pytest.raises(RuntimeError, match=f"^step_{message}"):
                _ = batch["step_num_label_tokens"]


def test_a_rule_of_the_data_is_an_empty_one() -> None:
    """A function that leaves the labels of the data as they are has ``ss.LabelRule()``, and they are counted."""

    def shift(batch: ss.Batch) -> ss.Batch:
        return batch.with_columns(input_ids=batch.input_ids + 1)

    shift.label_rule = ss.LabelRule()  # type: ignore[attr-defined]

    def job(options: Options) -> Taken:
        rows = [{"input_ids": [5] * (number % 7 + 1), "labels": [number % 7 + 1] * (number % 7 + 1)} for number in range(120)]
        return take(ss.Loader(ss.Generator(rows, block_bytes=64), ss.Bucket(40), on_batch=shift, **options))

    for at_once in zip(*(each.batches for each in run_ranks(2, job)), strict=True):
        assert at_once[0].global_num_label_tokens == sum(batch.num_label_tokens for batch in at_once) > 0


def test_a_rule_of_another_type_is_refused() -> None:
    """The class in place of its rule, or of the rule's value."""
    for rule, kind in ((CausalLabels, "CausalLabels"), (CausalLabels(), "CausalLabels"), ("input_ids", "str")):

        def on_batch(batch: ss.Batch) -> ss.Batch:
            return batch

        on_batch.label_rule = rule  # type: ignore[attr-defined]
        message = rf"^on_batch\.label_rule must be a LabelRule, got {kind}; set it to ss\.CausalLabels\(\)\.label_rule$"
        with pytest.raises(TypeError, match=message):
            ss.Loader(ss.Generator([[1, 2]]), ss.Bucket(10), on_batch=on_batch)
