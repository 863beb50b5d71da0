"""Two texts in one row: the ids of transformers for ``tokenizer(first, second)``."""

from __future__ import annotations

import csv
import gzip
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from seqstream.records import RecordError
from seqstream.tokenizing.stage import Tokenize
from seqstream.tokenizing.token_rows import longest_first
from tests.helpers.tokenizers import columns_of, run, transformers_of

TEXTS = st.text("abc de\n[SEP]é", max_size=40)
FIELDS = ("premise", "hypothesis")


def expected_of(theirs: Any, pairs: list[tuple[str, str]], **kwargs: Any) -> dict[str, Any]:
    first, second = map(list, zip(*pairs, strict=True))
    made = theirs(first, second, return_token_type_ids=True, **kwargs)
    return {name: made[name] for name in ("input_ids", "token_type_ids")}


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=9),
    cut=st.tuples(st.integers(5, 24) | st.just(1000), st.booleans(), st.booleans()),
)
def test_pairs_are_those_of_transformers(
    tokenizer: Tokenizer, engine: Any, pairs: list[tuple[str, str]], cut: tuple[int, bool, bool]
) -> None:
    """Ids and types are those of transformers, whole and truncated, on either side, with special tokens and without."""
    limit, left, special = cut
    theirs = transformers_of(tokenizer, truncation_side="left" if left else "right")
    columns = dict(zip(FIELDS, map(list, zip(*pairs, strict=True)), strict=True))
    stage = Tokenize(theirs, field=FIELDS, empty="keep", engine=engine, special_tokens=special, max_length=limit)
    expected = expected_of(theirs, pairs, add_special_tokens=special, truncation=True, max_length=limit)
    assert columns_of(stage, **columns) == expected


def test_pairs_by_hand(wordpiece_tokenizer: Tokenizer) -> None:
    """A worked example: the longer text is cut first, the odd token goes to the longer, and types follow the texts."""
    letter = {text: wordpiece_tokenizer.token_to_id(text) for text in ("a", "b", "[CLS]", "[SEP]")}
    a, b, cls, sep = letter.values()
    columns = {"one": ["a a a a", "a", "a a a"], "two": ["b", "b b b b", "b b b"]}
    stage = Tokenize(wordpiece_tokenizer, field=("one", "two"), max_length=6)
    assert columns_of(stage, **columns) == {
        "input_ids": [[cls, a, a, sep, b, sep], [cls, a, sep, b, b, sep], [cls, a, sep, b, b, sep]],
        "token_type_ids": [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]],
    }
    stage = Tokenize(wordpiece_tokenizer, field=("one", "two"), max_length=8, overflow="drop")
    ((made,), counts) = run(stage, pa.table({**columns, "row_id": [7, 8, 9]}))
    assert made["row_id"].to_pylist() == [7, 8]
    assert counts == {"dropped": 1}


@pytest.mark.parametrize(
    ("first", "second", "limit", "kept"),
    [(4, 4, 8, (4, 4)), (5, 4, 8, (4, 4)), (9, 9, 7, (3, 4)), (10, 9, 7, (4, 3)), (2, 20, 8, (2, 6)), (20, 2, 8, (6, 2))],
)
def test_longest_first_by_hand(first: int, second: int, limit: int, kept: tuple[int, int]) -> None:
    """Texts that fit are not cut; the longer one is cut first; an odd token goes to the longer one, or to the second."""
    ours = longest_first(np.array([first]), np.array([second]), limit)
    assert tuple(int(part[0]) for part in ours) == kept


def test_longest_first_is_that_of_tokenizers(wordpiece_tokenizer: Tokenizer) -> None:
    """For any two lengths and any limit as many tokens of each text stay as in tokenizers."""
    copy = Tokenizer.from_str(wordpiece_tokenizer.to_str())
    lengths = list(itertools.product(range(12), repeat=2))
    for limit in range(1, 15):
        copy.enable_truncation(limit)
        pairs = [(" a" * first, " a" * second) for first, second in lengths]
        made = copy.encode_batch(pairs, add_special_tokens=False)
        expected = [(each.type_ids.count(0), each.type_ids.count(1)) for each in made]
        first, second = longest_first(*np.array(lengths).T, limit)
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_a_record_is_too_long_by_both_texts(wordpiece_tokenizer: Tokenizer) -> None:
    """The length of the whole row is compared with max_length."""
    stage = Tokenize(wordpiece_tokenizer, field=("one", "two"), max_length=8, overflow="error")
    assert len(columns_of(stage, one=["a a"], two=["b b b"])["input_ids"][0]) == 8
    with pytest.raises(RecordError, match=r"^sequence of 9 tokens cannot fit max_length=8; raise it or set") as caught:
        columns_of(stage, one=["a", "a a a"], two=["b", "b b b"])
    assert caught.value.row_id == 1


def test_truncation_and_emptiness_are_counted(wordpiece_tokenizer: Tokenizer) -> None:
    """A row is empty if both texts are, and truncated if the two are too long together."""
    stage = Tokenize(wordpiece_tokenizer, field=FIELDS, max_length=7)
    columns = {"premise": ["", "a", "a a a", ""], "hypothesis": ["", "", "b b b", " "]}
    ((made,), counts) = run(stage, pa.table({**columns, "row_id": range(4)}))
    assert made["row_id"].to_pylist() == [1, 2]
    assert counts == {"empty": 2, "truncated": 1}
    assert made.column_names == ["row_id", "input_ids", "token_type_ids"]
    assert made.schema.field("token_type_ids").type == pa.list_(pa.int32())


def test_types_are_left_out_for_models_without_them(bpe_tokenizer: Tokenizer) -> None:
    """For a transformers tokenizer of a model without token_type_ids there is no such column."""
    from transformers import PreTrainedTokenizerFast

    class Untyped(PreTrainedTokenizerFast):
        model_input_names = ("input_ids", "attention_mask")

    theirs = Untyped(tokenizer_object=bpe_tokenizer)
    columns = {"premise": ["a b", "c"], "hypothesis": ["d", "e"]}
    expected = theirs(*columns.values())
    assert "token_type_ids" not in expected
    assert columns_of(Tokenize(theirs, field=FIELDS), **columns) == {"input_ids": expected["input_ids"]}


def test_an_end_closes_the_pair(bpe_tokenizer: Tokenizer) -> None:
    """The end of a row stands after its second text, has its type, and stays when the texts are cut."""
    end = bpe_tokenizer.token_to_id("<|endoftext|>")
    whole = columns_of(Tokenize(bpe_tokenizer, field=FIELDS, end=end), premise=["abc"], hypothesis=["def"])
    plain = columns_of(Tokenize(bpe_tokenizer, field=FIELDS), premise=["abc"], hypothesis=["def"])
    assert whole["input_ids"] == [[*plain["input_ids"][0], end]]
    assert whole["token_type_ids"] == [[*plain["token_type_ids"][0], 1]]
    cut = columns_of(Tokenize(bpe_tokenizer, field=FIELDS, end=end, max_length=2), premise=["abc"], hypothesis=["abc"])
    assert cut["input_ids"][0][-1] == end
    assert cut["token_type_ids"] == [[1, 1]]


def test_a_pair_must_have_a_template(wordpiece_tokenizer: Tokenizer) -> None:
    """A tokenizer that puts the second text first, or the first one twice, is refused; without pairs it is not."""
    ends = [(token, wordpiece_tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    for pair in ("[CLS] $B [SEP] $A", "$A [SEP] $B [SEP] $A"):
        copy = Tokenizer.from_str(wordpiece_tokenizer.to_str())
        copy.post_processor = processors.TemplateProcessing(single="[CLS] $A", pair=pair, special_tokens=ends)
        Tokenize(copy)
        message = r"^post-processor of tokenizer WordPiece .* must put the same special tokens around all pairs of texts, the f"
        with pytest.raises(ValueError, match=message):
            Tokenize(copy, field=FIELDS)


def test_the_limit_counts_the_special_tokens_of_pairs(wordpiece_tokenizer: Tokenizer) -> None:
    """A limit that leaves no room for a text is refused."""
    with pytest.raises(
        ValueError, match=r"^max_length must be more than the 3 special tokens of tokenizer WordPiece .*, got 3$"
    ):
        Tokenize(wordpiece_tokenizer, field=FIELDS, max_length=3)
    with pytest.raises(ValueError, match=r"^max_length must be more than the 4 special tokens"):
        Tokenize(wordpiece_tokenizer, field=FIELDS, max_length=4, end="[PAD]")


def test_columns_that_do_not_fit(wordpiece_tokenizer: Tokenizer) -> None:
    """Either field may be missing or hold no text, and a column of types may be there already."""
    stage = Tokenize(wordpiece_tokenizer, field=FIELDS)
    with pytest.raises(
        ValueError, match=r"^Tokenize cannot find the field 'hypothesis' among the columns premise \(string\); "
    ):
        columns_of(stage, premise=["a"])
    with pytest.raises(ValueError, match=r"^field 'hypothesis' must hold text, got int64 among"):
        columns_of(stage, premise=["a"], hypothesis=[1])
    with pytest.raises(ValueError, match=r"^Tokenize cannot add the column 'token_type_ids', which the table has already"):
        columns_of(stage, premise=["a"], hypothesis=["b"], token_type_ids=[[0]])


def test_pairs_can_be_pickled_and_told_apart(wordpiece_tokenizer: Tokenizer) -> None:
    """Stage and opened stage work in another process; the fields are part of the fingerprint."""
    stage = Tokenize(wordpiece_tokenizer, field=FIELDS, max_length=9)
    columns = {"premise": ["a b"], "hypothesis": ["c"]}
    again = pickle.loads(pickle.dumps(stage))
    assert columns_of(again, **columns) == columns_of(stage, **columns)
    opened = pickle.loads(pickle.dumps(stage.open(stage.choose_engines())))
    assert opened([pa.table(columns)])[0][0]["input_ids"].to_pylist() == columns_of(stage, **columns)["input_ids"]
    assert stage.fingerprint()["pair"] == list(FIELDS)
    assert stage.fingerprint() != Tokenize(wordpiece_tokenizer, field=FIELDS[::-1], max_length=9).fingerprint()
    assert repr(stage).endswith("…), field=('premise', 'hypothesis'), max_length=9)")
    assert stage.columns == ("input_ids",)


@pytest.mark.parametrize("name", ["bert_uncased", "gpt2", "cl100k_base", "mistral_v1_spm", "spm_unigram_1k"])
def test_pairs_of_real_tokenizers(data: Path, name: str) -> None:
    """Real sentences and their translations in one row are those of transformers, cut to several limits."""
    theirs = transformers_of(Tokenizer.from_file(str(data / "tokenizers" / name / "tokenizer.json")))
    with gzip.open(data / "tatoeba_eng_fra" / "eng-fra.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 0, None, 800))
    pairs = [(english, french) for english, french, *_ in rows]
    columns = dict(zip(FIELDS, map(list, zip(*pairs, strict=True)), strict=True))
    for limit in (9, 16, 1000):
        expected = expected_of(theirs, pairs, truncation=True, max_length=limit)
        assert columns_of(Tokenize(theirs, field=FIELDS, max_length=limit, empty="keep"), **columns) == expected
