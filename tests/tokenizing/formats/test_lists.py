"""Several texts of a record: a list of fields, lists of texts, prompts with several answers."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.records import RecordError
from tests.helpers.tokenizers import run, transformers_of

TEXT_LISTS = pa.list_(pa.string())


def tokenized(stage: ss.Tokenize, **columns: Any) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Tokenise columns in two tables, and return the columns of both together, and the counts."""
    table = pa.table(columns)
    table = table.append_column("row_id", pa.array(range(len(table)), pa.int64()))
    made, counts = run(stage, table.slice(0, 1), table.slice(1))
    return pa.concat_tables(made).to_pydict(), counts


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
def test_each_text_is_encoded_as_alone(tokenizer: Tokenizer, engine: Any) -> None:
    """Each text of a list has its own ids, special tokens and limit, whatever its type and its number of words."""
    queries = ["import os and more", "b", "one two"]
    choices = [["no", "two words", "three words here now"], ["x"], ["import os", "a"]]
    stage = ss.Tokenize(tokenizer, field=["query", "choices"], max_length=4, engine=engine)
    assert stage.columns == ("query_ids", "choices_ids")
    expected = [[tokenizer_ids(tokenizer, text, 4) for text in texts] for texts in choices]
    for kind in (TEXT_LISTS, pa.large_list(pa.large_string()), pa.list_(pa.string_view())):
        made, counts = tokenized(stage, query=queries, choices=pa.array(choices, kind))
        assert made["query_ids"] == [tokenizer_ids(tokenizer, text, 4) for text in queries]
        assert made["choices_ids"] == [[*itertools.chain(*texts)] for texts in expected]
        assert made["choices_lengths"] == [[len(ids) for ids in texts] for texts in expected]
        assert set(made) == {"row_id", "query_ids", "choices_ids", "choices_lengths"}
        assert counts.keys() <= {"truncated"}


def tokenizer_ids(tokenizer: Tokenizer, text: str, limit: int) -> list[int]:
    ids: list[int] = transformers_of(tokenizer)(text, truncation=True, max_length=limit)["input_ids"]
    return ids


def test_records_without_a_text_are_dropped(bpe_tokenizer: Tokenizer) -> None:
    """An empty text, a list without texts and, if asked, a text that is too long drop their record; a null is an error."""
    choices = pa.array([["a", "b"], [], ["a", ""], ["a b c d e f g h"], ["c"]], TEXT_LISTS)
    options: dict[str, Any] = {"field": ["choices"], "max_length": 4}
    made, counts = tokenized(ss.Tokenize(bpe_tokenizer, overflow="drop", **options), choices=choices)
    assert (made["row_id"], counts) == ([0, 4], {"empty": 2, "dropped": 1})
    made, _ = tokenized(ss.Tokenize(bpe_tokenizer, empty="keep", **options), choices=choices)
    assert [len(lengths) for lengths in made["choices_lengths"]] == [2, 0, 2, 1, 1]
    with pytest.raises(RecordError, match=r"^field 'choices' must not hold null") as caught:
        tokenized(ss.Tokenize(bpe_tokenizer, **options), choices=pa.array([["a"], ["b"], ["c", None]], TEXT_LISTS))
    assert caught.value.row_id == 2


def test_prompts_with_several_answers(wordpiece_tokenizer: Tokenizer) -> None:
    """Chosen and rejected answers, or a list of them, each get the ids and the labels that they have with a prompt alone."""
    rows = {"prompt": ["import os", "a"], "chosen": ["no", "yes it is"], "rejected": ["never ever", "b"]}
    made, _ = tokenized(ss.Tokenize(wordpiece_tokenizer, field=["chosen", "rejected"], prompt="prompt", max_length=7), **rows)
    answers = pa.array([list(pair) for pair in zip(rows["chosen"], rows["rejected"], strict=True)], TEXT_LISTS)
    lists, _ = tokenized(
        ss.Tokenize(wordpiece_tokenizer, field=["answers"], prompt="prompt", max_length=7),
        prompt=rows["prompt"],
        answers=answers,
    )
    alone = {}
    for name in ("chosen", "rejected"):
        alone[name], _ = tokenized(
            ss.Tokenize(wordpiece_tokenizer, field=name, prompt="prompt", max_length=7),
            prompt=rows["prompt"],
            **{name: rows[name]},
        )
        assert (made[f"{name}_ids"], made[f"{name}_labels"]) == (alone[name]["input_ids"], alone[name]["labels"])
    for column, of_one in (("answers_ids", "input_ids"), ("answers_labels", "labels")):
        assert lists[column] == [a + b for a, b in zip(alone["chosen"][of_one], alone["rejected"][of_one], strict=True)]
    assert set(made) == {"row_id", "chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels"}


def test_chats_of_several_answers(bpe_tokenizer: Tokenizer) -> None:
    """Chosen and rejected chats are rendered each by itself."""
    turns = "{% for m in messages %}{{ m['role'] + '>' + m['content'] + '\\n' }}{% endfor %}"
    template = turns + "{% if add_generation_prompt %}assistant>{% endif %}"
    theirs = transformers_of(bpe_tokenizer, chat_template=template)
    ask = {"role": "user", "content": "hi"}
    chats = {
        name: [[ask, {"role": "assistant", "content": text}]] * 2 for name, text in (("chosen", "yes"), ("rejected", "no no"))
    }
    made, _ = tokenized(ss.Tokenize(theirs, field=["chosen", "rejected"], chat="assistant"), **chats)
    for name, own in chats.items():
        assert made[f"{name}_ids"] == theirs.apply_chat_template(own)["input_ids"]
        said = [label for label in made[f"{name}_labels"][0] if label != -100]
        assert bpe_tokenizer.decode(said) == own[0][1]["content"] + "\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"field": []}, TypeError, r"^field must be the name of a column, a tuple of two or a list, got \[\]$"),
        ({"field": ["a", 1]}, TypeError, r"^field must be the name of a column, a tuple of two or a list, got \['a', 1\]$"),
        ({"field": ["a", "a"]}, ValueError, r"^field must have each column once, got \['a', 'a'\]$"),
        ({"field": ["a"], "labels": "y"}, ValueError, r"^labels='y' cannot be given with a list of fields, whose texts stay"),
        (
            {"field": ["a"], "overflow": "split", "max_length": 9},
            ValueError,
            r"^overflow='split' cannot be given with a list of",
        ),
    ],
)
def test_options_that_do_not_fit(
    bpe_tokenizer: Tokenizer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A list of fields has names, each once, and neither words with labels nor pieces."""
    with pytest.raises(error, match=message):
        ss.Tokenize(bpe_tokenizer, **options)


def test_what_decides_the_ids_is_known(bpe_tokenizer: Tokenizer) -> None:
    """A list of one field is another format than the field; the stage prints it."""
    one, alone = ss.Tokenize(bpe_tokenizer, field=["x"]), ss.Tokenize(bpe_tokenizer, field="x")
    assert one.fingerprint() != alone.fingerprint()
    assert repr(one).endswith(", field=['x'])")
