"""A tokenizer as data: enough for any engine to build it, in any process."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING

from seqstream.records import Json
from seqstream.tokenizing.python_tokenizers import EncodeTexts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
    """Everything that decides the ids of a tokenizer, as `read_tokenizer` found it: a frozen value that engines are built from.

    It holds the serialised form of a `tokenizers.Tokenizer`, with padding and truncation off, or a user's function. It can be
    compared, hashed, and, unless the function forbids it, pickled.

    Attributes:
        name: Name of the tokenizer, for messages only.
        kind: Type of its model (``BPE``, ``WordPiece``, ...), or the name of the function.
        vocab_size: Number of ids with added tokens, ``None`` if not known.
        digest: SHA-256 of its serialised form, or of the ids that the function returns for a few texts.
        source: The serialised form, or the function.
        special_tokens: Whether special tokens are put around each text.
        special_before: Ids of the special tokens before each text.
        special_after: Ids of the special tokens after it.
        pad_id: Id of its padding token.
        pad_type: Token type of padding.
        padding_side: ``"left"`` or ``"right"``.
        truncation_side: Side on which truncation drops tokens.
        split_special_tokens: Whether special tokens that are spelled out in a text are encoded as ordinary text.
        added_tokens: Texts of the tokens added to its vocabulary, special ones included, in the order of `by_class`.
    """

    name: str
    kind: str
    vocab_size: int | None
    digest: str
    source: str | EncodeTexts = dataclasses.field(repr=False)
    special_tokens: bool
    special_before: tuple[int, ...] = ()
    special_after: tuple[int, ...] = ()
    pad_id: int | None = None
    pad_type: int = 0
    padding_side: str = "right"
    truncation_side: str = "right"
    split_special_tokens: bool = False
    added_tokens: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "bare"}  # made again where it is used

    @property
    def is_function(self) -> bool:
        """Whether the tokenizer is a user's function."""
        return not isinstance(self.source, str)

    @functools.cached_property
    def bare(self) -> TokenizerSpec:
        """The same tokenizer without special tokens and post-processor; not for functions.

        Engines that lack a post-processor, such as RoBERTa's, can use the bare tokenizer.
        """
        source = _without_post_processor(self.json)
        return dataclasses.replace(self, source=source, special_tokens=False, special_before=(), special_after=())

    def build(self) -> Tokenizer:
        """Return a new `tokenizers.Tokenizer`.

        Raises:
            TypeError: The tokenizer is a function.
        """
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.json)
        tokenizer.encode_special_tokens = self.split_special_tokens  # not in the serialised form
        return tokenizer

    @property
    def json(self) -> str:
        """The serialised form, as in ``tokenizer.json``.

        Raises:
            TypeError: The tokenizer is a function.
        """
        if not isinstance(self.source, str):
            raise TypeError(f"tokenizer {self} is a function, which has no serialised form")
        return self.source

    @property
    def function(self) -> EncodeTexts:
        """The user's function.

        Raises:
            TypeError: The tokenizer is not a function.
        """
        if isinstance(self.source, str):
            raise TypeError(f"tokenizer {self} is not a function")
        return self.source

    def __str__(self) -> str:
        size = "" if self.vocab_size is None else f"{self.vocab_size}, "
        return f"{self.name} ({size}{self.digest[:4]}…)"

    def fingerprint(self) -> Json:
        """Return what identifies the tokenizer: the same for a file, the object read from it, and a copy on another machine."""
        return {
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "sha256": self.digest[:16],
            "truncation_side": self.truncation_side,
            "split_special_tokens": self.split_special_tokens,
        }


def _without_post_processor(text: str) -> str:
    """Return a serialised tokenizer without its post-processor; the other bytes stay the same, down to the digits of scores."""
    key = '"post_processor":'
    begin = text.index(key) + len(key)  # the first one: the vocabulary, which may hold the same text, follows
    _, end = json.JSONDecoder().raw_decode(text, begin)
    return f"{text[:begin]}null{text[end:]}"
