"""Tokenizers with a component written in Python: they have no serialised form, and work only in the process that built them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NoReturn

from seqstream.tokenizing.python_tokenizers import digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class LiveTokenizer:
    """Encodes texts with a tokenizer that cannot be serialised: a copy of the user's by `copy_components`."""

    def __init__(self, name: str, tokenizer: Tokenizer, special_tokens: bool) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=self._special_tokens)]

    def digest(self) -> str:
        """Return a SHA-256 hash of the vocabulary and of the ids of a few texts."""
        vocabulary = json.dumps(sorted(self._tokenizer.get_vocab().items()))
        return hashlib.sha256((vocabulary + digest_of(self._name, self)).encode()).hexdigest()

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveTokenizer:
        return self

    def __reduce__(self) -> NoReturn:
        remedy = "set num_workers=0 or multiprocessing_context='fork', or pass a function that builds the tokenizer"
        raise TypeError(f"tokenizer {self._name} cannot be sent to another process, as a part of it is in Python; {remedy}")


def serialize(tokenizer: Tokenizer) -> str | None:
    """Return the serialised form of a tokenizer, ``None`` if a component of it is written in Python."""
    try:
        return tokenizer.to_str()
    except Exception:  # noqa: BLE001 - tokenizers raises no narrower type
        return None


def copy_components(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the components and added tokens of another, without padding or truncation.

    The components are shared, not copied; a decoder, which decides no ids, is left out.

    Raises:
        ValueError: The added tokens would get other ids.
    """
    from tokenizers import Tokenizer

    copy = Tokenizer(tokenizer.model)
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        if (component := getattr(tokenizer, name)) is not None:
            setattr(copy, name, component)
    added = tokenizer.get_added_tokens_decoder()
    for _, token in sorted(added.items()):
        (copy.add_special_tokens if token.special else copy.add_tokens)([token])
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    if repr(copy.get_added_tokens_decoder()) != repr(added):
        remedy = "pass a function of a list of texts that calls it"
        raise ValueError(
            f"tokenizer cannot be copied, as a part of it is in Python and the ids of its added tokens have gaps; {remedy}"
        )
    return copy
