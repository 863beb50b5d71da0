"""Messages in the shape of ShareGPT, ``{"from": "human", "value": ...}``, as messages that chat templates render."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""The role of each sender, as ShareGPT, Vicuna and LLaMA-Factory name them."""


def with_roles(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with ``role`` and ``content`` in place of ``from`` and ``value``; those with a ``role`` as they are.

    Raises:
        ValueError: A sender is not known.
    """
    return [_with_role(message) if "from" in message and "role" not in message else message for message in messages]


def _with_role(message: dict[str, Any]) -> dict[str, Any]:
    sender = message["from"]
    role = ROLES.get(sender.lower()) if isinstance(sender, str) else None
    if role is None:
        known = ", ".join(ROLES)
        raise ValueError(f"must have messages from {known}, got one from {sender!r:.40}; set 'role' and 'content' in a Map")
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    content = {"content": message["value"]} if "value" in message and "content" not in message else {}
    return {"role": role, **content, **others}
