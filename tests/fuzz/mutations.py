"""Small damage to inputs: bytes of files, and values of JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

_INSERTS = [
    b"\0",
    b"\r",
    b"\r\n",
    b"\n\n",
    b'"',
    b'""',
    b",",
    b"\t",
    b"\\",
    b"{",
    b"[" * 400,
    b"}",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"12345678901234567890123",
    b"\\ud83d",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"x" * 5_000,
]

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1 << 31,
    1 << 53,
    (1 << 53) + 1,
    1 << 63,
    1 << 64,
    10**30,
    -(10**400),
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud83d",
    "\0",
    "2024-01-01T00:00:00Z",
    "y" * 5_000,
    [],
    [None],
    [[1], "a"],
    {},
    {"a": None},
    {"": {"a": [1.5, 2]}},
]
"""Values of JSON that replace others."""


def damage_bytes(random: Random, data: bytes) -> bytes:
    """Return bytes with one change at a random place."""
    return random.choice(_DAMAGES)(random, data)


def damage_json(random: Random, value: Any) -> Any:
    """Return a value of JSON with one value in it, at any depth, swapped, removed, doubled, wrapped or replaced."""
    value = copy.deepcopy(value)
    picked = _pick(random, value)
    if picked is None:
        return copy.deepcopy(random.choice(VALUES))
    container, key = picked
    action = random.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1:
        other, name = _pick(random, value) or picked
        container[key] = copy.deepcopy(other[name])
    elif action == 2 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == 2:
        container[random.choice(["", "new", "text", f"{key} "])] = container[key]
    elif action == 3:
        container[key] = random.choice([[container[key]], {"a": container[key]}, str(container[key])])
    else:
        container[key] = copy.deepcopy(random.choice(VALUES))
    return value


def damage_text_of_json(random: Random, data: bytes) -> bytes:
    """Return JSON lines with one value of one line changed."""
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    try:
        lines[index] = json.dumps(damage_json(random, json.loads(lines[index])), ensure_ascii=random.random() < 0.5).encode()
    except (ValueError, UnicodeEncodeError):
        return damage_bytes(random, data)
    return b"\n".join(lines)


def _pick(random: Random, value: Any) -> tuple[Any, Any] | None:
    """Return the container and the key of a random value inside of another; ``None`` if there is none."""
    picked = None
    while isinstance(value, dict | list) and value and (picked is None or random.random() < 0.7):
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        picked, value = (value, key), value[key]
    return picked


def _flip(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes([byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]]) + data[at + 1 :]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_INSERTS) + data[at:]


def _delete(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.choice([1, 1, 2, 7, 100]) :]


def _truncate(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return random.choice([data[:at], data[at:], b""] if random.random() < 0.1 else [data[:at]])


def _reorder(random: Random, data: bytes) -> bytes:
    first, second, third = sorted(random.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _double(random: Random, data: bytes) -> bytes:
    first, second = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:second] + data[first:]


def _change_line(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    changes: list[list[bytes]] = [[], [lines[index]] * 2, [lines[index], b""], [lines[index] + b"\r"], [random.choice(lines)]]
    return b"\n".join([*lines[:index], *random.choice(changes), *lines[index + 1 :]])


def _change_line_ends(random: Random, data: bytes) -> bytes:
    return data.replace(b"\n", random.choice([b"\r\n", b"\r", b"\n\r\n"]), random.choice([1, 2, -1]))


def _mark(random: Random, data: bytes) -> bytes:
    return random.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\n", b"\r\n", b" "]) + data


_DAMAGES: list[Callable[[Random, bytes], bytes]] = [
    _flip,
    _flip,
    _insert,
    _insert,
    _insert,
    _delete,
    _delete,
    _truncate,
    _reorder,
    _double,
    _change_line,
    _change_line,
    _change_line_ends,
    _mark,
]
