"""On which side a loader pads: that of the tokenizer, unless an option sets it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

import seqstream as ss

TEXTS = ["to be", "or not to be", "that"]


def padded(tokenizer: Tokenizer, side: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", padding_side=side)


def batch_of(tokenize: ss.Tokenize, spec: Any = None, **options: Any) -> ss.Batch:
    (batch,) = ss.Loader(ss.Generator(TEXTS), tokenize, spec or ss.Unbucketed(3), shuffle=False, **options)
    return batch


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_loader_pads_where_the_tokenizer_does(wordpiece_tokenizer: Tokenizer, side: str) -> None:
    """The batch is what transformers pads, and an option of the loader is stronger."""
    tokenizer = padded(wordpiece_tokenizer, side)
    expected = tokenizer(TEXTS, padding=True, return_tensors="pt")
    batch = batch_of(ss.Tokenize(tokenizer, max_length=50))
    assert batch.padding_side == side
    assert batch.input_ids.equal(expected.input_ids)
    assert batch["attention_mask"].long().equal(expected.attention_mask)
    other = {"left": "right", "right": "left"}[side]
    assert batch_of(ss.Tokenize(tokenizer, max_length=50), padding_side=other).padding_side == other


def test_the_padding_of_a_raw_tokenizer(wordpiece_tokenizer: Tokenizer) -> None:
    """The side and the token are those of its own padding; without any it is the right."""
    tokenizer = Tokenizer.from_str(wordpiece_tokenizer.to_str())
    assert batch_of(ss.Tokenize(tokenizer, max_length=50)).padding_side == "right"
    tokenizer.enable_padding(direction="left", pad_id=7)
    batch = batch_of(ss.Tokenize(tokenizer, max_length=50))
    assert batch.input_ids.tolist() == [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]


def test_pack_has_its_own(wordpiece_tokenizer: Tokenizer) -> None:
    """`Pack` pads at the end of a row, whatever the side of the tokenizer."""
    tokenize = ss.Tokenize(padded(wordpiece_tokenizer, "left"), max_length=50)
    batch = batch_of(tokenize, ss.Pack(64, rows=1))
    assert batch.padding_side == "right"
    assert batch.input_ids[0, 0] == wordpiece_tokenizer.token_to_id("[CLS]")
    assert batch.input_ids[0, -1] == wordpiece_tokenizer.token_to_id("[PAD]")


def test_tokenizers_that_disagree(wordpiece_tokenizer: Tokenizer) -> None:
    """There is one side for all columns: a warning names it and the option that ends the warning."""
    given = {name: padded(wordpiece_tokenizer, name) for name in ("left", "right")}
    rows = ss.Generator([{"left": text, "right": text} for text in TEXTS])
    tokenize = ss.Tokenize(given, max_length=50)
    with pytest.warns(
        UserWarning, match=r"^tokenizers pad on different sides, .*, set Loader\(padding_side=\.\.\.\) to choose$"
    ):
        assert next(iter(ss.Loader(rows, tokenize, ss.Unbucketed(3)))).padding_side == "right"
    assert next(iter(ss.Loader(rows, tokenize, ss.Unbucketed(3), padding_side="left"))).padding_side == "left"
