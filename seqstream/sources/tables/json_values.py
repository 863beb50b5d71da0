"""JSON in columns: what ``Json()`` features of data sets hold, and chats whose messages have keys of their own."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa


def encode_json(values: list[Any], kind: pa.DataType | None) -> tuple[list[Any], pa.DataType | None]:
    """Return values of a column as Arrow takes them, and their type, ``None`` for the one that Arrow finds.

    What a ``Json()`` feature holds becomes text, as it is stored; so do chats of a stream whose features nobody has said,
    if their messages hold more than text: a struct would give all messages the keys of each.
    """
    if kind is None and are_nested_chats(values):
        return [None if chat is None else [json.dumps(each, ensure_ascii=False) for each in chat] for chat in values], None
    if kind is not None and _holds_json(kind):
        return [_to_text(value, kind) for value in values], stored_type(kind)
    return values, None if isinstance(kind, pa.BaseExtensionType) else kind


def are_nested_chats(values: list[Any]) -> bool:
    """Return whether values are lists of messages that hold more than text."""
    if not isinstance(next((value for value in values if value is not None), None), list):
        return False
    lists = [value for value in values if value is not None]
    if not all(isinstance(chat, list) for chat in lists):
        return False
    messages = [message for chat in lists for message in chat]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        return False
    return any(not isinstance(part, str) for message in messages for part in message.values())


def _holds_json(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.JsonType):
        return True
    if pa.types.is_struct(kind):
        return any(_holds_json(field.type) for field in kind)
    return hasattr(kind, "value_type") and _holds_json(kind.value_type)


def _to_text(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.dumps(value, ensure_ascii=False)
    if pa.types.is_struct(kind):
        return {field.name: _to_text(value.get(field.name), field.type) for field in kind}
    return [_to_text(each, kind.value_type) for each in value] if hasattr(kind, "value_type") else value


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return a type with text where it has JSON."""
    if isinstance(kind, pa.JsonType):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(stored_type(field.type)) for field in kind])
    return pa.list_(stored_type(kind.value_type)) if hasattr(kind, "value_type") else kind
