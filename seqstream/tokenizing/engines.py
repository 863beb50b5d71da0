"""Choosing the engine that turns texts into ids, and proving it: the fastest counts only if its ids are the tokenizer's own.

An engine is built when it is first used, and again in a forked child: none can be pickled, and threads do not survive a fork.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import warnings
from array import array
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, get_args

import numpy as np

from seqstream.tokenizing.probes import first_texts, hostile_texts
from seqstream.tokenizing.python_tokenizers import RowError, blame, flatten, shorten
from seqstream.tokenizing.token_rows import TokenRows, join
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

EngineName: TypeAlias = Literal["auto", "tokenizers", "fastokens", "nanotoken"]
Encode: TypeAlias = Callable[[list[str]], TokenRows]

REFERENCE = "tokenizers"
FUNCTION = "function"
"""The engine of a user's own function: there is no other."""

_FASTEST = {"BPE": "fastokens", "WordPiece": "nanotoken"}
FAST_ENGINES = frozenset(_FASTEST.values())
"""They fill a window of 64 MiB in about a second."""

_SHOWN_CHARS = 60
_logger = logging.getLogger("seqstream")


class EngineWarning(UserWarning):
    """A fast engine gave other ids than the tokenizer itself, and is not used."""


class EngineError(ValueError):
    """An engine cannot take a tokenizer."""


class Engine:
    """Encodes texts, with one engine and one tokenizer; may be pickled and forked."""

    def __init__(self, tokenizer_spec: TokenizerSpec, name: str) -> None:
        self.tokenizer_spec = tokenizer_spec
        self.name = name
        self._encode: Encode | None = None
        self._pid = 0

    def __call__(self, texts: list[str]) -> TokenRows:
        """Return the ids of each text: padding and truncation off, special tokens as the blueprint says.

        Raises:
            RowError: It cannot encode a text.
        """
        try:
            return self.encode(texts)
        except (KeyboardInterrupt, SystemExit, RowError, EngineError, ModuleNotFoundError):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            if self.name == FUNCTION:
                raise
            raise refusal(self.tokenizer_spec, self.name, self.encode, texts, error) from error

    def encode(self, texts: list[str]) -> TokenRows:
        """Do so, but raise what the engine itself raises."""
        if self._encode is None or self._pid != os.getpid():
            self._encode, self._pid = self._build(), os.getpid()
        return self._encode(texts)

    @functools.cached_property
    def bare(self) -> Engine:
        """The same engine of the same tokenizer, without special tokens."""
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
            raise EngineError(f"engine {self.name} cannot take tokenizer {self.tokenizer_spec}: {error}; {remedy}") from error


def is_installed(name: str) -> bool:
    """Say whether an engine can be imported, without importing it."""
    return name == FUNCTION or importlib.util.find_spec(name) is not None


def choose_engine(tokenizer_spec: TokenizerSpec, wanted: str, texts: Iterable[str | None]) -> Engine:
    """Return the fastest engine whose ids are equal to those of `tokenizers`, or the wanted one if they are.

    Every engine but `tokenizers` itself is compared on a fixed set of hostile texts and on the first of ``texts``.

    Raises:
        ValueError: The wanted engine gives other ids, or cannot take the tokenizer.
        ModuleNotFoundError: The wanted engine is not installed.

    Warns:
        EngineWarning: The fastest engine gives other ids, so `tokenizers` is used.
    """
    if tokenizer_spec.is_function:
        return Engine(tokenizer_spec, FUNCTION)
    name = _FASTEST.get(tokenizer_spec.kind, REFERENCE) if wanted == "auto" else wanted
    if name == REFERENCE:
        return Engine(tokenizer_spec, REFERENCE)
    if wanted == "auto" and not is_installed(name):
        _advise(name)
        return Engine(tokenizer_spec, REFERENCE)
    proof = proof_of(tokenizer_spec, name)
    try:
        difference = proof.find_difference(list(first_texts(texts)))
    except EngineError as error:
        if wanted != "auto":
            raise
        _logger.warning("%s is used, which is slower: %s", REFERENCE, error)
        return proof.reference
    if difference is None:
        return proof.engine
    if wanted != "auto":
        raise EngineError(f"{difference}; use engine='{REFERENCE}' or 'auto'")
    warnings.warn(f"{difference}; {REFERENCE} is used, which is slower and exact", EngineWarning, stacklevel=2)
    return proof.reference


class Proof:
    """What is known of an engine: whether it has given the ids of `tokenizers` for all texts on which both were compared."""

    def __init__(self, tokenizer_spec: TokenizerSpec, name: str) -> None:
        self.engine = Engine(tokenizer_spec, name)
        self.reference = Engine(tokenizer_spec, REFERENCE)
        self._known: set[bytes] = set()
        self._found: str | EngineError | None = None

    def find_difference(self, texts: list[str]) -> str | None:
        """Describe the first text, hostile ones first, for which the two give other ids; ``None`` if there is none.

        Raises:
            EngineError: The engine cannot take the tokenizer, or raises on one of the texts.
        """
        known = hashlib.blake2b(repr(texts).encode(), digest_size=16).digest()
        if self._found is None and known not in self._known:
            proved = self.engine.tokenizer_spec.added_tokens if not self._known else None
            hostile = [] if proved is None else hostile_texts(proved)
            try:
                self._found = find_difference(self.engine, self.reference, [*hostile, *texts])
            except EngineError as error:
                self._found = error
            self._known.add(known)
        if isinstance(self._found, EngineError):
            raise self._found
        return self._found


@functools.lru_cache(maxsize=4)
def proof_of(tokenizer_spec: TokenizerSpec, name: str) -> Proof:
    """Return the proof of an engine, the same for the same tokenizer: loaders made anew have nothing to prove again.

    It keeps both engines: each new `tokenizers.Tokenizer` that encodes leaves a third of a megabyte behind in its threads.
    """
    return Proof(tokenizer_spec, name)


def find_failing(encode: Callable[[list[str]], object], texts: list[str]) -> tuple[int, BaseException] | None:
    """Return the first text, and the error, for which a function raises, halving those that it was given; it may not be one."""
    begin, end, found = 0, len(texts), None
    while begin < end:
        middle = max(begin + 1, (begin + end) // 2)
        try:
            encode(texts[begin:middle])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
            end = middle
            if end - begin == 1:
                found = begin, error
                break
        else:
            begin = middle
    return found


def refusal(
    tokenizer_spec: TokenizerSpec, name: str, encode: Callable[[list[str]], object], texts: list[str], error: BaseException
) -> BaseException:
    """Return the error that says which text an engine cannot encode; the one it has raised if it is no single text."""
    failing = find_failing(encode, texts)
    if failing is None:
        return error
    row, error = failing
    shown = shorten(texts[row])
    if name == REFERENCE:
        remedy = "give the tokenizer an unknown token, or change such texts in a Map before"
        return RowError(f"tokenizer {tokenizer_spec} cannot encode {shown!r}: {error}; {remedy}", row)
    return RowError(f"engine {name} cannot encode {shown!r}: {error}; set Tokenize(engine='{REFERENCE}')", row)


@functools.cache
def _advise(name: str) -> None:
    """Say once per process what to install: a line of log, since nothing is wrong that ``-W error`` should stop."""
    _logger.warning("tokenising is 8 to 47 times faster with engine %s: pip install 'seqstream[fast]'", name)


def find_difference(engine: Engine, reference: Engine, texts: list[str]) -> str | None:
    """Describe the first text to which two engines give other ids, or return ``None``.

    Raises:
        EngineError: The engine cannot take the tokenizer, or raises on one of the texts.
    """
    texts = _encodable(reference, texts)
    expected, actual = reference.encode(texts), _attempt(engine, texts)
    if np.array_equal(expected.offsets, actual.offsets) and np.array_equal(expected.ids, actual.ids):
        return None
    for row, text in enumerate(texts):
        ours, theirs = _row(expected, row), _row(actual, row)
        if ours != theirs:
            names = f"engine {engine.name} gives other ids than {reference.name}"
            at = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
            shown = f"from id {at} on {_excerpt(theirs, at)} where {reference.name} gives {_excerpt(ours, at)}"
            return f"{names} for {_text_at(reference.tokenizer_spec, text, at)!r}: {shown}"
    return f"engine {engine.name} returned {len(actual):,} rows for {len(texts):,} texts"


def _encodable(reference: Engine, texts: list[str]) -> list[str]:
    """Return the texts that the reference itself can encode: a WordPiece model without an unknown token refuses some."""
    try:
        reference.encode(texts)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the Rust side raises no class of its own, and a panic there is no Exception
        if len(texts) == 1:
            return []
        half = len(texts) // 2
        return [*_encodable(reference, texts[:half]), *_encodable(reference, texts[half:])]
    return texts


def _attempt(engine: Engine, texts: list[str]) -> TokenRows:
    try:
        return engine.encode(texts)
    except (KeyboardInterrupt, SystemExit, EngineError, ModuleNotFoundError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        remedy = f"use engine='{REFERENCE}' or 'auto'"
        raise EngineError(f"engine {engine.name} cannot encode all texts: {error}; {remedy}") from error


def _row(rows: TokenRows, row: int) -> list[int]:
    ids: list[int] = rows.ids[rows.offsets[row] : rows.offsets[row + 1]].tolist() if row < len(rows) else []
    return ids


def _excerpt(ids: list[int], at: int) -> str:
    return f"[{', '.join(map(str, ids[at : at + 8]))}{', …' if len(ids) > at + 8 else ''}]"


def _text_at(tokenizer_spec: TokenizerSpec, text: str, at: int) -> str:
    """Return the text around the token where ids begin to differ."""
    if len(text) <= _SHOWN_CHARS:
        return text
    spans = tokenizer_spec.build().encode(text, add_special_tokens=tokenizer_spec.special_tokens).offsets
    begin = max(0, spans[min(at, len(spans) - 1)][0] - 20) if spans else 0
    return f"{'…' if begin else ''}{text[begin : begin + _SHOWN_CHARS]}…"


def _build_tokenizers(tokenizer_spec: TokenizerSpec) -> Encode:
    quiet_forks()
    encode_batch, special = tokenizer_spec.build().encode_batch_fast, tokenizer_spec.special_tokens

    def encode(texts: list[str]) -> TokenRows:
        flat = array("i")  # fromlist: 42-53 ns an id, against 63-159 for arrays joined and 52-102 for a chain
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
    ends: tuple[TokenRows, ...] = ()
    try:
        encode_batch_flat = fastokens.Tokenizer.from_json_str(tokenizer_spec.json).encode_batch_flat
    except ValueError:  # it may be the post-processor alone that it does not know: RoBERTa's
        encode_batch_flat = fastokens.Tokenizer.from_json_str(tokenizer_spec.bare.json).encode_batch_flat
        ends = tuple(map(TokenRows.constant, tokenizer_spec.ends))

    def encode(texts: list[str]) -> TokenRows:
        ids, offsets = encode_batch_flat(texts, special, split)
        rows = TokenRows(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64))
        return join([ends[0], rows, ends[1]], len(texts)) if ends else rows

    return encode


def _build_nanotoken(tokenizer_spec: TokenizerSpec) -> Encode:
    import nanotoken

    if tokenizer_spec.split_special_tokens:
        raise ValueError("it cannot take special tokens for ordinary text")
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again, for one text if it is about one
            row, raised = find_failing(function, texts) or (None, error)
            raised.add_note(f"in the tokenizer {name}")
            raise blame(raised, row) from None
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
    """Let a forked child of a process that has used `tokenizers` encode on one thread, without its warning.

    `tokenizers` reads ``TOKENIZERS_PARALLELISM`` inside of ``fork``: it is set just before, and unset in the parent just after.
    """
    if not hasattr(os, "register_at_fork"):
        return
    ours: list[bool] = []

    def before() -> None:
        ours.append("TOKENIZERS_PARALLELISM" not in os.environ)
        if ours[-1]:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def after_in_parent() -> None:
        if ours.pop():
            del os.environ["TOKENIZERS_PARALLELISM"]

    os.register_at_fork(before=before, after_in_parent=after_in_parent)
