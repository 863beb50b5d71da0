"""Options of `Tokenize` that can be combined or not, and the end of rows."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from seqstream.tokenizing import engine_choice
from seqstream.tokenizing.engines import Engine, EngineWarning
from seqstream.tokenizing.stage import Tokenize
from tests.helpers.tokenizers import columns_of, run, transformers_of

END = "<|endoftext|>"


def lengths_of(texts: list[str]) -> list[list[int]]:
    return [[len(word) for word in text.split()] for text in texts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"field": ("a", "b"), "prompt": "c"},
            r"^field=\('a', 'b'\) cannot be given with prompt='c', for a row has one format; leave one of them out$",
        ),
        ({"prompt": "c", "labels": "d"}, r"^prompt='c' cannot be given with labels='d', for a row has one format"),
        ({"labels": "d", "chat": "all"}, r"^labels='d' cannot be given with chat='all', for a row has one format"),
        ({"word_ids": True, "chat": "all"}, r"^word_ids=True cannot be given with chat='all', it needs one field of lists"),
        ({"word_labels": "all"}, r"^word_labels='all' needs a column of labels; set Tokenize\(labels=...\)$"),
        ({"word_labels": "last", "labels": "d"}, r"^word_labels must be one of 'first', 'all', got 'last'$"),
        ({"chat": True}, r"^chat must be one of None, 'assistant', 'all', got True$"),
        (
            {"field": ("a", "b"), "max_length": 9, "overflow": "split"},
            r"^overflow='split' cannot cut rows of field=\('a', 'b'\); use 'truncate', 'drop' or 'error'$",
        ),
        ({"prompt": "c", "max_length": 9, "overflow": "split"}, r"^overflow='split' cannot cut rows of prompt='c'; use 'trunc"),
        ({"chat": "all", "end": 0}, r"^end=0 cannot be given with chat='all', whose template ends each turn; leave it out$"),
        (
            {"chat": "all", "special_tokens": False},
            r"^special_tokens=False cannot be given with chat='all', whose template puts them; leave it out$",
        ),
        ({"end": "</nope>"}, r"^end must be a token or an id in the vocabulary of tokenizer BPE \(600, .*\), got '</nope>'$"),
        ({"end": 600}, r"^end must be a token or an id in the vocabulary of tokenizer BPE \(600, .*\), got 600$"),
        ({"end": -1}, r"^end must be a token or its id, from 0 up and below 2\*\*31, got -1$"),
        ({"end": END, "max_length": 1}, r"^max_length must be more than the 1 special tokens of tokenizer BPE .*, got 1$"),
    ],
)
def test_options_that_do_not_go_together(bpe_tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    """Options that cannot be combined are refused by the constructor, which names them as the user wrote them."""
    with pytest.raises(ValueError, match=message):
        Tokenize(bpe_tokenizer, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": ("a", "b", "c")}, r"^field must be the name of a column, a tuple of two or a list, got \('a', 'b', 'c'\)$"),
        ({"field": ("a", 1)}, r"^field must be the name of a column, a tuple of two or a list, got \('a', 1\)$"),
        ({"prompt": 3}, r"^prompt must be the name of a column, got 3$"),
        ({"labels": ["d"]}, r"^labels must be the name of a column, got \['d'\]$"),
        ({"end": True}, r"^end must be a token or its id, got True$"),
        ({"end": 0.5}, r"^end must be a token or its id, got 0.5$"),
    ],
)
def test_options_of_the_wrong_type(bpe_tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    """Names of columns are strings, and an end is a string or an id."""
    with pytest.raises(TypeError, match=message):
        Tokenize(bpe_tokenizer, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": ("a", "b")}, r"^field=\('a', 'b'\) cannot be given with a dict of tokenizers, whose keys are the fields$"),
        ({"prompt": "c"}, r"^prompt='c' cannot be given with a dict of tokenizers, which makes a row of each field$"),
        ({"labels": "d"}, r"^labels='d' cannot be given with a dict of tokenizers"),
        ({"word_ids": True}, r"^word_ids=True cannot be given with a dict of tokenizers, it needs one field"),
        ({"chat": "all"}, r"^chat='all' cannot be given with a dict of tokenizers"),
    ],
)
def test_a_dict_of_tokenizers_makes_plain_rows(bpe_tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    """Several columns of ids are of one text each."""
    with pytest.raises(ValueError, match=message):
        Tokenize({"a": bpe_tokenizer, "b": bpe_tokenizer}, **options)


@pytest.mark.parametrize("options", [{"field": ("a", "b")}, {"prompt": "c"}, {"labels": "d"}, {"chat": "all"}], ids=str)
def test_functions_make_plain_rows(options: dict[str, Any]) -> None:
    """The special tokens of a tokenizer written in Python are not known, so texts cannot be joined."""
    with pytest.raises(
        ValueError, match=r" cannot be used with the tokenizer .*lengths_of written in Python; pass a tokenizers.Tok"
    ):
        Tokenize(lengths_of, **options)


def test_the_plain_format_adds_nothing(bpe_tokenizer: Tokenizer) -> None:
    """Without options of a row format none is printed or in the fingerprint."""
    stage = Tokenize(bpe_tokenizer)
    assert set(stage.fingerprint()) == {"kind", "tokenizers", "max_length", "overflow", "empty", "special_tokens"}
    assert repr(stage).startswith("Tokenize(BPE (600, ")
    assert repr(stage).endswith("…))")


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("abc de\né", max_size=60), min_size=1, max_size=9), limit=st.integers(2, 20), left=st.booleans())
def test_an_end_closes_each_row(bpe_tokenizer: Tokenizer, texts: list[str], limit: int, left: bool) -> None:
    """The end follows the part of the text that fits, whichever side is cut."""
    theirs = transformers_of(bpe_tokenizer, truncation_side="left" if left else "right")
    expected = [[*ids, 0] for ids in theirs(texts, truncation=True, max_length=limit - 1)["input_ids"]]
    assert columns_of(Tokenize(theirs, end=END, max_length=limit, empty="keep"), text=texts) == {"input_ids": expected}


def test_the_end_of_a_text_is_on_its_last_piece(bpe_tokenizer: Tokenizer) -> None:
    """Only the last piece of a text has the end, even if it has no other token."""
    a = bpe_tokenizer.token_to_id("a")
    stage = Tokenize(bpe_tokenizer, field="w", end=END, max_length=3, overflow="split")
    ((made,), counts) = run(stage, pa.table({"w": [["a"] * 4, ["a"] * 2, ["a"] * 3], "row_id": [0, 1, 2]}))
    assert made["input_ids"].to_pylist() == [[a, a, a], [a, 0], [a, a, 0], [a, a, a], [0]]
    assert made["piece"].to_pylist() == [0, 1, 0, 0, 1]
    assert counts == {"split": 2}


def test_an_end_counts_as_no_text(bpe_tokenizer: Tokenizer) -> None:
    """A record without own tokens is empty, and kept with empty='keep'; the end counts in the length."""
    texts = pa.table({"text": ["", "aaaa", "aa"], "row_id": [0, 1, 2]})
    size = len(bpe_tokenizer.encode("aaaa"))
    ((made,), counts) = run(Tokenize(bpe_tokenizer, end=0, max_length=size, overflow="drop"), texts)
    assert made["row_id"].to_pylist() == [2]
    assert counts == {"empty": 1, "dropped": 1}
    ((made,), counts) = run(Tokenize(bpe_tokenizer, end=0, empty="keep"), texts)
    assert made["input_ids"].to_pylist()[0] == [0]
    assert made["input_ids"].type == pa.list_(pa.int32())


def test_an_end_by_name_and_by_id_is_one(bpe_tokenizer: Tokenizer) -> None:
    """A token and its id decide the same ids, no end decides others; each column of several has its own."""
    by_name, by_id = (Tokenize(bpe_tokenizer, end=end) for end in (END, 0))
    assert by_name.fingerprint() == by_id.fingerprint() != Tokenize(bpe_tokenizer).fingerprint()
    assert repr(by_name).endswith("…), end='<|endoftext|>')")
    both = Tokenize({"a": bpe_tokenizer, "b": bpe_tokenizer}, end=END)
    ((made,), _) = run(both, pa.table({"a": ["x"], "b": ["y"], "row_id": [0]}))
    assert [made[column][0].as_py()[-1] for column in ("a_ids", "b_ids")] == [0, 0]


def test_a_function_takes_an_end_by_its_id() -> None:
    """A tokenizer written in Python has no vocabulary to look in."""
    stage = Tokenize(lengths_of, end=99, max_length=3)
    ((made,), _) = run(stage, pa.table({"text": ["a bb ccc"], "row_id": [0]}))
    assert made["input_ids"].to_pylist() == [[1, 2, 99]]
    with pytest.raises(
        ValueError, match=r"^end must be an id from 0 up for the tokenizer .*lengths_of written in Python, got 'x'$"
    ):
        Tokenize(lengths_of, end="x")


def test_an_end_that_is_there_already_is_refused(wordpiece_tokenizer: Tokenizer) -> None:
    """An end that the tokenizer puts already is refused, and so is one for pieces that end with special tokens."""
    message = r"^end='\[SEP\]' cannot be put after texts, where tokenizer WordPiece .* puts it already; leave it out$"
    with pytest.raises(ValueError, match=message):
        Tokenize(wordpiece_tokenizer, end="[SEP]")
    message = (
        r"^end='\[PAD\]' cannot be given with overflow='split': pieces of a text end with the 1 special tokens of tokenizer W"
    )
    with pytest.raises(ValueError, match=message):
        Tokenize(wordpiece_tokenizer, end="[PAD]", max_length=9, overflow="split")
    made = columns_of(Tokenize(wordpiece_tokenizer, end="[PAD]"), text=["a"])
    assert made["input_ids"][0][-2:] == [3, 0]


def test_words_need_no_option(bpe_tokenizer: Tokenizer, wordpiece_tokenizer: Tokenizer) -> None:
    """A column of words is known by its type, with a dict of tokenizers too, and after a block without rows."""
    both = Tokenize({"a": bpe_tokenizer, "b": wordpiece_tokenizer})
    records = pa.table({"a": ["x y"], "b": [["x", "y"]], "row_id": [0]})
    ((_, made), _) = run(both, records.slice(1), records)
    assert made["a_ids"].to_pylist() == [bpe_tokenizer.encode("x y").ids]
    assert made["b_ids"].to_pylist() == [wordpiece_tokenizer.encode(["x", "y"], is_pretokenized=True).ids]


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({"field": ("x", "y")}, {"x": ["an oddity"], "y": ["b"]}),
        ({"field": "x", "prompt": "y"}, {"x": ["b"], "y": ["an oddity"]}),
        ({"field": "x"}, {"x": [["an", "oddity"]]}),
        ({"field": "x", "labels": "y"}, {"x": [["an", "oddity"]], "y": [[1, 2]]}),
        ({"field": "x", "chat": "all"}, {"x": [[{"role": "user", "content": "oddity"}]]}),
        ({"field": "x", "chat": "assistant"}, {"x": [[{"role": "user", "content": "oddity"}]]}),
    ],
    ids=["pair", "prompt", "words", "labels", "all", "assistant"],
)
def test_the_sample_of_every_format_is_compared(
    bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], columns: dict[str, Any]
) -> None:
    """A fast engine that errs only on a text of the data is found, since the engines encode the texts of each format."""

    class Odd(Engine):
        def encode(self, texts: list[str]) -> Any:
            odd = self.name == "fastokens"
            return super().encode([text.replace("oddity", "odd") for text in texts] if odd else texts)

    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    stage = Tokenize(transformers_of(bpe_tokenizer, chat_template=template), **options)
    monkeypatch.setattr(engine_choice, "Engine", Odd)
    monkeypatch.setattr(engine_choice, "comparison_of", engine_choice.EngineComparison)
    assert stage.choose_engines() == {"input_ids": "fastokens"}
    with pytest.warns(EngineWarning, match=r"^engine fastokens gives other ids than tokenizers for '.*oddity'"):
        assert stage.choose_engines(pa.table(columns)) == {"input_ids": "tokenizers"}


def test_a_tokenizer_whose_post_processor_an_engine_lacks(roberta_tokenizer: Tokenizer) -> None:
    """RoBERTa's special tokens are put around the ids of the fast engine, which lacks the post-processor."""
    texts = ["a b", "", "<s>c</s>"]
    stage = pickle.loads(pickle.dumps(Tokenize(roberta_tokenizer, empty="keep")))
    assert stage.choose_engines(pa.table({"text": texts})) == {"input_ids": "fastokens"}
    assert columns_of(stage, text=texts)["input_ids"] == [encoding.ids for encoding in roberta_tokenizer.encode_batch(texts)]
