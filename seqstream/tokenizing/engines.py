"""The engines that turn texts into ids: one class for all of them, and how each is built.

An engine is built at its first use in each process: none can be pickled, and threads do not survive a fork.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from array import array
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np

from seqstream.tokenizing.failing_texts import TextError, find_failing_text, shorten, with_text_index
from seqstream.tokenizing.python_tokenizers import flatten
from seqstream.tokenizing.token_rows import TokenRows, join
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

EngineName: TypeAlias = Literal["auto", "tokenizers", "fastokens", "nanotoken"]
Encode: TypeAlias = Callable[[list[str]], TokenRows]

REFERENCE = "tokenizers"
FUNCTION = "function"
"""The engine of a user's own function, which no other engine can replace."""

FASTEST = {"BPE": "fastokens", "WordPiece": "nanotoken"}
"""The fastest engine for each type of model; `REFERENCE` for the other types."""

FAST_ENGINES = frozenset(FASTEST.values())
"""Engines that fill a window of 64 MiB in about a second."""


class EngineWarning(UserWarning):
    """A fast engine returned other ids than the tokenizer itself, and is not used."""


class EngineError(ValueError):
    """An engine cannot use a tokenizer, or returns other ids."""


class Engine:
    """Encodes texts with one engine and one tokenizer; can be pickled and used in a forked child."""

    def __init__(self, tokenizer_spec: TokenizerSpec, name: str) -> None:
        self.tokenizer_spec = tokenizer_spec
        self.name = name
        self._encode: Encode | None = None
        self._pid = 0

    def __call__(self, texts: list[str]) -> TokenRows:
        """Return the ids of each text: no padding or truncation, special tokens as the `TokenizerSpec` says.

        Raises:
            TextError: The engine cannot encode one of the texts.
        """
        try:
            return self.encode(texts)
        except (KeyboardInterrupt, SystemExit, TextError, EngineError, ModuleNotFoundError):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            if self.name == FUNCTION:
                raise
            raise encoding_error(self.tokenizer_spec, self.name, self.encode, texts, error) from error

    def encode(self, texts: list[str]) -> TokenRows:
        """Return the ids of each text, and raise what the engine itself raises."""
        if self._encode is None or self._pid != os.getpid():
            self._encode, self._pid = self._build(), os.getpid()
        return self._encode(texts)

    @functools.cached_property
    def bare(self) -> Engine:
        """The same engine and tokenizer without special tokens."""
        bare = self.tokenizer_spec.bare
        return self if bare == self.tokenizer_spec else Engine(bare, self.name)

    def __reduce__(self) -> tuple[type[Engine], tuple[TokenizerSpec, str]]:
        return Engine, (self.tokenizer_spec, self.name)

    def _build(self) -> Encode:
        if not is_installed(self.name):
            raise ModuleNotFoundError(f"engine {self.name} is not installed; pip install 'seqstream[fast]'", name=self.name)
        try:
            return _BUILDERS[self.name](self.tokenizer_spec)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            remedy = f"use engine='{REFERENCE}' or 'auto'"
            raise EngineError(f"engine {self.name} cannot use tokenizer {self.tokenizer_spec}: {error}; {remedy}") from error


def is_installed(name: str) -> bool:
    """Return whether an engine can be imported, without importing it."""
    return name == FUNCTION or importlib.util.find_spec(name) is not None


def encoding_error(
    tokenizer_spec: TokenizerSpec, name: str, encode: Callable[[list[str]], object], texts: list[str], error: BaseException
) -> BaseException:
    """Return a `TextError` for the text that an engine cannot encode; ``error`` if it encodes each text alone."""
    failing = find_failing_text(encode, texts)
    if failing is None:
        return error
    index, error = failing
    shown = shorten(texts[index])
    if name == REFERENCE:
        remedy = "give the tokenizer an unknown token, or change such texts in a Map before"
        return TextError(f"tokenizer {tokenizer_spec} cannot encode {shown!r}: {error}; {remedy}", index)
    return TextError(f"engine {name} cannot encode {shown!r}: {error}; set Tokenize(engine='{REFERENCE}')", index)


def _build_tokenizers(tokenizer_spec: TokenizerSpec) -> Encode:
    quiet_forks()
    encode_batch, special = tokenizer_spec.build().encode_batch_fast, tokenizer_spec.special_tokens

    def encode(texts: list[str]) -> TokenRows:
        flat = array("i")  # fromlist: 42-53 ns per id, against 63-159 for joined arrays and 52-102 for itertools.chain
        encodings = encode_batch(texts, add_special_tokens=special)
        for encoding in encodings:
            flat.fromlist(encoding.ids)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encodings), np.int64, len(texts)), out=offsets[1:])
        return TokenRows(np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32), offsets)

    return encode


def _build_fastokens(tokenizer_spec: TokenizerSpec) -> Encode:
    import fastokens

    special, split = tokenizer_spec.special_tokens, tokenizer_spec.split_special_tokens
    around: tuple[TokenRows, ...] = ()
    try:
        encode_batch_flat = fastokens.Tokenizer.from_json_str(tokenizer_spec.json).encode_batch_flat
    except ValueError:  # perhaps it lacks only the post-processor, such as RoBERTa's
        encode_batch_flat = fastokens.Tokenizer.from_json_str(tokenizer_spec.bare.json).encode_batch_flat
        around = tuple(map(TokenRows.constant, (tokenizer_spec.special_before, tokenizer_spec.special_after)))

    def encode(texts: list[str]) -> TokenRows:
        ids, offsets = encode_batch_flat(texts, special, split)
        rows = TokenRows(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64))
        return join([around[0], rows, around[1]], len(texts)) if around else rows

    return encode


def _build_nanotoken(tokenizer_spec: TokenizerSpec) -> Encode:
    import nanotoken

    if tokenizer_spec.split_special_tokens:
        raise ValueError("it cannot encode special tokens as ordinary text")
    encode_batch, special = nanotoken.Tokenizer.from_json(tokenizer_spec.json).encode_batch, tokenizer_spec.special_tokens

    def encode(texts: list[str]) -> TokenRows:
        rows = encode_batch(texts, add_special_tokens=special)
        return TokenRows(rows.ids.view(np.int32), rows.offsets)

    return encode


def _build_function(tokenizer_spec: TokenizerSpec) -> Encode:
    name, function = tokenizer_spec.name, tokenizer_spec.function

    def encode(texts: list[str]) -> TokenRows:
        try:
            rows = function(texts)
        except Exception as error:  # noqa: BLE001 - it is raised again, for the one text that fails if there is one
            index, raised = find_failing_text(function, texts) or (None, error)
            raised.add_note(f"in the tokenizer {name}")
            raise with_text_index(raised, index) from None
        return flatten(name, rows, len(texts))

    return encode


_BUILDERS: dict[str, Callable[[TokenizerSpec], Encode]] = {
    REFERENCE: _build_tokenizers,
    "fastokens": _build_fastokens,
    "nanotoken": _build_nanotoken,
    FUNCTION: _build_function,
}
ENGINES: tuple[str, ...] = get_args(EngineName)


@functools.cache
def quiet_forks() -> None:
    """Make forked children of a process that has used `tokenizers` encode on one thread, without a warning of `tokenizers`.

    `tokenizers` reads ``TOKENIZERS_PARALLELISM`` during ``fork``: it is set just before, and unset in the parent just after.
    """
    if not hasattr(os, "register_at_fork"):
        return
    set_here: list[bool] = []

    def before() -> None:
        set_here.append("TOKENIZERS_PARALLELISM" not in os.environ)
        if set_here[-1]:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def after_in_parent() -> None:
        if set_here.pop():
            del os.environ["TOKENIZERS_PARALLELISM"]

    os.register_at_fork(before=before, after_in_parent=after_in_parent)
