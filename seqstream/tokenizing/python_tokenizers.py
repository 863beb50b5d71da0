"""Tokenizers written in Python: users' functions, and those of transformers that are not fast ones."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from seqstream.tokenizing.token_rows import TokenRows

EncodeTexts: TypeAlias = Callable[[list[str]], Sequence[Any]]
"""A user's own tokenizer: texts in, as many sequences of ids out."""

_SHOWN_CHARS = 60
PROBES = ["a", "The quick brown fox jumps over 13 lazy dogs.", "Où est la gare ?", "日本語のテキスト"]
"""Texts by which tokenizers are looked at: harmless ones, which most can take."""


class SlowTokenizer(Protocol):
    """A transformers tokenizer written in Python."""

    pad_token_id: int | None
    padding_side: str
    truncation_side: str

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], **settings: bool) -> Mapping[str, list[list[int]]]: ...


class RowError(ValueError):
    """One text of a call is to blame; ``row`` is its number in the call."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def blame(error: BaseException, row: int | None) -> BaseException:
    """Return an error of a user's function that says of itself which text of the call it is about, if that is known."""
    if row is not None:
        with contextlib.suppress(AttributeError, TypeError):  # one may take no attributes
            error.text_row = row  # type: ignore[attr-defined]
    return error


def encode_slow(tokenizer: SlowTokenizer, special_tokens: bool, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, with padding and truncation off."""
    return tokenizer(texts, add_special_tokens=special_tokens, padding=False, truncation=False)["input_ids"]


def digest_of(name: str, function: EncodeTexts) -> str:
    """Return a hash of the ids that a function gives for a few texts, or of its name if it cannot take them.

    Raises:
        TypeError: It returns no sequence.
        ValueError: It returns something other than ids for each text.
    """
    try:
        ids: Any = function(list(PROBES))
    except Exception:  # noqa: BLE001 - it may know other texts only; then its name is all that says which it is
        return hashlib.sha256(name.encode()).hexdigest()
    return hashlib.sha256(flatten(name, ids, len(PROBES)).ids.tobytes()).hexdigest()


def flatten(name: str, rows: Sequence[Any], num_texts: int) -> TokenRows:
    """Put what a user's tokenizer returned into one buffer.

    Raises:
        TypeError: It is not a sequence.
        ValueError: It is not one sequence of ids for each text.
    """
    if isinstance(rows, (str, bytes, dict)) or not hasattr(rows, "__len__"):
        raise TypeError(f"tokenizer {name} must return a list with the ids of each text, got {type(rows).__name__}")
    if len(rows) != num_texts:
        raise ValueError(f"tokenizer {name} must return the ids of each of {num_texts:,} texts, got {len(rows):,} rows")
    flat = array("i")
    offsets = np.zeros(num_texts + 1, np.int64)
    for number, row in enumerate(rows):
        try:
            flat.fromlist(row if isinstance(row, list) else _as_list(row))
        except (TypeError, ValueError, OverflowError) as error:
            message = f"tokenizer {name} must return whole numbers below 2**31 as ids, got {_shown(row)}"
            raise RowError(message, number) from error
        offsets[number + 1] = len(flat)
    ids = np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32)
    if (ids < 0).any():
        row = int(np.searchsorted(offsets, np.argmax(ids < 0), side="right")) - 1
        raise RowError(f"tokenizer {name} must return ids from 0 up, got {_shown(rows[row])}", row)
    return TokenRows(ids, offsets)


def _as_list(row: object) -> list[int]:
    ids = np.asarray(row)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError("not a row of whole numbers")
    listed: list[int] = ids.tolist()
    return listed


def _shown(row: object) -> str:
    return shorten(repr(row))


def shorten(text: str) -> str:
    """Return a text as messages show it, its end left out if it is long."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
