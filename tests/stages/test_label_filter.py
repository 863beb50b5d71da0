"""Rows without any label are dropped and counted, so that every batch has a loss."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.planning.unbucketed import Unbucketed
from seqstream.stages.label_filter import LabelFilter
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.tokenizers import transformers_of

CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def labels_in(loader: ss.Loader) -> list[int]:
    """Return how many labels each batch has."""
    return [batch.num_label_tokens for batch in loader]


@pytest.mark.parametrize("overflow", ["truncate", "drop"])
@pytest.mark.parametrize("end", [None, "<|endoftext|>"])
def test_a_prompt_that_fills_the_row(bpe_tokenizer: Tokenizer, end: str | None, overflow: Any) -> None:
    """A record whose completion is cut off is dropped and counted; the end of a completion that is cut in part has no label."""
    rows = [{"x": "abc de " * 9, "y": "bb"}, {"x": "a", "y": "b"}, {"x": "a", "y": "b c " * 9}]
    tokenize = ss.Tokenize(bpe_tokenizer, field="y", prompt="x", end=end, max_length=8, overflow=overflow)
    loader = ss.Loader(ss.Generator(rows), tokenize, ss.Unbucketed(1), shuffle=False)
    batches = list(loader)
    if overflow == "drop":
        assert (len(batches), loader.stats.dropped, loader.stats.rows_without_labels) == (1, 2, 0)
        return
    assert [batch.row_ids.tolist() for batch in batches] == [[1], [2]]
    assert (loader.stats.rows_without_labels, loader.stats.dropped, loader.stats.truncated) == (1, 1, 2)
    assert "1 rows without labels" in str(loader.stats)
    if end is not None:
        assert batches[0].labels[0, -1] == batches[0].input_ids[0, -1] == bpe_tokenizer.token_to_id(end)
        assert batches[1].input_ids[0, -1] == bpe_tokenizer.token_to_id(end)
        assert batches[1].labels[0, -1] == -100, "the text does not end where it was cut"


def test_a_chat_without_an_answer(bpe_tokenizer: Tokenizer) -> None:
    """Chats without an answer of the assistant, or whose answer was cut off, are dropped and counted."""
    theirs = transformers_of(bpe_tokenizer, chat_template=CHATML)
    question, answer = {"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}
    rows = [{"m": chat} for chat in ([question], [{**question, "content": "abc " * 50}, answer], [question, answer])]
    tokenize = ss.Tokenize(theirs, field="m", chat="assistant", max_length=40)
    loader = ss.Loader(ss.Generator(rows), tokenize, ss.Unbucketed(1), shuffle=False)
    assert [batch.row_ids.item() for batch in loader] == [2]
    assert (loader.stats.rows_without_labels, loader.stats.dropped) == (2, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_pieces_without_labels(bpe_tokenizer: Tokenizer, workers: int) -> None:
    """Of a chat that is split the pieces without an answer are dropped; their count is the same for any num_workers."""
    theirs = transformers_of(bpe_tokenizer, chat_template=CHATML)
    chat = [{"role": "user", "content": "a b c d e " * 20}, {"role": "assistant", "content": "de"}]
    tokenize = ss.Tokenize(theirs, field="m", chat="assistant", max_length=16, overflow="split")
    loader = ss.Loader(ss.Generator([{"m": chat}] * 5), tokenize, ss.Unbucketed(1), workers=workers)
    counts = labels_in(loader)
    assert len(counts) >= 5
    assert min(counts) > 0
    assert loader.stats.rows_without_labels >= 5 * 3
    assert loader.stats.split == 5


def test_labels_that_the_data_has() -> None:
    """Rows whose labels are all -100 are dropped, lists and single numbers; floats, other columns and nulls have no effect."""
    rows = [{"input_ids": [1, 2], "labels": [-100, -100], "n": -100}, {"input_ids": [3, 4], "labels": [-100, 7], "n": 1}]
    loader = ss.Loader(ss.Generator(rows), ss.Unbucketed(4))
    (batch,) = loader
    assert batch.labels.tolist() == [[-100, 7]]
    assert loader.stats.rows_without_labels == 1
    single = [{"text": "a", "label": value} for value in (-100, 0, 1)]
    loader = ss.Loader(ss.Generator(single), ss.Tokenize(lambda texts: [[1]] * len(texts)), ss.Unbucketed(4), shuffle=False)
    assert next(iter(loader)).label.tolist() == [0, 1]
    table = pa.table({"input_ids": [[1]], "label": [-100.0]})
    assert LabelFilter().apply(table) == (table, {})


def test_nothing_left_is_an_error() -> None:
    """If no row has a label the error says so."""
    loader = ss.Loader(ss.Generator([{"input_ids": [1, 2], "labels": [-100, -100]}]), ss.Unbucketed(1))
    with pytest.raises(ValueError, match=r"1 were dropped \(1 of them without any label\)"):
        next(iter(loader))


def test_one_token_predicts_nothing() -> None:
    """`CausalLabels` and `Pack` have no label for a row of one token; a batch of such rows alone would have no loss."""
    rows = [{"input_ids": ids} for ids in ([1], [2, 3], [4], [5], [6, 7, 8])]
    for stage, on_batch in ((ss.Bucket(batch_size=1), ss.CausalLabels()), (ss.Pack(3, rows=1), None)):
        loader = ss.Loader(ss.Generator(rows), stage, on_batch=on_batch)
        assert min(labels_in(loader)) > 0
        assert loader.stats.rows_without_labels == 3
    assert len(list(ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=1)))) == 5
    assert sum(batch.num_rows for batch in ss.Loader(ss.Generator(rows), ss.Unbucketed(1), on_batch=lambda batch: batch)) == 5


@pytest.mark.parametrize("overflow", ["truncate", "split"])
def test_pack_cuts_labels_off(overflow: Any) -> None:
    """Of a sequence longer than a row only the part with labels is packed: a worked example with rows of 4."""
    labels = [[-100] * 4 + [-100, 1, 2, -100] + [-100] * 4 + [-100, 3], [-100, 5, -100]]
    rows = [{"input_ids": list(range(10, 10 + len(own))), "labels": own} for own in labels]
    loader = ss.Loader(ss.Generator(rows), ss.Pack(4, rows=1, overflow=overflow), shuffle=False)
    batches = list(loader)
    found = sorted(label for batch in batches for label in batch.labels[batch.labels != -100].tolist())
    if overflow == "truncate":
        assert found == [5]
        assert loader.stats.rows_without_labels == 1
        return
    assert found == [1, 2, 3, 5]
    assert min(batch.num_label_tokens for batch in batches) > 0
    assert loader.stats.rows_without_labels == 2
    ids = sorted(number for batch in batches for number in batch.input_ids[batch.mask].tolist())
    assert ids == sorted([14, 15, 16, 17, 22, 23, 10, 11, 12])


def test_the_stream_goes_on(bpe_tokenizer: Tokenizer) -> None:
    """At every batch, with workers or without, a resumed run serves what an unbroken one does."""
    rows = [{"x": "abc " * (number % 7 * 4), "y": "de"} for number in range(60)]
    tokenize = ss.Tokenize(bpe_tokenizer, field="y", prompt="x", max_length=16)

    def make(workers: int = 0) -> ss.Loader:
        return ss.Loader(ss.Generator(rows, block_bytes=200), tokenize, ss.Bucket(batch_size=4), workers=workers)

    whole = list(make())
    assert sum(batch.num_rows for batch in whole) < 60
    for at in range(0, len(whole), 3):
        loader = make(at % 2)
        loader.load_state_dict(whole[at].state)
        rest = list(loader)
        assert [batch.row_ids.tolist() for batch in rest] == [batch.row_ids.tolist() for batch in whole[at + 1 :]]


def test_another_rule_is_another_stream() -> None:
    """A state cannot be loaded with another rule of labels, since the rule decides which rows are dropped."""
    rows = [{"input_ids": [1] * (1 + number % 3)} for number in range(12)]
    loader = ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=2), on_batch=ss.CausalLabels())
    state = next(iter(loader)).state
    with pytest.raises(ValueError, match="labels"):
        ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=2)).load_state_dict(state)


@pytest.mark.parametrize("spec", [Unbucketed(1), ss.Pack(8, rows=1), ss.Pack(8, rows=1, causal=False)])
def test_masked_rows_of_special_tokens(wordpiece_tokenizer: Tokenizer, spec: Any) -> None:
    """A row in which nothing can be masked is dropped; every batch has a label, whatever is drawn."""
    rows = [{"input_ids": ids} for ids in [[2, 3], [2, 1, 3], *([2, 7 + number, 3] for number in range(40))]]
    loader = ss.Loader(ss.Generator(rows), spec, on_batch=ss.MaskTokens(wordpiece_tokenizer))
    assert min(labels_in(loader)) > 0
    assert loader.stats.rows_without_labels == 2


def test_one_of_a_row_is_chosen_evenly(wordpiece_tokenizer: Tokenizer) -> None:
    """If no token of a row is drawn, one is chosen with equal probability, and masked with the same probability as others."""
    ids = torch.arange(5, 9).repeat(4000, 1)
    rows = [{"input_ids": row.tolist()} for row in ids]
    (batch,) = ss.Loader(ss.Generator(rows), ss.Unbucketed(4000), on_batch=ss.MaskTokens(wordpiece_tokenizer))
    chosen = batch.labels != -100
    assert chosen.any(dim=1).all()
    alone = (1 - 0.15) ** 4
    assert chosen.float().mean(dim=0).tolist() == pytest.approx([0.15 + alone / 4] * 4, abs=0.02)
    masks = batch.input_ids[chosen] == wordpiece_tokenizer.token_to_id("[MASK]")
    assert masks.float().mean().item() == pytest.approx(0.8, abs=0.02)


def test_ranks_count_alike() -> None:
    """Two ranks together drop and count the rows that one process drops, and each step has a label."""
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, -100, 4 if number % 3 else -100]} for number in range(60)]

    def serve(options: Options) -> tuple[list[int], int]:
        loader = ss.Loader(ss.Generator(rows), ss.Bucket(batch_size=4), **options)
        return [batch.global_num_label_tokens for batch in loader], loader.stats.rows_without_labels

    found = run_ranks(2, serve)
    assert [counts for counts, _ in found] == [[8] * 5] * 2
    assert sum(dropped for _, dropped in found) == 20
