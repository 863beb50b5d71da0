"""A tokenizer as data, read from what the user passes: enough for any engine to build it, in any process.

The user's object is read, never changed and never used to encode: its padding and truncation have no effect here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.processors import Sequence as PostProcessors

from seqstream.options import function_name
from seqstream.records import Json
from seqstream.tokenizing.probes import by_class
from seqstream.tokenizing.python_components import LiveTokenizer, copy_components, serialize
from seqstream.tokenizing.python_tokenizers import PROBES, EncodeTexts, SlowTokenizer, digest_of, encode_slow

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


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


def read_tokenizer(tokenizer: object, *, special_tokens: bool) -> TokenizerSpec:
    """Return the spec of a tokenizer in any of the forms that `Tokenize` accepts.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``, a transformers tokenizer, a path, or a function; see `Tokenize`.
        special_tokens: Whether special tokens are put around each text.

    Raises:
        TypeError: ``tokenizer`` is none of these.
        ValueError: Its ids cannot be reproduced exactly, or it is a file that does not hold a tokenizer.
        FileNotFoundError: The file does not exist.
    """
    if isinstance(tokenizer, Tokenizer):
        return _read_fast(_copy(tokenizer), None, "", special_tokens)
    if isinstance(tokenizer, (str, os.PathLike)):
        path = _tokenizer_file(Path(tokenizer))
        name = path.parent.name if path.stem == "tokenizer" else path.stem
        return _read_fast(_load(path), None, name, special_tokens)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        name = Path(str(getattr(tokenizer, "name_or_path", ""))).name
        return _read_fast(_copy(backend), tokenizer, name, special_tokens)
    if callable(tokenizer):
        return _read_function(tokenizer, special_tokens)
    expected = "a tokenizers.Tokenizer, a transformers tokenizer, a path to tokenizer.json or a function of a list of texts"
    raise TypeError(f"tokenizer must be {expected}, got {type(tokenizer).__name__}")


def _tokenizer_file(path: Path) -> Path:
    given, path = path, path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        remedy = "to use one by its name on the Hub, pass AutoTokenizer.from_pretrained(name)"
        if given.is_dir():
            remedy = f"if the folder holds a tokenizer of another format, pass AutoTokenizer.from_pretrained({str(given)!r})"
        raise FileNotFoundError(f"tokenizer must be a tokenizer.json that exists, got {path}; {remedy}")
    return path


def _load(path: Path) -> Tokenizer:
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"tokenizer must be a tokenizer.json, got {path}: the file is empty")
    try:
        return Tokenizer.from_str(data.decode("utf-8-sig"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises no narrower type, and a panic in Rust is no Exception
        raise ValueError(f"tokenizer must be a tokenizer.json, got {path}: {error}") from error


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy of a tokenizer, as it would be loaded from its saved file.

    The copy differs in one case: the scores of a Unigram model that was trained in this process lose their last bit, as in
    ``save``, so that ties may be broken differently. Components written in Python cannot be saved, and are shared.
    """
    text = serialize(tokenizer)
    if text is None:
        return copy_components(tokenizer)
    copy = Tokenizer.from_str(text)
    copy.encode_special_tokens = tokenizer.encode_special_tokens  # not in the serialised form
    return copy


def _read_fast(own: Tokenizer, transformers: object | None, name: str, special_tokens: bool) -> TokenizerSpec:
    """Return the spec of a `tokenizers.Tokenizer`, which is changed, and of the transformers tokenizer that it is a copy of."""
    dropout = getattr(own.model, "dropout", None)
    if dropout:
        raise ValueError(f"tokenizer cannot have dropout, got {dropout:.2g}: no two runs would agree; set model.dropout = None")
    side = getattr(transformers, "truncation_side", None) or (own.truncation or {}).get("direction", "right")
    padding = own.padding or {}
    pad_id = _pad_id(own, transformers)
    if transformers is not None:  # its attribute decides: one call with another setting remains set in the copied object
        own.encode_special_tokens = bool(getattr(transformers, "split_special_tokens", False))
    own.no_padding()
    own.no_truncation()
    kind = type(own.model).__name__
    serialized = serialize(own)
    source = LiveTokenizer(name or kind, copy_components(own), special_tokens) if serialized is None else serialized
    before, after = _find_special_tokens(own, special_tokens)
    return TokenizerSpec(
        name=name or kind,
        kind=kind,
        vocab_size=own.get_vocab_size(),
        digest=hashlib.sha256(source.encode()).hexdigest() if isinstance(source, str) else source.digest(),
        source=source,
        special_tokens=special_tokens,
        special_before=before,
        special_after=after,
        pad_id=pad_id,
        pad_type=getattr(transformers, "pad_token_type_id", None) or padding.get("pad_type_id", 0),
        padding_side=getattr(transformers, "padding_side", None) or padding.get("direction", "right"),
        truncation_side=side,
        split_special_tokens=own.encode_special_tokens,
        added_tokens=tuple(by_class(own.get_added_tokens_decoder().values())),
    )


def _pad_id(own: Tokenizer, transformers: object | None) -> int | None:
    pad_id: int | None = getattr(transformers, "pad_token_id", None)
    if pad_id is None and own.padding is not None:
        pad_id = own.padding["pad_id"]
    if pad_id is None:
        pad_id = next((found for token in PAD_TOKENS if (found := own.token_to_id(token)) is not None), None)
    return pad_id


def _find_special_tokens(own: Tokenizer, special_tokens: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens before and after a text, by encoding a few texts; removes the post-processor of ``own``."""
    texts = probe_texts(own)
    if not texts:
        raise ValueError("tokenizer must encode at least an empty text, got one that fails for all; look at its special tokens")
    with_special = [own.encode(text, add_special_tokens=special_tokens) for text in texts]
    own.post_processor = PostProcessors([])  # without special tokens a template may still repeat the text
    bare = [own.encode(text, add_special_tokens=False).ids for text in texts]
    pairs = list(zip(with_special, bare, strict=True))
    whole, ids = next(((whole, ids) for whole, ids in pairs if ids), pairs[0])
    added = whole.special_tokens_mask
    num_before = added.index(0) if 0 in added else 0
    before, after = whole.ids[:num_before], whole.ids[num_before + len(ids) :]
    if any(whole.ids != before + ids + after for whole, ids in pairs):
        rule = "add to a text no more than a beginning and an end that are always the same"
        raise ValueError(f"post-processor of the tokenizer must {rule}, got {added} (1 where it adds) in one of {texts!r}")
    return tuple(before), tuple(after)


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Return a few texts that a tokenizer can encode, the empty one first."""
    size = tokenizer.get_vocab_size()
    tokens = map(tokenizer.id_to_token, (size // 2, size - 1))
    texts = ["", *PROBES, *filter(None, tokens)]  # a small vocabulary may lack all of the probes
    return [text for text in texts if can_encode(tokenizer, text)]


def can_encode(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether a tokenizer can encode a text: without an unknown token it may raise."""
    try:
        tokenizer.encode(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - tokenizers raises no narrower type, and a panic in Rust is no Exception
        return False
    return True


def _read_function(function: Callable[..., Any], special_tokens: bool) -> TokenizerSpec:
    if getattr(function, "is_fast", None) is False:  # a transformers tokenizer written in Python
        return _read_slow(cast(SlowTokenizer, function), special_tokens)
    name = function_name(function)
    if not special_tokens:
        raise ValueError(f"special_tokens=False cannot apply to the function {name}; let it return ids without them")
    digest = digest_of(name, function)
    return TokenizerSpec(name, name, vocab_size=None, digest=digest, source=function, special_tokens=True)


def _read_slow(tokenizer: SlowTokenizer, special_tokens: bool) -> TokenizerSpec:
    encode = functools.partial(encode_slow, tokenizer, special_tokens)
    name = type(tokenizer).__name__
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    if special_tokens:
        bare, whole = (encode_slow(tokenizer, special, PROBES[:1])[0] for special in (False, True))
        num_before = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        before, after = tuple(whole[:num_before]), tuple(whole[num_before + len(bare) :])
    return TokenizerSpec(
        name=name,
        kind=name,
        vocab_size=len(tokenizer),
        digest=digest_of(name, encode),
        source=encode,
        special_tokens=special_tokens,
        special_before=before,
        special_after=after,
        pad_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
    )
