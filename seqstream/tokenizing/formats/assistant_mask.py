"""Encoding texts with a mask of the tokens that lie in given spans of characters: those of the assistant in a chat.

Shapes: ``N`` texts, ``T`` tokens of all texts.
"""

from __future__ import annotations

import functools
import itertools
import os
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from seqstream.arrays import Index, Mask, positions
from seqstream.tokenizing.engines import REFERENCE, Engine, encoding_error, quiet_forks
from seqstream.tokenizing.failing_texts import TextError
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Span: TypeAlias = tuple[int, int]
"""A range of characters of a text: the first one, and the end."""

ASSISTANT = "assistant"
"""The parallel column of `TokenRows` that holds the mask."""


def encode_with_mask(texts: list[str], spans: Sequence[Sequence[Span]], engine: Engine) -> TokenRows:
    """Encode texts, and return which of their tokens lie in given spans.

    Only `tokenizers` reports the characters of each token. So for other engines each text is also encoded in parts, cut where
    spans begin and end. If the ids of the parts together are those of the whole text, each token lies in one part. Only other
    texts are encoded again by `tokenizers`.

    Args:
        texts: ``N`` texts.
        spans: The spans of each text, ascending.
        engine: A bare engine.

    Returns:
        ``N`` rows with the parallel column ``assistant``, ``bool (T,)``: whether any character of the token is in a span.

    Raises:
        TextError: The engine cannot encode one of the texts.
    """
    if engine.name == REFERENCE:
        return _encode_by_offsets(texts, spans, engine.tokenizer_spec)
    rows, by_parts = _encode_twice(texts, spans, engine)
    masks = [by_parts.parallel[ASSISTANT][by_parts.span(row)] for row in range(len(rows))]
    differ = [row for row in range(len(rows)) if not np.array_equal(rows.ids[rows.span(row)], by_parts.ids[by_parts.span(row)])]
    if differ:
        exact = _encode_by_offsets([texts[row] for row in differ], [spans[row] for row in differ], engine.tokenizer_spec)
        for number, row in enumerate(differ):
            masks[row] = exact.parallel[ASSISTANT][exact.span(number)]
    return TokenRows(rows.ids, rows.offsets, {ASSISTANT: np.concatenate([np.zeros(0, bool), *masks])})


def _encode_twice(texts: list[str], spans: Sequence[Sequence[Span]], engine: Engine) -> tuple[TokenRows, TokenRows]:
    """Return the rows of whole texts, and the rows joined from their parts, with the mask; in one call of the engine.

    The parts of a text lie outside of spans and in spans alternately, the first one outside.
    """
    cuts = [[0, *(at for span in own for at in span), len(text)] for text, own in zip(texts, spans, strict=True)]
    parts = [text[begin:end] for text, own in zip(texts, cuts, strict=True) for begin, end in itertools.pairwise(own)]
    first_parts = np.cumsum([0, *(len(own) - 1 for own in cuts)])
    try:
        encoded = engine([*texts, *parts])
    except TextError as error:
        part = error.index - len(texts)
        index = error.index if part < 0 else int(np.searchsorted(first_parts, part, side="right")) - 1
        raise TextError(str(error), index) from error
    num_ids = int(encoded.offsets[len(texts)])
    offsets = encoded.offsets[len(texts) :] - num_ids
    is_in_span = positions(np.diff(first_parts)) % 2 == 1
    mask = np.repeat(is_in_span, np.diff(offsets))
    whole = TokenRows(encoded.ids[:num_ids], encoded.offsets[: len(texts) + 1])
    return whole, TokenRows(encoded.ids[num_ids:], offsets[first_parts], {ASSISTANT: mask})


def _encode_by_offsets(texts: list[str], spans: Sequence[Sequence[Span]], tokenizer_spec: TokenizerSpec) -> TokenRows:
    """Encode texts by `tokenizers`, and compare the characters of each token with the spans."""
    tokenizer = _build(tokenizer_spec.bare.json, tokenizer_spec.split_special_tokens, os.getpid())
    try:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise encoding_error(tokenizer_spec, REFERENCE, tokenizer.encode_batch, texts, error) from error
    flat = array("i")
    for encoding in encodings:
        flat.fromlist(encoding.ids)
    masks = [_mask_of(np.array(encoding.offsets).reshape(-1, 2), own) for encoding, own in zip(encodings, spans, strict=True)]
    ids = np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32)
    return TokenRows(ids, np.cumsum([0, *map(len, masks)]), {ASSISTANT: np.concatenate([np.zeros(0, bool), *masks])})


def _mask_of(offsets: Index, spans: Sequence[Span]) -> Mask:
    """Return which tokens of a text lie in spans, ``bool (T,)``.

    A token without characters lies in a span if the tokens on both sides do.

    Args:
        offsets: ``int64 (T, 2)``, the first character and the end of each token.
        spans: The spans, ascending.
    """
    mask = np.zeros(len(offsets), bool)
    for begin, end in spans:
        found = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
        if len(found):
            mask[found[0] : found[-1] + 1] = True
    return mask


@functools.lru_cache(maxsize=4)
def _build(json: str, split_special_tokens: bool, pid: int) -> Tokenizer:
    """Return the bare tokenizer of a process: a post-processor might trim spaces off the offsets."""
    from tokenizers import Tokenizer

    quiet_forks()
    tokenizer = Tokenizer.from_str(json)
    tokenizer.encode_special_tokens = split_special_tokens
    return tokenizer
