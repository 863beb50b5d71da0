"""A text that a tokenizer cannot encode is named, with its record, in every row format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import seqstream as ss
from seqstream.records import RecordError
from seqstream.tokenizing.failing_texts import find_failing_text

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture
def words() -> Tokenizer:
    """A vocabulary of two words, whose unknown token is not in it."""
    tokenizer = Tokenizer(models.WordLevel({"it": 0, "rained": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_the_line_is_named(words: Tokenizer, tmp_path: Path) -> None:
    """One unknown word among a thousand lines: the error names the text and its line, and what to do."""
    (tmp_path / "a.txt").write_text("it rained\n" * 700 + "it snowed\n" + "it rained\n" * 300)
    loader = ss.Loader(ss.TextFiles(tmp_path / "a.txt"), ss.Tokenize(words, max_length=9), ss.Bucket(500))
    message = (
        r"^tokenizer WordLevel \(2, .*\) cannot encode 'it snowed': WordLevel error: .*; give the tokenizer an unknown token"
    )
    with pytest.raises(RecordError, match=message) as caught:
        list(loader)
    assert caught.value.__notes__[-1].endswith("a.txt, line 701")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "it"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({"field": "x"}, {"x": ["it", "rained"]}, {"x": ["it", "snowed"]}),
        ({"field": ("x", "y")}, {"x": "it", "y": "rained"}, {"x": "it", "y": "snowed"}),
        ({"field": ("x", "y")}, {"x": "it", "y": "rained"}, {"x": "snowed", "y": "it"}),
        ({"field": "x", "prompt": "y"}, {"x": "it", "y": "rained"}, {"x": "it", "y": "snowed"}),
        ({"field": "x", "chat": "all"}, {"x": chat("rained")}, {"x": chat("snowed")}),
        ({"field": "x", "chat": "assistant"}, {"x": chat("rained")}, {"x": chat("snowed")}),
    ],
    ids=["words", "second", "first", "prompt", "all", "assistant"],
)
def test_every_format_names_the_record(words: Tokenizer, options: Any, good: Any, bad: Any) -> None:
    """The record is found also where a row is made of several texts, or words are encoded once for all."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE)
    rows = [good] * 40 + [bad] + [good] * 7
    with pytest.raises(RecordError, match="cannot encode") as caught:
        list(ss.Loader(ss.Generator(rows), ss.Tokenize(tokenizer, max_length=9, **options), ss.Unbucketed(4), shuffle=False))
    assert caught.value.__notes__[-1] == "while reading item 40 of list"


def strict(texts: list[str]) -> list[list[int]]:
    return [[{"it": 0, "rained": 1}[word] for word in text.split()] for text in texts]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_keeps_its_error(workers: int) -> None:
    """What a user's function raises is not changed, and a note names the record, in a worker as well."""
    rows = ["it rained"] * 70 + ["it snowed"] + ["it rained"] * 7
    loader = ss.Loader(ss.Generator(rows), ss.Tokenize(strict, max_length=9), ss.Unbucketed(4), shuffle=False, workers=workers)
    with pytest.raises(KeyError, match="snowed") as caught:
        list(loader)
    assert "while reading item 70 of list" in caught.value.__notes__


@pytest.mark.parametrize(("bad", "expected"), [([5], 5), ([0], 0), ([9], 9), ([3, 7], 3), ([], None)])
def test_find_failing(bad: list[int], expected: int | None) -> None:
    """The first text for which a function raises is found by bisection; none if it encodes each text alone."""
    calls = []

    def encode(texts: list[str]) -> None:
        calls.append(len(texts))
        if any(int(text) in bad for text in texts) or len(texts) == 10:
            raise ValueError

    found = find_failing_text(encode, list(map(str, range(10))))
    assert (None if found is None else found[0]) == expected
    assert len(calls) <= 5
