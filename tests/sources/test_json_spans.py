"""Objects in lines of JSON, found without parsing: the same as those of a parser."""

from __future__ import annotations

import json

import numpy as np
import pytest

from seqstream.sources.tables.json_spans import Spans

TRICKY = ['say "hi"', "back\\", '\\"', "{[", "]}", '": "', "é😀", "", "a\tb\n"]
ITEMS = [
    *({"role": text, text or "x": "plain"} for text in TRICKY),
    {"role": "a", "content": None},
    {"role": None, "content": None},
    {"role": "a", "calls": [""], "content": None},
    {"role": "a", "calls": []},
    {"role": "a", "calls": [{"f": {"messages": [{"role": "x"}]}}]},
    {"role": "a", "weight": 1.5},
    {},
]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\t", " : ")])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_objects_are_those_that_a_parser_finds(separators: tuple[str, str], is_ascii: bool) -> None:
    """Ranges, counts and contents of the objects are right, whatever strings, other fields and white space hold."""
    records = [
        {"meta": {"messages": [{"role": 1}]}, "messages": ITEMS, "smessages": [{"role": 2}]},
        {"messages": []},
        {"other": [{"role": 3}]},
        {"messages": None},
        *({"name": item.get("role"), "messages": [item, item]} for item in ITEMS),
    ]
    lines = [json.dumps(record, ensure_ascii=is_ascii, separators=separators) for record in records]
    text = "\n\n".join(lines).encode() + b"\n"
    found = Spans(text).objects("messages")
    lists = [record["messages"] for record in records if isinstance(record.get("messages"), list)]
    items = [item for each in lists for item in each]
    assert found.counts.tolist() == list(map(len, lists))
    assert [json.loads(text[start:end]) for start, end in zip(found.starts, found.ends, strict=True)] == items
    assert found.has_more.tolist() == [not all(isinstance(value, str) for value in item.values()) for item in items]


@pytest.mark.parametrize("text", [b"", b"\n", b'{"a":1}\n', b'{"mess\\u0061ges":[{"a":1}]}\n'])
def test_no_objects(text: bytes) -> None:
    """There are none where the field is missing or its name is written with escapes."""
    found = Spans(text).objects("messages")
    assert len(found.counts) == len(found.starts) == 0
    assert found.has_more.dtype == np.bool_
