"""A prompt and its completion in one row, with labels on the completion alone."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from seqstream.records import RecordError
from seqstream.tokenizing.stage import Tokenize
from tests.helpers.tokenizers import columns_of, run, transformers_of

TEXTS = st.text("abc de\n[SEP]é", max_size=40)


def expected_of(tokenizer: Tokenizer, prompt: str, completion: str, limit: int, left: bool) -> tuple[list[int], list[int]]:
    """Return ids and labels: both texts encoded apart, joined within the tokenizer's special tokens, and truncated."""
    first, second = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, completion))
    whole = tokenizer.encode("")
    begins = [token in ("[CLS]", "<s>") for token in whole.tokens]
    before, after = (
        [number for number, is_first in zip(whole.ids, begins, strict=True) if is_first == side] for side in (1, 0)
    )
    own, labels = [*first, *second], [*[-100] * len(first), *second]
    room = limit - len(whole.ids)
    kept = slice(max(0, len(own) - room), None) if left else slice(0, room)
    is_cut = len(own) > room and not left
    return [*before, *own[kept], *after], [*[-100] * len(before), *labels[kept], *([-100] * len(after) if is_cut else after)]


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8),
    limit=st.integers(5, 24) | st.just(1000),
    left=st.booleans(),
)
def test_only_the_completion_is_predicted(
    tokenizer: Tokenizer, engine: Any, pairs: list[tuple[str, str]], limit: int, left: bool
) -> None:
    """Ids are both texts within the special tokens; labels are those of the completion, and of what ends it if it is whole."""
    theirs = transformers_of(tokenizer, truncation_side="left" if left else "right")
    stage = Tokenize(theirs, field="completion", prompt="prompt", max_length=limit, empty="keep", engine=engine)
    prompts, completions = map(list, zip(*pairs, strict=True))
    made = columns_of(stage, prompt=prompts, completion=completions)
    expected = [expected_of(tokenizer, *pair, limit, left) for pair in pairs]
    assert made == {"input_ids": [ids for ids, _ in expected], "labels": [labels for _, labels in expected]}


def test_by_hand(wordpiece_tokenizer: Tokenizer, bpe_tokenizer: Tokenizer) -> None:
    """A worked example, with special tokens and an end that are never cut, and labelled if the text ends there."""
    a, b, c = (wordpiece_tokenizer.token_to_id(letter) for letter in "abc")
    stage = Tokenize(wordpiece_tokenizer, field="y", prompt="x")
    assert columns_of(stage, x=["a b"], y=["c c"]) == {
        "input_ids": [[2, a, b, c, c, 3]],
        "labels": [[-100, -100, -100, c, c, 3]],
    }
    a, b, c = (bpe_tokenizer.token_to_id(letter) for letter in "abc")
    stage = Tokenize(bpe_tokenizer, field="y", prompt="x", end="<|endoftext|>", max_length=3)
    assert columns_of(stage, x=["a", "aa", "a"], y=["b", "c", ""]) == {
        "input_ids": [[a, b, 0], [a, a, 0], [a, 0]],
        "labels": [[-100, b, 0], [-100, -100, -100], [-100, 0]],
    }


def test_columns_and_counts(bpe_tokenizer: Tokenizer) -> None:
    """Both columns are replaced; a row is empty if both texts are; labels are int32 as ids are."""
    table = pa.table({"x": ["", "a", "bbbb"], "y": ["", "", "cccc"], "n": [1, 2, 3], "row_id": [0, 1, 2]})
    ((made,), counts) = run(Tokenize(bpe_tokenizer, field="y", prompt="x", max_length=5), table)
    assert made.column_names == ["n", "row_id", "input_ids", "labels"]
    assert made["row_id"].to_pylist() == [1, 2]
    assert made.schema.field("labels").type == pa.list_(pa.int32())
    assert counts == {"empty": 1, "truncated": 1}


def test_columns_that_do_not_fit(bpe_tokenizer: Tokenizer) -> None:
    """A prompt that is missing is named with its option; a column of labels may not be there already."""
    stage = Tokenize(bpe_tokenizer, field="y", prompt="x")
    with pytest.raises(
        ValueError, match=r"^Tokenize cannot find the field 'x' among the columns y \(string\); set Tokenize\(prompt"
    ):
        columns_of(stage, y=["a"])
    with pytest.raises(ValueError, match=r"^Tokenize cannot add the column 'labels', which the table has already; rename it"):
        columns_of(stage, x=["a"], y=["a"], labels=[1])
    with pytest.raises(RecordError, match=r"^field 'x' must not be null") as caught:
        columns_of(stage, x=["a", None], y=["a", "b"])
    assert caught.value.row_id == 1


def test_prompts_can_be_pickled_and_told_apart(bpe_tokenizer: Tokenizer) -> None:
    """Stage and opened stage work in another process; which text is the prompt is part of the fingerprint."""
    stage = Tokenize(bpe_tokenizer, field="y", prompt="x")
    columns = {"x": ["a"], "y": ["b"]}
    assert columns_of(pickle.loads(pickle.dumps(stage)), **columns) == columns_of(stage, **columns)
    assert stage.fingerprint() != Tokenize(bpe_tokenizer, field="x", prompt="y").fingerprint()
    assert repr(stage).endswith("…), field='y', prompt='x')")


@pytest.mark.parametrize("name", ["bert_uncased", "gpt2", "cl100k_base", "mistral_v1_spm"])
def test_answers_of_real_tokenizers(data: Path, name: str) -> None:
    """Questions and answers of a real corpus are encoded apart and joined; labels are the ids from the answer on."""
    tokenizer = Tokenizer.from_file(str(data / "tokenizers" / name / "tokenizer.json"))
    with gzip.open(data / "gsm8k" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 300)]
    questions, answers = ([row[key] for row in rows] for key in ("question", "answer"))
    made = columns_of(Tokenize(tokenizer, field="answer", prompt="question"), question=questions, answer=answers)
    first, second = (
        [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)] for texts in (questions, answers)
    )
    special = tokenizer.encode("").ids
    before = special[: len(made["input_ids"][0]) - len(first[0]) - len(second[0])][:1]
    after = special[len(before) :]
    rows_of = zip(first, second, strict=True)
    assert made["input_ids"] == [[*before, *one, *two, *after] for one, two in rows_of]
    assert made["labels"] == [
        [*[-100] * (len(before) + len(one)), *two, *after] for one, two in zip(first, second, strict=True)
    ]
