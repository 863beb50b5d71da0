"""`Batch.part` and `Batch.flatten`: one of several texts of each record as a batch that models take."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from tests.helpers.batches import padded

WORDS = ["import", "path", "name", "value", "of", "the", "file", "and", "return", "it", "or", "raise", "an", "error"]


def texts(number: int, num: int, longest: int = 9) -> list[str]:
    return [" ".join(WORDS[(number + 3 * each) % 5 :][: 1 + (7 * number + 5 * each) % longest]) for each in range(num)]


def questions(num: int = 60, *, is_ragged: bool = True) -> list[dict[str, Any]]:
    """Questions with choices, two answers of different worth, and the number of the right choice."""
    return [
        {
            "query": texts(number, 1)[0],
            "choices": texts(number, 2 + number % 3 if is_ragged else 4),
            "chosen": texts(number + 1, 1)[0],
            "rejected": texts(number + 2, 1, 13)[0],
            "label": number % 2,
        }
        for number in range(num)
    ]


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_flatten_has_a_row_for_each_text(wordpiece_tokenizer: Tokenizer, layout: str, side: str) -> None:
    """Ids, masks and lengths are those of the tokenizer, in the order of records and texts; missing texts weigh 0."""
    rows = questions()
    tokenize = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"], max_length=8)
    for batch in ss.Loader(ss.Generator(rows), tokenize, ss.Bucket(700), layout=layout, padding_side=side):
        flat = batch.flatten("choices")
        records = [rows[row_id] for row_id in batch.row_ids.tolist()]
        most = max(len(record["choices"]) for record in records)
        assert flat.row_ids.tolist() == [row_id for row_id in batch.row_ids.tolist() for _ in range(most)]
        assert flat.pieces.view(-1, most).tolist() == [list(range(most))] * len(records)
        real = flat.weights.view(-1, most)
        assert real.sum(1).tolist() == [len(record["choices"]) for record in records]
        ids = [wordpiece_tokenizer.encode(text).ids for record in records for text in record["choices"]]
        ids = [own if len(own) <= 8 else [*own[:7], own[-1]] for own in ids]
        assert torch.equal(flat.input_ids[flat.weights == 1], padded([torch.tensor(own) for own in ids], side=side))
        assert flat.lengths[flat.weights == 1].tolist() == [len(own) for own in ids]
        assert flat.lengths[flat.weights == 0].eq(1).all()
        assert torch.equal(flat.mask.sum(1), flat.lengths)
        assert (flat.num_tokens, flat.num_slots) == (sum(map(len, ids)), flat.input_ids.numel())
        assert [*flat] == ["input_ids", "attention_mask"]
        assert (slots := flat.num_slots + batch.query_ids.numel()) <= 700
        assert batch.num_slots == (slots if layout == "padded" else batch.num_tokens)
        assert batch.flatten("choices_ids", multiple_of=8).input_ids.shape[1] % 8 == 0


def test_models_take_flat_choices(wordpiece_tokenizer: Tokenizer) -> None:
    """A multiple-choice model of transformers has the same logits for a row as for its texts alone."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=600, num_labels=1, **sizes)
    model = BertForSequenceClassification(config).eval()
    rows = questions(8, is_ragged=False)
    (batch,) = ss.Loader(
        ss.Generator(rows), ss.Tokenize(wordpiece_tokenizer, field=["choices"]), ss.Unbucketed(8), shuffle=False
    )
    with torch.no_grad():
        logits = model(**batch.flatten("choices")).logits.view(batch.num_rows, -1)
        alone = [model(torch.tensor([wordpiece_tokenizer.encode(text).ids])).logits for text in rows[3]["choices"]]
    assert logits.shape == (8, 4)
    torch.testing.assert_close(logits[3], torch.cat(alone).view(-1))
    assert torch.nn.functional.cross_entropy(logits, batch.label).isfinite()


def test_part_is_one_text_of_each_record(bpe_tokenizer: Tokenizer) -> None:
    """Chosen and rejected answers have ids, labels, lengths and counts of their own, as a loader of one of them has."""
    rows = questions()
    source, options = ss.Generator(rows), {"prompt": "query", "max_length": 20}
    loader = ss.Loader(
        source, ss.Tokenize(bpe_tokenizer, field=["chosen", "rejected"], **options), ss.Unbucketed(7), shuffle=False
    )
    ones = [
        ss.Loader(source, ss.Tokenize(bpe_tokenizer, field=name, **options), ss.Unbucketed(7), shuffle=False)
        for name in ("chosen", "rejected")
    ]
    for batch, chosen, rejected in zip(loader, *ones, strict=True):
        for name, expected in (("chosen", chosen), ("rejected", rejected)):
            part = batch.part(name)
            assert [*part] == ["input_ids", "labels", "attention_mask"]
            for column in ("input_ids", "labels", "mask", "lengths", "row_ids"):
                assert torch.equal(part[column], expected[column]), column
            for number in ("num_tokens", "num_slots", "num_label_tokens", "global_num_label_tokens"):
                assert getattr(part, number) == getattr(expected, number), number
            flat = batch.flatten(name)
            assert torch.equal(flat.input_ids, part.input_ids)
            assert torch.equal(flat.labels, part.labels)
            assert torch.equal(part.packed_sequence().data, expected.packed_sequence().data)


def test_a_part_keeps_what_a_record_has_once(wordpiece_tokenizer: Tokenizer) -> None:
    """A class of the record is the label of a part without labels; a source and a target of a dict are parts as well."""
    rows = questions(5)
    for tokenize in (
        ss.Tokenize({"query": wordpiece_tokenizer, "chosen": wordpiece_tokenizer}),
        ss.Tokenize(wordpiece_tokenizer, field=["query", "chosen"]),
    ):
        (batch,) = ss.Loader(ss.Generator(rows), tokenize, ss.Unbucketed(5), shuffle=False)
        part = batch.part("query")
        assert {*part} == {"input_ids", "labels", "attention_mask"}
        assert part.labels.tolist() == [0, 1, 0, 1, 0]
        assert torch.equal(part.input_ids, batch.query_ids)


def test_texts_that_are_not_there(wordpiece_tokenizer: Tokenizer) -> None:
    """The error names the texts of a row."""
    stages = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"]), ss.Unbucketed(5)
    (batch,) = ss.Loader(ss.Generator(questions(5)), *stages)
    with pytest.raises(ValueError, match=r"^name must be one of the texts of a row \(query, choices\), got 'answer'$"):
        batch.part("answer")
    with pytest.raises(ValueError, match=r"^part\('choices'\) cannot be one text of each row, which has several; use flatten"):
        batch.part("choices")
    (packed,) = ss.Loader(ss.Generator([[1, 2], [3]]), ss.Pack(8, rows=1, causal=False))
    with pytest.raises(ValueError, match=r"^texts of a batch of Pack cannot be taken apart"):
        packed.flatten("input_ids")


LAWS: dict[str, tuple[dict[str, Any], Any]] = {
    "choices": ({"field": ["query", "choices"], "max_length": 8}, ss.Bucket(300, window_batches=3)),
    "answers": ({"field": ["chosen", "rejected"], "prompt": "query", "max_length": 9}, ss.Bucket(160, window_batches=3)),
    "groups": (
        {"field": ["choices"], "prompt": "query", "max_length": 12},
        ss.Bucket(400, window_batches=3, multiple_of=4, group="label"),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_of_several_texts(name: str, tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """The laws hold for records of several texts, in one process, on ranks, in workers and from the cache."""
    options, spec = LAWS[name]
    source = ss.Generator(questions(), block_bytes=1500)
    make = functools.partial(ss.Loader, source, ss.Tokenize(wordpiece_tokenizer, **options), spec)
    testing.check_loader(make)
    testing.check_ranks(make, 2)
    testing.check_elastic(make, (2, 3))
    loader = make()
    expected = [batch.row_ids.tolist() for batch in loader]
    assert loader.count_steps() == len(expected)
    if name == "choices":
        for more in ({"num_workers": 1}, {"cache": tmp_path}, {"cache": tmp_path}):
            assert [batch.row_ids.tolist() for batch in make(**more)] == expected, more


def test_texts_that_are_too_long_together(wordpiece_tokenizer: Tokenizer) -> None:
    """The error counts the texts of the record, and names it."""
    tokenize = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"], max_length=8)
    message = r"^sequences of \d and 4 x 8 tokens cannot fit max_tokens=30 together; raise max_tokens or set Tokenize"
    with pytest.raises(ValueError, match=message) as caught:
        list(ss.Loader(ss.Generator(questions()), tokenize, ss.Bucket(30)))
    assert caught.value.__notes__[0].startswith("while reading item ")


def test_answers_without_labels_are_dropped(bpe_tokenizer: Tokenizer) -> None:
    """A record one of whose answers is cut off as a whole is dropped and counted."""
    rows = [{"query": "a b c d", "chosen": "x", "rejected": "y"}, {"query": "a", "chosen": "x", "rejected": "y"}]
    tokenize = ss.Tokenize(bpe_tokenizer, field=["chosen", "rejected"], prompt="query", max_length=3)
    loader = ss.Loader(ss.Generator(rows), tokenize, ss.Bucket(100))
    assert [batch.row_ids.tolist() for batch in loader] == [[1]]
    assert loader.stats.rows_without_labels == 1


def test_the_largest_batch_has_texts(wordpiece_tokenizer: Tokenizer) -> None:
    """The batch that needs the most memory can be taken apart as others can, within the budget."""
    tokenize = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"], max_length=8)
    batch = ss.Loader(ss.Generator(questions()), tokenize, ss.Bucket(160)).worst_batch()
    assert batch.flatten("choices").input_ids.shape == batch.part("query").input_ids.shape == (10, 8)


def test_texts_that_were_written(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Tokens that were written are planned, batched and taken apart as those that are made on the fly."""
    tokenize, spec = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"], max_length=8), ss.Bucket(300)
    source = ss.Generator(questions())
    ss.write_tokens(source, tokenize, to=tmp_path / "tokens", progress=False)
    expected = [wordpiece_tokenizer.encode(text).ids for row in questions() for text in row["choices"]]
    expected = [ids if len(ids) <= 8 else [*ids[:7], ids[-1]] for ids in expected]
    for loader in (ss.Loader(source, tokenize, spec), ss.Loader(ss.TokenFiles(tmp_path / "tokens"), spec)):
        found = []
        for batch in loader:
            assert batch.num_slots <= 300
            flat = batch.flatten("choices")
            found += [
                ids[mask].tolist() for ids, mask, real in zip(flat.input_ids, flat.mask, flat.weights, strict=True) if real
            ]
        assert sorted(found) == sorted(expected)


def test_mixtures_of_several_texts(wordpiece_tokenizer: Tokenizer) -> None:
    """Sources give their shares of tokens, of all texts together."""
    tokenize = ss.Tokenize(wordpiece_tokenizer, field=["query", "choices"], max_length=8)
    rows = questions()
    sources = {"a": ss.Generator(rows[:25], block_bytes=1500), "b": ss.Generator(rows[25:], block_bytes=1500)}
    mixture = ss.Mixture(sources, {"a": 1, "b": 2})
    testing.check_mixture(functools.partial(ss.Loader, mixture, tokenize, ss.Bucket(400, window_batches=3)))
