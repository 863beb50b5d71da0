"""Which tokens of a text lie in some stretches of its characters: what an assistant says in a chat.

Shapes: ``N`` texts, ``T`` tokens of all of them.
"""

from __future__ import annotations

import functools
import itertools
import os
from array import array
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from seqstream.arrays import positions
from seqstream.tokenizing.engines import REFERENCE, Engine, quiet_forks, refusal
from seqstream.tokenizing.python_tokenizers import RowError
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

Span: TypeAlias = tuple[int, int]
"""A stretch of a text, from character to character."""

ASSISTANT = "said"


def encode_with_mask(texts: list[str], spans: Sequence[Sequence[Span]], engine: Engine) -> TokenRows:
    """Encode texts, and say which tokens lie in some spans of them.

    No engine but `tokenizers` says of which characters a token is. So texts are also cut where spans begin and end: where what
    is cut gives together the ids of the whole, each token is of one part of it, and only other texts are encoded once more.

    Args:
        texts: ``N`` texts.
        spans: Of each text, ascending.
        engine: What encodes them, without special tokens.

    Returns:
        ``N`` rows, and beside their ids ``said``, true on those of which a character is in a span.
    """
    if engine.name == REFERENCE:
        return _by_offsets(texts, spans, engine.tokenizer_spec)
    rows, cut = _encode_twice(texts, spans, engine)
    said = [cut.beside[ASSISTANT][cut.span(row)] for row in range(len(rows))]
    odd = [row for row in range(len(rows)) if not np.array_equal(rows.ids[rows.span(row)], cut.ids[cut.span(row)])]
    if odd:
        exact = _by_offsets([texts[row] for row in odd], [spans[row] for row in odd], engine.tokenizer_spec)
        for number, row in enumerate(odd):
            said[row] = exact.beside[ASSISTANT][exact.span(number)]
    return TokenRows(rows.ids, rows.offsets, {ASSISTANT: np.concatenate([np.zeros(0, bool), *said])})


def _encode_twice(texts: list[str], spans: Sequence[Sequence[Span]], engine: Engine) -> tuple[TokenRows, TokenRows]:
    """Return the rows of texts, and those of their parts joined, in one call; parts are in spans and between them in turn."""
    cuts = [[0, *(at for span in own for at in span), len(text)] for text, own in zip(texts, spans, strict=True)]
    parts = [text[begin:end] for text, own in zip(texts, cuts, strict=True) for begin, end in itertools.pairwise(own)]
    firsts = np.cumsum([0, *(len(own) - 1 for own in cuts)])
    try:
        encoded = engine([*texts, *parts])
    except RowError as error:
        row = error.row - len(texts)
        raise RowError(str(error), error.row if row < 0 else int(np.searchsorted(firsts, row, side="right")) - 1) from error
    num_ids = int(encoded.offsets[len(texts)])
    offsets = encoded.offsets[len(texts) :] - num_ids
    in_span = positions(np.diff(firsts)) % 2 == 1
    said = np.repeat(in_span, np.diff(offsets))
    whole = TokenRows(encoded.ids[:num_ids], encoded.offsets[: len(texts) + 1])
    return whole, TokenRows(encoded.ids[num_ids:], offsets[firsts], {ASSISTANT: said})


def _by_offsets(texts: list[str], spans: Sequence[Sequence[Span]], tokenizer_spec: TokenizerSpec) -> TokenRows:
    """Encode texts by `tokenizers`, which tells the characters of each token."""
    tokenizer = _build(tokenizer_spec.bare.json, tokenizer_spec.split_special_tokens, os.getpid())
    try:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise refusal(tokenizer_spec, REFERENCE, tokenizer.encode_batch, texts, error) from error
    flat = array("i")
    for encoding in encodings:
        flat.fromlist(encoding.ids)
    said = [_in_spans(np.array(encoding.offsets).reshape(-1, 2), own) for encoding, own in zip(encodings, spans, strict=True)]
    ids = np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32)
    return TokenRows(ids, np.cumsum([0, *map(len, said)]), {ASSISTANT: np.concatenate([np.zeros(0, bool), *said])})


def _in_spans(offsets: npt.NDArray[np.int64], spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Say which tokens, known by where they begin and end, lie in spans; one of no characters does if its neighbours do."""
    said = np.zeros(len(offsets), bool)
    for begin, end in spans:
        found = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
        if len(found):
            said[found[0] : found[-1] + 1] = True
    return said


@functools.lru_cache(maxsize=4)
def _build(json: str, split_special_tokens: bool, pid: int) -> Tokenizer:
    """Return the tokenizer of a process; a bare one, as its post-processor might trim the spaces off the offsets."""
    quiet_forks()
    tokenizer = Tokenizer.from_str(json)
    tokenizer.encode_special_tokens = split_special_tokens
    return tokenizer
