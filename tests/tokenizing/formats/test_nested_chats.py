"""Chats whose messages hold more than text: a template gets them as the data has them, from every source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.records import RecordError
from seqstream.sources.tables.arrow_to_python import EXACT
from tests.helpers.tokenizers import columns_of, transformers_of

datasets = pytest.importorskip("datasets")

TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }};{% endfor %}{% endif %}{% if shout %}!{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def call(**arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": arguments}]}


ASK = {"role": "user", "content": "?"}
CHATS: list[list[dict[str, Any]]] = [
    [ASK, {"role": "assistant", "content": "plain"}],
    [ASK, call(city="Rome", days=2)],
    [ASK, call(days=2, city="Rome")],
    [ASK, call(city=None, where={"lat": 1.0, "of": [{"x": None, "y": 1}, {"z": 2}]})],
    [ASK, call(), {"role": "tool", "content": "1", "tool_call_id": "a"}],
]
TOOLS: list[Any] = [
    [{"name": "f", "parameters": {"city": {"type": "string"}, "days": {"type": "integer", "default": None}}}],
    None,
    [],
    [{"parameters": {"lat": {"type": "number"}}, "name": "g"}],
    [{"name": "h", "parameters": {}}],
]


@pytest.fixture(scope="module")
def theirs(bpe_tokenizer: Tokenizer) -> Any:
    """A byte-level tokenizer, which decodes to the same text, with a template that prints everything."""
    return transformers_of(bpe_tokenizer, chat_template=TEMPLATE)


def texts_of(source: ss.Source, tokenizer: Any, **options: Any) -> list[str]:
    """Return the text of the rows, in the order of the data."""
    stages = ss.Tokenize(tokenizer, field="messages", chat="all"), ss.Unbucketed(1)
    loader = ss.Loader(source, *stages, shuffle=False, **options)
    return [tokenizer.decode(batch.input_ids[0]) for batch in loader]


def written(tokenizer: Any, chats: list[Any] = CHATS, tools: list[Any] | None = None) -> list[str]:
    tools = tools or [None] * len(chats)
    return [tokenizer.apply_chat_template(chat, tools=own, tokenize=False) for chat, own in zip(chats, tools, strict=True)]


def save(path: Path, **columns: list[Any]) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["here", "workers"])
@pytest.mark.parametrize("block_bytes", [None, 60])
def test_json_lines_are_exact(tmp_path: Path, theirs: Any, options: dict[str, Any], block_bytes: int | None) -> None:
    """Arguments keep their own keys, the order of these, and their nulls, in every block; so do tools."""
    path = save(tmp_path / "a.jsonl", messages=CHATS, tools=TOOLS)
    assert texts_of(ss.JsonLines(path, block_bytes=block_bytes), theirs, **options) == written(theirs, tools=TOOLS)


def test_arguments_of_many_names_are_exact(tmp_path: Path, theirs: Any) -> None:
    """Where each call has names of its own, in messages and tools, structs stay narrow and templates get all as it was."""
    chats = [
        [ASK | {"votes": {f"u{n}": None}}, call(**{f"a{n}_{each}": [each, None] for each in range(5)})] for n in range(300)
    ]
    tools = [[{"name": "f", "parameters": {f"a{n}_{each}": {"type": None} for each in range(5)}}] for n in range(300)]
    source = ss.JsonLines(save(tmp_path / "a.jsonl", messages=chats, tools=tools))
    template = TEMPLATE.replace("{{ m.content }}", "{{ m.content }}{{ m.votes | tojson if m.votes }}")
    theirs = transformers_of(theirs.backend_tokenizer, chat_template=template)
    assert texts_of(source, theirs) == written(theirs, chats, tools)
    table, _ = next(source.read(0))
    calls = table.schema.field("messages").type.value_type.field("tool_calls").type.value_type
    assert calls == pa.struct([("name", pa.string()), ("arguments", pa.string())])
    assert table.schema.field("tools").type.value_type.field("parameters").type == pa.string()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_json_features_are_decoded(tmp_path: Path, theirs: Any, streams: bool, mapped: bool) -> None:
    """What `datasets` reads as ``Json()`` is what ``dataset[i]`` gives, also of a stream with a function in it."""
    path = save(tmp_path / "a.jsonl", messages=CHATS)
    cache = {} if streams else {"cache_dir": str(tmp_path)}
    dataset = datasets.load_dataset("json", data_files=str(path), split="train", streaming=streams, **cache)
    dataset = dataset.map(lambda row: row) if mapped else dataset
    expected = written(theirs, [row["messages"] for row in dataset])
    assert expected == written(theirs)
    assert texts_of(ss.HFDataset(dataset), theirs) == expected


@pytest.mark.parametrize("is_list", [False, True])
def test_generators_are_exact(theirs: Any, is_list: bool) -> None:
    """Items hold messages of any keys, and tools or none."""
    items = [{"messages": chat, "tools": tools} for chat, tools in zip(CHATS, TOOLS, strict=True)]
    source = ss.Generator(items) if is_list else ss.Generator(lambda: iter(items))
    assert texts_of(source, theirs) == written(theirs, tools=TOOLS)


def test_text_of_json_is_read(tmp_path: Path, theirs: Any) -> None:
    """Chats and tools may be text, whole or message by message."""
    texts = {"messages": [json.dumps(chat) for chat in CHATS], "tools": [json.dumps(tools) for tools in TOOLS]}
    pq.write_table(pa.table(texts), tmp_path / "a.parquet")
    assert texts_of(ss.Parquet(tmp_path / "a.parquet"), theirs) == written(theirs, tools=TOOLS)
    each = pa.table({"messages": [[json.dumps(message) for message in chat] for chat in CHATS]})
    pq.write_table(each, tmp_path / "b.parquet")
    assert texts_of(ss.Parquet(tmp_path / "b.parquet"), theirs) == written(theirs)


def test_nulls_that_structs_put_in_are_left_out(tmp_path: Path, theirs: Any) -> None:
    """In a struct of Parquet or of a data set a null may stand for a missing key: nulls are not rendered."""
    chats = [[ASK, call(city="Rome")], [ASK, call(days=2)]]
    table = pa.table({"messages": pa.array(chats)})
    pq.write_table(table, tmp_path / "a.parquet")
    made = datasets.Dataset(table)
    for source in (ss.Parquet(tmp_path / "a.parquet"), ss.HFDataset(made), ss.HFDataset(made.to_iterable_dataset())):
        assert texts_of(source, theirs) == written(theirs, chats)


def test_a_stage_may_change_messages(tmp_path: Path, theirs: Any) -> None:
    """After a `Map` its struct is rendered, not the text of the file."""
    path = save(tmp_path / "a.jsonl", messages=CHATS[1:3])

    def mend(table: pa.Table) -> pa.Table:
        chats = table["messages"].to_pylist()
        assert any(message[EXACT] for chat in chats for message in chat)
        for chat in chats:
            chat[0]["content"] = chat[1]["content"] = "mended"
        return table.set_column(0, "messages", pa.array(chats, table.schema.field("messages").type))

    stages = ss.Map(mend), ss.Tokenize(theirs, field="messages", chat="all"), ss.Unbucketed(1)
    texts = [theirs.decode(batch.input_ids[0]) for batch in ss.Loader(ss.JsonLines(path), *stages, shuffle=False)]
    assert all(text.count("mended") == 2 for text in texts)


def test_batches_do_not_show_the_text(tmp_path: Path) -> None:
    """Messages that are not tokenised are dicts in a batch, without the field for their text."""
    path = save(tmp_path / "a.jsonl", text=["a"] * 2, messages=CHATS[1:3])
    stages = ss.Tokenize(lambda texts: [[1]] * len(texts)), ss.Unbucketed(2)
    (batch,) = ss.Loader(ss.JsonLines(path), *stages)
    assert all(EXACT not in message for chat in batch.messages for message in chat)


def test_arguments_of_the_template(theirs: Any) -> None:
    """Variables of a record are passed to its template, and cannot change what Tokenize decides."""
    table = {"m": [json.dumps([ASK])] * 2, "chat_template_kwargs": ['{"shout": true}', None]}
    stage = ss.Tokenize(theirs, field="m", chat="all")
    made = columns_of(stage, **table)
    assert [theirs.decode(row) for row in made["input_ids"]] == ["!<user>?", "<user>?"]
    assert set(made) == {"input_ids", "labels"}
    for wrong, message in (
        (
            '{"add_generation_prompt": true}',
            r"^column 'chat_template_kwargs' cannot set 'add_generation_prompt', which",
        ),
        ("3", r"^column 'chat_template_kwargs' must hold dicts, got 3; mend"),
        ("{", r"^column 'chat_template_kwargs' must hold JSON where it holds text: "),
    ):
        with pytest.raises(RecordError, match=message) as caught:
            columns_of(stage, m=table["m"], chat_template_kwargs=[None, wrong])
        assert caught.value.row_id == 1


def test_tools_stay_where_no_template_names_them(bpe_tokenizer: Tokenizer) -> None:
    """A template that has no use for tools leaves the column to the batch; one for tools is used where there are some."""
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    stage = ss.Tokenize(transformers_of(bpe_tokenizer, chat_template=plain), field="m", chat="all")
    assert columns_of(stage, m=[json.dumps([ASK])], tools=["[]"])["tools"] == ["[]"]
    both = transformers_of(bpe_tokenizer, chat_template={"default": plain, "tool_use": plain + "{{ tools[0].name }}"})
    made = columns_of(ss.Tokenize(both, field="m", chat="all"), m=[json.dumps([ASK])] * 2, tools=['[{"name": "f"}]', None])
    tools = [[{"name": "f"}], None]
    assert made["input_ids"] == [both.apply_chat_template([ASK], tools=own)["input_ids"] for own in tools]
