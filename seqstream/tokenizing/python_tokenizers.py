"""Tokenizers written in Python: functions of the user, and transformers tokenizers that are not fast ones."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from seqstream.tokenizing.failing_texts import TextError, shorten
from seqstream.tokenizing.token_rows import TokenRows

EncodeTexts: TypeAlias = Callable[[list[str]], Sequence[Any]]
"""A user's own tokenizer: from a list of texts to a sequence of ids for each."""

PROBES = ["a", "The quick brown fox jumps over 13 lazy dogs.", "Où est la gare ?", "日本語のテキスト"]
"""Texts that show how a tokenizer works; most tokenizers can encode them."""


class SlowTokenizer(Protocol):
    """A transformers tokenizer written in Python."""

    pad_token_id: int | None
    padding_side: str
    truncation_side: str

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], **settings: bool) -> Mapping[str, list[list[int]]]: ...


def encode_slow(tokenizer: SlowTokenizer, special_tokens: bool, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, without padding or truncation."""
    return tokenizer(texts, add_special_tokens=special_tokens, padding=False, truncation=False)["input_ids"]


def digest_of(name: str, function: EncodeTexts) -> str:
    """Return a SHA-256 hash of the ids that a function returns for `PROBES`, or of its name if it cannot encode them.

    Raises:
        TypeError: The function does not return a sequence.
        ValueError: The function returns something other than ids for each text.
    """
    try:
        ids: Any = function(list(PROBES))
    except Exception:  # noqa: BLE001 - it may know other texts only; then its name is all that identifies it
        return hashlib.sha256(name.encode()).hexdigest()
    return hashlib.sha256(flatten(name, ids, len(PROBES)).ids.tobytes()).hexdigest()


def flatten(name: str, rows: Sequence[Any], num_texts: int) -> TokenRows:
    """Put the ids that a user's tokenizer returned into one buffer.

    Args:
        name: The tokenizer, for messages.
        rows: The return value: a sequence of ids for each text.
        num_texts: Number of texts that the tokenizer was called with.

    Raises:
        TypeError: ``rows`` is not a sequence.
        ValueError: ``rows`` has another number of rows.
        TextError: The row of one text does not hold ids.
    """
    if isinstance(rows, (str, bytes, dict)) or not hasattr(rows, "__len__"):
        raise TypeError(f"tokenizer {name} must return a list with the ids of each text, got {type(rows).__name__}")
    if len(rows) != num_texts:
        raise ValueError(f"tokenizer {name} must return the ids of each of {num_texts:,} texts, got {len(rows):,} rows")
    flat = array("i")
    offsets = np.zeros(num_texts + 1, np.int64)
    for index, row in enumerate(rows):
        try:
            flat.fromlist(row if isinstance(row, list) else _as_list(row))
        except (TypeError, ValueError, OverflowError) as error:
            message = f"tokenizer {name} must return whole numbers below 2**31 as ids, got {shorten(repr(row))}"
            raise TextError(message, index) from error
        offsets[index + 1] = len(flat)
    ids = np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32)
    if (ids < 0).any():
        index = int(np.searchsorted(offsets, np.argmax(ids < 0), side="right")) - 1
        raise TextError(f"tokenizer {name} must return ids from 0 up, got {shorten(repr(rows[index]))}", index)
    return TokenRows(ids, offsets)


def _as_list(row: object) -> list[int]:
    ids = np.asarray(row)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError("not a row of whole numbers")
    as_list: list[int] = ids.tolist()
    return as_list
