"""Words that were split before, and their labels: as in transformers with ``is_split_into_words=True``."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from seqstream.records import RecordError
from seqstream.stages.class_labels import ClassLabels
from seqstream.tokenizing.formats.words import check_words, spread_labels
from seqstream.tokenizing.stage import Tokenize
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_reading import read_tokenizer
from tests.helpers.tokenizers import columns_of, run, transformers_of

WORDS = st.lists(st.text("abcd\né-", max_size=9), max_size=8)
TEXT_LISTS = pa.list_(pa.string())


def expected_of(theirs: Any, words: list[list[str]], labels: list[list[int]], where: str, **kwargs: Any) -> dict[str, Any]:
    made = [theirs(row, is_split_into_words=True, **kwargs) for row in words]
    spread = []
    for encoding, row in zip(made, labels, strict=True):
        before = [None, *encoding.word_ids()]
        new = [word is not None and (where == "all" or word != before[at]) for at, word in enumerate(before[1:])]
        spread.append([row[word] if take else -100 for take, word in zip(new, before[1:], strict=True)])
    numbers = [[-100 if word is None else word for word in encoding.word_ids()] for encoding in made]
    return {"input_ids": [encoding["input_ids"] for encoding in made], "labels": spread, "word_ids": numbers}


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(WORDS, min_size=1, max_size=6),
    where=st.sampled_from(["first", "all"]),
    cut=st.tuples(st.integers(3, 20) | st.just(1000), st.booleans(), st.booleans()),
)
def test_words_are_those_of_transformers(
    tokenizer: Tokenizer, engine: Any, words: list[list[str]], where: Any, cut: tuple[int, bool, bool]
) -> None:
    """Ids and word ids are those of transformers, labels follow its word ids, also where they are cut, on either side."""
    distinct = {word for row in words for word in row}
    assume(2 * sum(len(word.split()) > 1 for word in distinct) <= len(distinct))  # else they are texts, and refused
    limit, left, special = cut
    theirs = transformers_of(tokenizer, truncation_side="left" if left else "right")
    labels = [list(range(100 * row, 100 * row + len(own))) for row, own in enumerate(words)]
    options: Any = {"max_length": limit, "special_tokens": special, "engine": engine, "empty": "keep", "field": "tokens"}
    expected = expected_of(
        theirs, words, labels, where, add_special_tokens=special, truncation=True, max_length=limit, verbose=False
    )
    columns = {"tokens": pa.array(words, TEXT_LISTS), "tags": pa.array(labels, pa.list_(pa.int64()))}
    if not left or where == "all":  # with what transformers cuts on the left goes the first token of a word
        labelled = Tokenize(theirs, labels="tags", word_labels=where, word_ids=True, **options)
        assert columns_of(labelled, **columns) == expected
    numbered = columns_of(Tokenize(theirs, word_ids=True, **options), tokens=columns["tokens"])
    assert numbered == {name: expected[name] for name in ("input_ids", "word_ids")}
    plain = columns_of(Tokenize(theirs, **options), tokens=columns["tokens"])
    assert plain == {"input_ids": expected["input_ids"]}


def test_labels_by_hand() -> None:
    """A worked example: words of two, no, one and three tokens."""
    tokens = TokenRows(np.arange(6, dtype=np.int32), np.array([0, 2, 2, 3, 6]))
    labels = np.array([7, 8, 9, 10])
    assert spread_labels(labels, tokens, "first").tolist() == [7, -100, 9, 10, -100, -100]
    assert spread_labels(labels, tokens, "all").tolist() == [7, 7, 9, 10, 10, 10]


def test_a_cut_word_keeps_no_first_label(wordpiece_tokenizer: Tokenizer) -> None:
    """Labels are cut with the tokens: a word whose first token is gone has no label any more."""
    theirs = transformers_of(wordpiece_tokenizer, truncation_side="left")
    whole = columns_of(Tokenize(theirs, field="w", labels="y"), w=[["xyxyx", "a"]], y=[[1, 2]])
    (ids,), (labels,) = whole.values()
    assert labels == [-100, 1, *[-100] * (len(ids) - 4), 2, -100]
    cut = columns_of(Tokenize(theirs, field="w", labels="y", max_length=4), w=[["xyxyx", "a"]], y=[[1, 2]])
    assert cut == {"input_ids": [[ids[0], *ids[-3:]]], "labels": [[-100, -100, 2, -100]]}


def test_pieces_have_their_labels(wordpiece_tokenizer: Tokenizer) -> None:
    """A record that is split has its labels split alike, -100 on the special tokens around each piece."""
    stage = Tokenize(wordpiece_tokenizer, field="w", labels="y", word_labels="all", max_length=4, overflow="split")
    a, b, c = (wordpiece_tokenizer.token_to_id(letter) for letter in "abc")
    assert columns_of(stage, w=[["a", "b", "c"]], y=[[1, 2, 3]]) == {
        "input_ids": [[2, a, b, 3], [2, c, 3]],
        "labels": [[-100, 1, 2, -100], [-100, 3, -100]],
        "piece": [0, 1],
    }


@pytest.mark.parametrize("overflow", ["drop", "error"])
def test_dropped_records_lose_their_labels(bpe_tokenizer: Tokenizer, overflow: Any) -> None:
    """Empty and long records are dropped with their labels, in several tables at once; other columns stay."""
    stage = Tokenize(bpe_tokenizer, field="w", labels="labels", max_length=6, overflow=overflow)
    first = {"w": [["a"], []], "labels": [[1], []], "n": [1, 2], "row_id": [0, 1]}
    long = {"w": [["a"] * 7, ["b", "c"]], "labels": [[2] * 7, [3, 4]], "n": [3, 4], "row_id": [2, 3]}
    tables = [pa.table({**rows, "w": pa.array(rows["w"], TEXT_LISTS)}) for rows in (first, long)]
    if overflow == "error":
        with pytest.raises(RecordError, match=r"^sequence of 7 tokens cannot fit max_length=6; raise it or set") as caught:
            run(stage, *tables)
        assert caught.value.row_id == 2
        return
    made, counts = run(stage, *tables)
    a, b, c = (bpe_tokenizer.token_to_id(letter) for letter in "abc")
    assert [table["input_ids"].to_pylist() for table in made] == [[[a]], [[b, c]]]
    assert [table["labels"].to_pylist() for table in made] == [[[1]], [[3, 4]]]
    assert [table["n"].to_pylist() for table in made] == [[1], [4]]
    assert counts == {"empty": 1, "dropped": 1}
    assert made[0].schema.field("labels").type == pa.list_(pa.int64())


def test_slices_and_large_lists_are_taken(wordpiece_tokenizer: Tokenizer) -> None:
    """Lists may begin anywhere in their buffer, be large ones, and hold any kind of strings and integers."""
    words, tags = [["x"], ["a", "b"], [], ["c"]], [[9], [1, 2], [], [3]]
    kinds = [
        (TEXT_LISTS, pa.list_(pa.int8())),
        (pa.large_list(pa.large_string()), pa.large_list(pa.uint16())),
        (pa.list_(pa.dictionary(pa.int32(), pa.string())), pa.list_(pa.int64())),
    ]
    stage = Tokenize(wordpiece_tokenizer, field="w", labels="y", empty="keep", special_tokens=False)
    for word_kind, tag_kind in kinds:
        columns = {"w": pa.array(words, word_kind).slice(1), "y": pa.array(tags, tag_kind).slice(1)}
        assert columns_of(stage, **columns)["labels"] == [[1, 2], [], [3]]


def test_lists_without_items_may_have_no_type(bpe_tokenizer: Tokenizer) -> None:
    """A block whose lists are all empty may have lists of type null."""
    stage = Tokenize(bpe_tokenizer, field="w", labels="y", empty="keep")
    assert columns_of(stage, w=[[], []], y=[[], []]) == {"input_ids": [[], []], "labels": [[], []]}
    assert columns_of(Tokenize(bpe_tokenizer, field="w", empty="keep"), w=[[]]) == {"input_ids": [[]]}


def test_there_must_be_a_label_for_each_word(bpe_tokenizer: Tokenizer) -> None:
    """The first record with more labels than words, or fewer, is named."""
    stage = Tokenize(bpe_tokenizer, field="w", labels="y")
    tables = [pa.table({"w": [["a"]], "y": [[1]], "row_id": [3]})]
    tables.append(pa.table({"w": [["a"], ["a", "b", "c", "d"]], "y": [[1], [1, 2, 3, 4, 5]], "row_id": [4, 5]}))
    with pytest.raises(RecordError, match=r"^labels must have one number for each word, got 5 for 4 words$") as caught:
        run(stage, *tables)
    assert caught.value.row_id == 5


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"w": ["a b"], "y": [[1]]},
            ValueError,
            r"^field 'w' must hold lists of words, got string among the columns w \(string\),",
        ),
        (
            {"w": [["a"]], "y": [["B"]]},
            ValueError,
            r"^field 'y' must hold lists of whole numbers, got list<.*string> .*; Class",
        ),
        ({"w": [["a"]], "y": [1]}, ValueError, r"^field 'y' must hold lists of whole numbers, got int64 among"),
        (
            {"w": [["a"]]},
            ValueError,
            r"^Tokenize cannot find the field 'y' among the columns w \(.*\); set Tokenize\(labels=...\)$",
        ),
        (
            {"w": [["a"], None], "y": [[1], [2]]},
            RecordError,
            r"^field 'w' must not be null; drop such records with Filter before$",
        ),
        (
            {"w": [["a"], ["b", None]], "y": [[1], [2, 3]]},
            RecordError,
            r"^field 'w' must not hold null; drop such records with",
        ),
        (
            {"w": [["a"], ["b"]], "y": [[1], [None]]},
            RecordError,
            r"^field 'y' must not hold null; drop such records with Filter",
        ),
        (
            {"w": [["a"]], "y": [[1]], "labels": [1]},
            ValueError,
            r"^Tokenize cannot add the column 'labels', which the table has",
        ),
    ],
)
def test_columns_that_do_not_fit(
    bpe_tokenizer: Tokenizer, columns: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Columns that are missing, of another type or without a value are named, with the record and what to do."""
    with pytest.raises(error, match=message) as caught:
        columns_of(Tokenize(bpe_tokenizer, field="w", labels="y"), **columns)
    assert getattr(caught.value, "row_id", 1) == 1


def test_strings_become_labels_by_class(wordpiece_tokenizer: Tokenizer) -> None:
    """Tags that are strings are numbered first."""
    table = pa.table({"w": [["a", "b"]], "y": [["O", "B"]], "row_id": [0]})
    (numbered,), _ = ClassLabels(["B", "O"], field="y").open()([table])
    ((made,), _) = run(Tokenize(wordpiece_tokenizer, field="w", labels="y"), numbered)
    assert made["labels"].to_pylist() == [[-100, 1, 0, -100]]


def test_words_must_be_encoded_as_each_alone(bpe_tokenizer: Tokenizer) -> None:
    """A tokenizer that encodes words together otherwise than each alone, here by cutting them, is refused."""
    tokenizer_spec = read_tokenizer(bpe_tokenizer, special_tokens=True)
    copy = Tokenizer.from_str(bpe_tokenizer.to_str())
    copy.enable_truncation(8)
    message = r"^tokenizer BPE \(600, .*\) must encode words that were split before as it encodes each of them alone, got \["
    with pytest.raises(ValueError, match=message):
        check_words(dataclasses.replace(tokenizer_spec, source=copy.to_str()))
    check_words(tokenizer_spec)


def test_an_end_is_not_labelled(bpe_tokenizer: Tokenizer) -> None:
    """The end of a row has no label."""
    stage = Tokenize(bpe_tokenizer, field="w", labels="y", end="<|endoftext|>")
    made = columns_of(stage, w=[["a"]], y=[[5]])
    assert made["labels"] == [[5, -100]]
    assert made["input_ids"][0][-1] == bpe_tokenizer.token_to_id("<|endoftext|>")


def test_words_can_be_pickled_and_distinguished(wordpiece_tokenizer: Tokenizer) -> None:
    """Stage and opened stage work in another process; what decides labels is part of the fingerprint."""
    stage = Tokenize(wordpiece_tokenizer, field="w", labels="y", word_labels="all")
    columns = {"w": [["a", "b"]], "y": [[1, 2]]}
    assert columns_of(pickle.loads(pickle.dumps(stage)), **columns) == columns_of(stage, **columns)
    opened = pickle.loads(pickle.dumps(stage.open(stage.choose_engines())))
    assert opened([pa.table(columns)])[0][0]["labels"].to_pylist() == [[-100, 1, 2, -100]]
    assert stage.fingerprint() != Tokenize(wordpiece_tokenizer, field="w", labels="y").fingerprint()
    assert repr(stage).endswith("…), field='w', labels='y', word_labels='all')")


def sentences_of(data: Path) -> list[list[tuple[str, str]]]:
    with gzip.open(data / "wnut17" / "dev.conll.gz", "rt", encoding="utf-8") as file:
        groups = itertools.groupby((line.rstrip("\n").split("\t") for line in file), key=lambda parts: len(parts) == 2)
        return [[(word, tag) for word, tag in group] for is_sentence, group in groups if is_sentence][::2]


@pytest.mark.parametrize(
    "name", ["bert_uncased", "bert_uncased_minilm", "gpt2", "cl100k_base", "mistral_v1_spm", "spm_unigram_1k"]
)
def test_words_of_real_tokenizers(data: Path, name: str) -> None:
    """Ids and labels of a real tagged corpus are those of transformers, whole and cut, for either way to label words."""
    theirs = transformers_of(Tokenizer.from_file(str(data / "tokenizers" / name / "tokenizer.json")))
    sentences = sentences_of(data)
    words = [[word for word, _ in sentence] for sentence in sentences]
    classes = sorted({tag for sentence in sentences for _, tag in sentence})
    labels = [[classes.index(tag) for _, tag in sentence] for sentence in sentences]
    for where, limit in (("first", 16), ("all", 1000)):
        options: Any = {"word_labels": where, "word_ids": True, "max_length": limit, "empty": "keep"}
        stage = Tokenize(theirs, field="w", labels="y", **options)
        expected = expected_of(theirs, words, labels, where, truncation=True, max_length=limit)
        assert columns_of(stage, w=words, y=labels) == expected
