"""Chats rendered by the tokenizer's own template, with labels on what the assistant says."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from seqstream.records import RecordError
from seqstream.tokenizing.formats.assistant_mask import encode_with_mask
from seqstream.tokenizing.formats.chat import ChatError, ChatTemplate
from seqstream.tokenizing.stage import Tokenize
from tests.helpers.tokenizers import columns_of, run, transformers_of

TURN = "{{ '<|im_start|>' + m['role'] + '\\n' }}"
CHATML = (
    "{% for m in messages %}" + TURN + "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TAGGED = (
    "{% for m in messages %}" + TURN + "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>\\n' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
"""The same, with tags around what the assistant says."""

LATEST = "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}" + TURN + "{{ m['content'] }}{% endif %}{% endfor %}"
"""A template that leaves out earlier answers of the assistant, as others leave out its thoughts."""

STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ '[' + m['content'] + ']' }}{% endfor %}"
)

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "import os"}, {"role": "assistant", "content": "no"}],
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": " b \n"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ],
    [{"role": "user", "content": "never answered"}],
]
CONTENT = st.text("ab \n👋<|im_end|>", max_size=12)


@pytest.fixture(scope="session")
def chat_tokenizer(bpe_tokenizer: Tokenizer) -> Tokenizer:
    """A byte-level BPE with special tokens for turns, and with one that it puts before a text."""
    copy = Tokenizer.from_str(bpe_tokenizer.to_str())
    copy.add_special_tokens(["<|im_start|>", "<|im_end|>", "<s>"])
    ends = [("<s>", copy.token_to_id("<s>"))]
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=ends)
    copy.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return copy


def chats_of(*chats: list[dict[str, Any]]) -> pa.Array:
    return pa.array(chats, pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "name": pa.string()})))


def labelled_text(made: dict[str, list[Any]], tokenizer: Tokenizer) -> list[str]:
    """Return the text of the labels that are not ignored."""
    labels = ([label for label in row if label != -100] for row in made["labels"])
    return [tokenizer.decode(row, skip_special_tokens=False) for row in labels]


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
@pytest.mark.parametrize("template", [CHATML, TAGGED])
def test_ids_are_those_of_the_template(chat_tokenizer: Tokenizer, engine: Any, template: str) -> None:
    """Ids are those of apply_chat_template, and with "all" the labels are the ids; whole and cut."""
    theirs = transformers_of(chat_tokenizer, chat_template=template)
    for limit in (1000, 20):
        stage = Tokenize(theirs, field="m", chat="all", engine=engine, max_length=limit)
        expected = theirs.apply_chat_template(CHATS, truncation=True, max_length=limit)["input_ids"]
        assert columns_of(stage, m=chats_of(*CHATS)) == {"input_ids": expected, "labels": expected}


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
@settings(max_examples=25, deadline=None)
@given(chats=st.lists(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), CONTENT), min_size=1, max_size=5), min_size=1))
def test_tagged_templates_mark_the_assistant(
    chat_tokenizer: Tokenizer, engine: Any, chats: list[list[tuple[str, str]]]
) -> None:
    """Where a template has a generation tag the labels are those of return_assistant_tokens_mask, for any content."""
    copy = Tokenizer.from_str(chat_tokenizer.to_str())
    copy.post_processor = processors.ByteLevel(trim_offsets=False)  # trimmed, transformers loses spaces at the end of a turn
    theirs = transformers_of(copy, chat_template=TAGGED)
    messages = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
    expected = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    labels = [
        [number if flag else -100 for number, flag in zip(*row, strict=True)]
        for row in zip(expected["input_ids"], expected["assistant_masks"], strict=True)
    ]
    made = columns_of(Tokenize(theirs, field="m", chat="assistant", engine=engine), m=chats_of(*messages))
    assert made == {"input_ids": expected["input_ids"], "labels": labels}


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
def test_without_a_tag_prefixes_mark_the_assistant(chat_tokenizer: Tokenizer, engine: Any) -> None:
    """The text between the prompt for an answer and the next message is the assistant's, its end included."""
    theirs = transformers_of(chat_tokenizer, chat_template=CHATML)
    made = columns_of(Tokenize(theirs, field="m", chat="assistant", engine=engine), m=chats_of(*CHATS))
    assert made["input_ids"] == theirs.apply_chat_template(CHATS)["input_ids"]
    assert labelled_text(made, chat_tokenizer) == ["no<|im_end|>\n", " b \n<|im_end|>\n<|im_end|>\n", ""]


def test_by_hand(chat_tokenizer: Tokenizer) -> None:
    """A worked example: one question, one answer."""
    theirs = transformers_of(
        chat_tokenizer, chat_template="{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    a, b, end = (chat_tokenizer.token_to_id(token) for token in ("a", "b", "<|im_end|>"))
    stage = Tokenize(theirs, field="m", chat="assistant")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert columns_of(stage, m=chats_of(chat)) == {"input_ids": [[a, end, b, end]], "labels": [[-100, -100, b, end]]}


def test_a_template_that_changes_what_was_before_is_refused(chat_tokenizer: Tokenizer) -> None:
    """If the beginning of a chat is rendered differently alone, the assistant's part is not found; "all" does not need it."""
    chats = [CHATS[0], [*CHATS[0], *CHATS[0]]]
    theirs = transformers_of(chat_tokenizer, chat_template=LATEST)
    message = (
        r"^chat template must render a message the same whatever follows it, got another text for message 2 in the whole chat; "
        r"use a template with {% generation %}, or chat='all'$"
    )
    with pytest.raises(RecordError, match=message) as caught:
        columns_of(Tokenize(theirs, field="m", chat="assistant"), m=chats_of(*chats))
    assert caught.value.row_id == 1
    expected = theirs.apply_chat_template(chats)["input_ids"]
    assert columns_of(Tokenize(theirs, field="m", chat="all"), m=chats_of(*chats))["input_ids"] == expected


def test_a_prompt_that_is_no_beginning_is_refused(chat_tokenizer: Tokenizer) -> None:
    """A chat whose answer does not begin with the prompt for an answer, for example one that asks for thoughts, is refused."""
    thoughtful = CHATML.replace("assistant\\n", "assistant\\n<think>")
    assert thoughtful != CHATML
    stage = Tokenize(transformers_of(chat_tokenizer, chat_template=thoughtful), field="m", chat="assistant")
    assert labelled_text(columns_of(stage, m=chats_of(CHATS[2])), chat_tokenizer) == [""]
    with pytest.raises(
        RecordError, match=r"^chat template must render a message the same whatever follows it, got another text for message 2 "
    ):
        columns_of(stage, m=chats_of(CHATS[0]))


def test_keys_without_a_value_are_not_there(chat_tokenizer: Tokenizer) -> None:
    """A column has every key in every message; those that are null are undefined in the template, as in transformers."""
    template = "{% for m in messages %}{{ m['role'] if m['name'] is not defined else m['name'] }}{% endfor %}"
    theirs = transformers_of(chat_tokenizer, chat_template=template)
    chat = [{"role": "user", "content": "a", "name": "ann"}, {"role": "user", "content": "b"}]
    made = columns_of(Tokenize(theirs, field="m", chat="all"), m=chats_of(chat))
    assert [chat_tokenizer.decode(ids) for ids in made["input_ids"]] == ["annuser"]


@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
def test_special_tokens_may_be_ordinary_text(chat_tokenizer: Tokenizer, engine: Any) -> None:
    """A tokenizer that takes the marks of turns for ordinary text does so here; labels are still the assistant's."""
    theirs = transformers_of(chat_tokenizer, chat_template=TAGGED, split_special_tokens=True)
    made = columns_of(Tokenize(theirs, field="m", chat="assistant", engine=engine), m=chats_of(CHATS[0]))
    assert made["input_ids"] == theirs.apply_chat_template(CHATS[:1])["input_ids"]
    assert labelled_text(made, chat_tokenizer) == ["no<|im_end|>\n"]


def test_an_assistant_cannot_begin_without_a_tag(chat_tokenizer: Tokenizer) -> None:
    """A template cannot render a chat without messages, so the beginning of the first message is not known."""
    theirs = transformers_of(chat_tokenizer, chat_template=CHATML)
    stage = Tokenize(theirs, field="m", chat="assistant")
    message = (
        r"^chat cannot begin with the assistant where its template has no {% generation %}; drop such records with Filter "
        r"before, or use chat='all'$"
    )
    with pytest.raises(RecordError, match=message):
        columns_of(stage, m=chats_of([{"role": "assistant", "content": "hello"}]))


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], r"^field 'm' must hold messages, got none; drop such records with Filter before$"),
        ([CHATS[0][1]], r"^chat template cannot render a chat: roles must alternate; change the chat in a Map before$"),
    ],
)
def test_chats_that_cannot_be_written(chat_tokenizer: Tokenizer, chat: list[dict[str, Any]], message: str) -> None:
    """An empty chat, and one that the template refuses, are errors that name the record."""
    theirs = transformers_of(chat_tokenizer, chat_template=STRICT, bos_token="<s>")
    stage = Tokenize(theirs, field="m", chat="all")
    assert columns_of(stage, m=chats_of(CHATS[0]))["input_ids"] == [theirs.apply_chat_template(CHATS[0])["input_ids"]]
    with pytest.raises(RecordError, match=message) as caught:
        columns_of(stage, m=chats_of(CHATS[0], chat))
    assert caught.value.row_id == 1


def test_columns_that_do_not_fit(chat_tokenizer: Tokenizer) -> None:
    """A column of anything but lists of messages is named, and a message that is missing."""
    stage = Tokenize(transformers_of(chat_tokenizer, chat_template=CHATML), field="m", chat="all")
    with pytest.raises(ValueError, match=r"^field 'm' must hold lists of messages \(struct<role, content>\), got int64 among"):
        columns_of(stage, m=[1])
    with pytest.raises(RecordError, match=r"^field 'm' must hold lists of messages, got text that is no JSON: Expecting"):
        columns_of(stage, m=["hello"])
    with pytest.raises(RecordError, match=r"^field 'm' must hold lists of messages, got \{'role': 'user'\}$"):
        columns_of(stage, m=['{"role": "user"}'])
    with pytest.raises(RecordError, match=r"^field 'm' must not hold null; drop such records with Filter before$") as caught:
        columns_of(stage, m=pa.array([CHATS[0], [None]], chats_of().type))
    assert caught.value.row_id == 1


def test_a_tokenizer_must_have_a_template(chat_tokenizer: Tokenizer) -> None:
    """A tokenizer without a chat template is refused by the constructor."""
    for tokenizer in (chat_tokenizer, transformers_of(chat_tokenizer)):
        message = (
            r"^chat needs a tokenizer with a chat template, got .* without one; pass a transformers tokenizer whose chat_t"
        )
        with pytest.raises(ValueError, match=message):
            Tokenize(tokenizer, chat="all")


def test_of_several_templates_the_default_counts(chat_tokenizer: Tokenizer) -> None:
    """A tokenizer may have templates by name; that is a dict of them."""
    theirs = transformers_of(chat_tokenizer, chat_template={"default": CHATML, "tool_use": LATEST})
    expected = theirs.apply_chat_template(CHATS)["input_ids"]
    assert columns_of(Tokenize(theirs, field="m", chat="all"), m=chats_of(*CHATS))["input_ids"] == expected


@pytest.mark.parametrize("fixture", ["unigram_tokenizer", "wordpiece_tokenizer", "chat_tokenizer"])
def test_the_mask_is_found_by_characters_if_the_parts_differ(fixture: str, request: pytest.FixtureRequest) -> None:
    """If a text and its parts have other tokens the mask follows from offsets; spaces between tokens belong to the span."""
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    stage = Tokenize(transformers_of(tokenizer, chat_template=CHATML), chat="all")
    engine = stage.open(stage.choose_engines()).engines["input_ids"]  # type: ignore[attr-defined]
    texts, spans = ["one two three four", "one", ""], [[(4, 7), (14, 18)], [], []]
    rows = encode_with_mask(texts, spans, engine)
    mask = rows.parallel["assistant"]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    assert rows.ids.tolist() == [number for encoding in encodings for number in encoding.ids]
    begun = [begin for encoding in encodings for begin, _ in encoding.offsets]
    assert len(mask) == len(begun)
    inside = [text[begin:end].strip() for text, own in zip(texts, spans, strict=True) for begin, end in own]
    found = tokenizer.decode(rows.ids[mask].tolist()).replace(" ##", "").split()
    assert "".join(found) == "".join(inside)


def test_pieces_and_counts(chat_tokenizer: Tokenizer) -> None:
    """Labels are split with the ids; all columns but the messages stay."""
    theirs = transformers_of(chat_tokenizer, chat_template=TAGGED)
    table = pa.table({"m": chats_of(*CHATS), "n": [1, 2, 3], "row_id": [5, 6, 7]})
    ((whole,), counts) = run(Tokenize(theirs, field="m", chat="assistant"), table)
    assert (whole.column_names, counts) == (["n", "row_id", "input_ids", "labels"], {})
    ((made,), counts) = run(Tokenize(theirs, field="m", chat="assistant", max_length=9, overflow="split"), table)
    assert counts == {"split": len(set(made.filter(made["piece"].to_numpy() > 0)["row_id"].to_pylist()))}
    for name in ("input_ids", "labels"):
        rows = zip(made["row_id"].to_pylist(), made[name].to_pylist(), strict=True)
        joined: dict[int, list[int]] = {}
        for row, piece in rows:
            joined.setdefault(row, []).extend(piece)
        assert list(joined.values()) == whole[name].to_pylist()


def test_chats_can_be_pickled_and_distinguished(chat_tokenizer: Tokenizer) -> None:
    """Stage and opened stage work in another process; the template is part of the fingerprint, and is read once."""
    theirs = transformers_of(chat_tokenizer, chat_template=CHATML)
    stage = Tokenize(theirs, field="m", chat="assistant")
    before, columns = stage.fingerprint(), {"m": chats_of(*CHATS)}
    expected = columns_of(stage, **columns)
    opened = pickle.loads(pickle.dumps(stage.open(stage.choose_engines(pa.table(columns)))))
    theirs.chat_template = TAGGED
    assert opened([pa.table(columns)])[0][0]["labels"].to_pylist() == expected["labels"]
    assert columns_of(stage, **columns) == expected
    assert stage.fingerprint() == before != Tokenize(theirs, field="m", chat="assistant").fingerprint()
    assert before != Tokenize(theirs, field="m", chat="all").fingerprint()
    assert repr(stage).endswith("…), field='m', chat='assistant')")


def test_errors_of_a_template_have_a_remedy() -> None:
    """Every error that a template raises becomes a `ChatError` with a remedy."""
    with pytest.raises(
        ChatError, match=r"^chat template cannot render a chat: .*undefined.*; change the chat in a Map before$"
    ):
        ChatTemplate("{{ nothing.at.all }}", ()).render(CHATS[0])


def test_messages_from_a_human_and_gpt(chat_tokenizer: Tokenizer) -> None:
    """Messages of ShareGPT are rendered as those of the roles, from structs and from JSON text; other keys stay."""
    theirs = transformers_of(chat_tokenizer, chat_template=TAGGED.replace("m['content']", "m['content'] + (m['name'] or '')"))
    stage = Tokenize(theirs, field="m", chat="assistant")
    senders = {"system": "system", "human": "user", "GPT": "assistant", "function_call": "assistant", "observation": "tool"}
    shared = [{"from": sender, "value": f"I am {sender}", "name": "x"} for sender in senders]
    chat = [{"role": role, "content": f"I am {sender}", "name": "x"} for sender, role in senders.items()]
    expected = columns_of(stage, m=chats_of(chat))
    assert labelled_text(expected, chat_tokenizer) == ["I am GPTx<|im_end|>\nI am function_callx<|im_end|>\n"]
    for messages in (pa.array([shared]), pa.array([[{**each, "role": None} for each in shared]]), [json.dumps(shared)]):
        assert columns_of(stage, m=messages) == expected
    message = r"^field 'm' must have messages from human, .*, got one from 'ann'; set 'role' and 'content' in a Map$"
    with pytest.raises(RecordError, match=message) as caught:
        columns_of(stage, m=[shared, [{"from": "ann", "value": "hi", "name": None}]])
    assert caught.value.row_id == 1


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "mistral_v1_spm", "bert_uncased"])
def test_chats_of_real_tokenizers(data: Path, name: str) -> None:
    """Real conversations are those of apply_chat_template, and labels by tags are equal to labels by prefixes."""
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    with gzip.open(data / "chat_toolcall" / "glaive_toolcall_en_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line)["conversations"] for line in file]
    chats = [[{"role": roles[turn["from"]], "content": turn["value"]} for turn in record] for record in records[:50]]
    tokenizer = Tokenizer.from_file(str(data / "tokenizers" / name / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    theirs = transformers_of(tokenizer, chat_template=TAGGED)
    by_tags = columns_of(Tokenize(theirs, field="m", chat="assistant"), m=records[:50])
    expected = theirs.apply_chat_template(chats, return_assistant_tokens_mask=True, return_dict=True)
    assert by_tags["input_ids"] == expected["input_ids"]
    if name in ("gpt2", "cl100k_base"):  # else the last character of a turn is no token or two, and transformers marks one
        assert [[int(label != -100) for label in row] for row in by_tags["labels"]] == expected["assistant_masks"]
    theirs.chat_template = CHATML
    assert columns_of(Tokenize(theirs, field="m", chat="assistant"), m=chats_of(*chats)) == by_tags
