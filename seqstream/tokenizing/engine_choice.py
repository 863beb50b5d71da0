"""Choosing the fastest engine that returns the ids of `tokenizers`: both encode difficult texts and the first of the data.

The proof that ids were equal is stored for later processes, with all that it depends on: tokenizer, engines, code and texts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import warnings
from collections.abc import Iterable

import numpy as np

from seqstream.records import Json
from seqstream.tokenizing import disk_cache
from seqstream.tokenizing.engines import FASTEST, FUNCTION, REFERENCE, Engine, EngineError, EngineWarning, is_installed
from seqstream.tokenizing.failing_texts import SHOWN_CHARS
from seqstream.tokenizing.probes import first_texts, hostile_texts
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

_HOSTILE = "hostile"
"""Stands for the hostile texts in the key of a proof."""

_logger = logging.getLogger("seqstream")


def choose_engine(tokenizer_spec: TokenizerSpec, wanted: str, texts: Iterable[str | None]) -> Engine:
    """Return the fastest engine, or the wanted one, if its ids are equal to those of `tokenizers`.

    Every engine but `tokenizers` itself is compared with it on a fixed set of hostile texts and on the first of ``texts``.

    Args:
        tokenizer_spec: The tokenizer.
        wanted: Name of an engine, or ``"auto"`` for the fastest one.
        texts: Texts of the data.

    Raises:
        EngineError: The wanted engine returns other ids, or cannot use the tokenizer.
        ModuleNotFoundError: The wanted engine is not installed.

    Warns:
        EngineWarning: The fastest engine returns other ids, so `tokenizers` is used.
    """
    if tokenizer_spec.is_function:
        return Engine(tokenizer_spec, FUNCTION)
    name = FASTEST.get(tokenizer_spec.kind, REFERENCE) if wanted == "auto" else wanted
    if name == REFERENCE:
        return Engine(tokenizer_spec, REFERENCE)
    if wanted == "auto" and not is_installed(name):
        _advise_install(name)
        return Engine(tokenizer_spec, REFERENCE)
    comparison = comparison_of(tokenizer_spec, name)
    try:
        difference = comparison.find_difference(list(first_texts(texts)))
    except EngineError as error:
        if wanted != "auto":
            raise
        _logger.warning("%s is used, which is slower: %s", REFERENCE, error)
        return comparison.reference
    if difference is None:
        return comparison.engine
    if wanted != "auto":
        raise EngineError(f"{difference}; use engine='{REFERENCE}' or 'auto'")
    warnings.warn(f"{difference}; {REFERENCE} is used, which is slower and exact", EngineWarning, stacklevel=2)
    return comparison.reference


class EngineComparison:
    """An engine beside `tokenizers`, and whether their ids were equal for all texts that both have encoded."""

    def __init__(self, tokenizer_spec: TokenizerSpec, name: str) -> None:
        self.engine = Engine(tokenizer_spec, name)
        self.reference = Engine(tokenizer_spec, REFERENCE)
        self._compared: set[str] = set()
        self._result: str | EngineError | None = None

    def find_difference(self, texts: list[str]) -> str | None:
        """Describe the first text with different ids; ``None`` if there is none. The first call compares hostile texts as well.

        A difference or an error that was found once is the result of every later call. Texts are not encoded that an earlier
        call, or another process, has compared.

        Raises:
            EngineError: The engine cannot use the tokenizer, or raises for one of the texts.
        """
        digest = hashlib.blake2b(repr(texts).encode(), digest_size=16).hexdigest()
        if self._result is None and digest not in self._compared and not self._is_proven(digest):
            is_hostile = not self._compared and not self._is_proven(_HOSTILE)
            hostile = hostile_texts(self.engine.tokenizer_spec.added_tokens) if is_hostile else []
            try:
                self._result = find_difference(self.engine, self.reference, [*hostile, *texts])
            except EngineError as error:
                self._result = error
            if self._result is None:
                for proven in [_HOSTILE] * is_hostile + [digest]:
                    disk_cache.save("proofs", self._proof_key(proven))
        self._compared.add(digest)
        if isinstance(self._result, EngineError):
            raise self._result
        return self._result

    def _is_proven(self, texts: str) -> bool:
        """Return whether a process has stored that the ids were equal for some texts, and for the hostile ones."""
        return disk_cache.load("proofs", self._proof_key(texts)) is not None

    def _proof_key(self, texts: str) -> Json:
        """Return everything on which the ids of both engines depend.

        Args:
            texts: Digest of texts of the data, or `_HOSTILE`.
        """
        return {**self._common_key, "texts": texts}

    @functools.cached_property
    def _common_key(self) -> dict[str, Json]:
        name, tokenizer_spec = self.engine.name, self.engine.tokenizer_spec
        fields = {each.name: getattr(tokenizer_spec, each.name) for each in dataclasses.fields(tokenizer_spec)}
        return {
            "tokenizer": {**fields, "name": None, "source": hashlib.sha256(tokenizer_spec.json.encode()).hexdigest()},
            "engine": [name, disk_cache.environment_of(name), _settings_of(name)],
            "reference": disk_cache.environment_of(REFERENCE),
            "code": disk_cache.own_code(),
        }


@functools.lru_cache(maxsize=4)
def comparison_of(tokenizer_spec: TokenizerSpec, name: str) -> EngineComparison:
    """Return the comparison of an engine, the same object for the same tokenizer, so that a new loader compares nothing again.

    It keeps both engines: each new `tokenizers.Tokenizer` that encodes leaves a third of a megabyte behind in its threads.
    """
    return EngineComparison(tokenizer_spec, name)


def _settings_of(name: str) -> dict[str, Json]:
    """Return the environment variables that an engine may heed."""
    return {variable: value for variable, value in os.environ.items() if variable.startswith(f"{name.upper()}_")}


@functools.cache
def _advise_install(name: str) -> None:
    """Log once per process what to install; no warning, since nothing is wrong that ``-W error`` should stop."""
    _logger.warning("tokenising is 8 to 47 times faster with engine %s: pip install 'seqstream[fast]'", name)


def find_difference(engine: Engine, reference: Engine, texts: list[str]) -> str | None:
    """Describe the first text for which two engines return different ids; ``None`` if there is none.

    Texts that the reference cannot encode are left out.

    Raises:
        EngineError: The engine cannot use the tokenizer, or raises for one of the texts.
    """
    texts = _encodable(reference, texts)
    expected, actual = reference.encode(texts), _encode_all(engine, texts)
    if np.array_equal(expected.offsets, actual.offsets) and np.array_equal(expected.ids, actual.ids):
        return None
    for row, text in enumerate(texts):
        wanted, found = _ids_of(expected, row), _ids_of(actual, row)
        if wanted != found:
            names = f"engine {engine.name} gives other ids than {reference.name}"
            differ = (at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b)
            at = next(differ, min(len(wanted), len(found)))
            shown = f"from id {at} on {_excerpt(found, at)} where {reference.name} gives {_excerpt(wanted, at)}"
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


def _encode_all(engine: Engine, texts: list[str]) -> TokenRows:
    try:
        return engine.encode(texts)
    except (KeyboardInterrupt, SystemExit, EngineError, ModuleNotFoundError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        remedy = f"use engine='{REFERENCE}' or 'auto'"
        raise EngineError(f"engine {engine.name} cannot encode all texts: {error}; {remedy}") from error


def _ids_of(rows: TokenRows, row: int) -> list[int]:
    ids: list[int] = rows.ids[rows.span(row)].tolist() if row < len(rows) else []
    return ids


def _excerpt(ids: list[int], begin: int) -> str:
    return f"[{', '.join(map(str, ids[begin : begin + 8]))}{', …' if len(ids) > begin + 8 else ''}]"


def _text_at(tokenizer_spec: TokenizerSpec, text: str, at: int) -> str:
    """Return the text around token ``at``, where the ids begin to differ."""
    if len(text) <= SHOWN_CHARS:
        return text
    spans = tokenizer_spec.build().encode(text, add_special_tokens=tokenizer_spec.special_tokens).offsets
    begin = max(0, spans[min(at, len(spans) - 1)][0] - 20) if spans else 0
    return f"{'…' if begin else ''}{text[begin : begin + SHOWN_CHARS]}…"
