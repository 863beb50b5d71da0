"""What a tokenizer is, apart from the object that the user holds: enough to build it anew by any engine, in any process.

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
from seqstream.tokenizing.python_components import LiveTokenizer, copy_parts, serialize
from seqstream.tokenizing.python_tokenizers import PROBES, EncodeTexts, SlowTokenizer, digest_of, encode_slow
from seqstream.tokenizing.token_rows import SpecialCounts

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer as it is serialised, padding and truncation off; or a user's function.

    Attributes:
        name: What people call it, for messages; not part of what it is.
        kind: Type of its model (``BPE``, ``WordPiece``, ...), or the name of the function.
        vocab_size: Number of ids with added tokens, ``None`` where nobody can know.
        digest: SHA-256 of its serialised form, or of the ids that the function gives for a few texts.
        source: The serialised form, or the function.
        special_tokens: Whether special tokens are put around each text.
        ends: Which of them, before it and after it.
        pad_id: Its padding token.
        pad_type: Token type of padding.
        padding_side: Where it pads.
        truncation_side: Where it drops what is too long.
        split_special_tokens: Whether special tokens that a text spells out are taken for ordinary text.
        added_tokens: Texts of the tokens added to its vocabulary, special ones among them, in turn of each class of flags.
    """

    name: str
    kind: str
    vocab_size: int | None
    digest: str
    source: str | EncodeTexts = dataclasses.field(repr=False)
    special_tokens: bool
    ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    pad_id: int | None = None
    pad_type: int = 0
    padding_side: str = "right"
    truncation_side: str = "right"
    split_special_tokens: bool = False
    added_tokens: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def is_function(self) -> bool:
        """Whether it is a user's function."""
        return not isinstance(self.source, str)

    @functools.cached_property
    def bare(self) -> TokenizerSpec:
        """The same tokenizer, no function, which puts no special tokens around texts: what would is left out.

        Engines that cannot take a post-processor, such as RoBERTa's, can then take the tokenizer.
        """
        return dataclasses.replace(self, source=_without_post_processor(self.json), special_tokens=False, ends=((), ()))

    @property
    def frame(self) -> SpecialCounts:
        """How many special tokens are put around each text."""
        before, after = self.ends
        return SpecialCounts(len(before), len(after))

    def build(self) -> Tokenizer:
        """Return a `tokenizers.Tokenizer` of its own."""
        tokenizer = Tokenizer.from_str(self.json)
        tokenizer.encode_special_tokens = self.split_special_tokens  # no part of the serialised form
        return tokenizer

    @property
    def json(self) -> str:
        """The serialised form."""
        if not isinstance(self.source, str):
            raise TypeError(f"tokenizer {self} is a function, which has no serialised form")
        return self.source

    @property
    def function(self) -> EncodeTexts:
        """The user's function."""
        if isinstance(self.source, str):
            raise TypeError(f"tokenizer {self} is no function")
        return self.source

    def __str__(self) -> str:
        size = "" if self.vocab_size is None else f"{self.vocab_size}, "
        return f"{self.name} ({size}{self.digest[:4]}…)"

    def fingerprint(self) -> Json:
        """Say which tokenizer this is; the same for a file, the object read from it, and a copy of it elsewhere."""
        return {
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "sha256": self.digest[:16],
            "truncation_side": self.truncation_side,
            "split_special_tokens": self.split_special_tokens,
        }


def _without_post_processor(text: str) -> str:
    """Cut the post-processor out of a serialised tokenizer; the rest stays as it is, scores to their last digit."""
    key = '"post_processor":'
    begin = text.index(key) + len(key)  # the first is the one: it comes before the vocabulary, in which it may be a word
    _, end = json.JSONDecoder().raw_decode(text, begin)
    return f"{text[:begin]}null{text[end:]}"


def read_tokenizer(tokenizer: object, *, special_tokens: bool) -> TokenizerSpec:
    """Read whatever a user may pass as a tokenizer.

    Raises:
        TypeError: It is nothing that can be used as one.
        ValueError: It is one whose ids cannot be had exactly, or again.
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
    folder, path = path, path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        remedy = "to use one by its name on the Hub, pass AutoTokenizer.from_pretrained(name)"
        if folder.is_dir():
            remedy = f"if the folder holds a tokenizer of another form, pass AutoTokenizer.from_pretrained({str(folder)!r})"
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
    """Return the tokenizer that a file of it would give.

    That is the same but for one case: scores of a Unigram model trained in this process lose their last bit, so that ties
    may be broken otherwise than by the object itself, whose own ``save`` does no better. Parts written in Python, which no
    file holds, are shared.
    """
    text = serialize(tokenizer)
    if text is None:
        return copy_parts(tokenizer)
    copy = Tokenizer.from_str(text)
    copy.encode_special_tokens = tokenizer.encode_special_tokens  # no part of the serialised form
    return copy


def _read_fast(own: Tokenizer, transformers: object | None, name: str, special_tokens: bool) -> TokenizerSpec:
    """Read a `tokenizers.Tokenizer` that is ours to change, and what the transformers tokenizer it was copied from adds."""
    dropout = getattr(own.model, "dropout", None)
    if dropout:
        raise ValueError(f"tokenizer cannot have dropout, got {dropout:.2g}: no two runs would agree; set model.dropout = None")
    side = getattr(transformers, "truncation_side", None) or (own.truncation or {}).get("direction", "right")
    padding = own.padding or {}
    pad_id = _pad_id(own, transformers)
    if transformers is not None:  # its own attribute counts: one call with another setting leaves that in the copied object
        own.encode_special_tokens = bool(getattr(transformers, "split_special_tokens", False))
    own.no_padding()
    own.no_truncation()
    kind = type(own.model).__name__
    source: str | LiveTokenizer | None = serialize(own)
    source = LiveTokenizer(name or kind, copy_parts(own), special_tokens) if source is None else source
    return TokenizerSpec(
        name=name or kind,
        kind=kind,
        vocab_size=own.get_vocab_size(),
        digest=hashlib.sha256(source.encode()).hexdigest() if isinstance(source, str) else source.digest(),
        source=source,
        special_tokens=special_tokens,
        ends=_find_ends(own, special_tokens),
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
    known = (own.token_to_id(token) for token in PAD_TOKENS)
    return next((token for token in known if token is not None), None) if pad_id is None else pad_id


def _find_ends(own: Tokenizer, special_tokens: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens before and after a text, by looking at a few texts; the tokenizer is used up."""
    texts = probe_texts(own)
    if not texts:
        raise ValueError("tokenizer must encode at least an empty text, got one that fails for all; look at its special tokens")
    wholes = [own.encode(text, add_special_tokens=special_tokens) for text in texts]
    own.post_processor = PostProcessors([])  # without special tokens a template may still repeat the text
    bares = [own.encode(text, add_special_tokens=False).ids for text in texts]
    whole, bare = next(((whole, bare) for whole, bare in zip(wholes, bares, strict=True) if bare), (wholes[0], bares[0]))
    added = whole.special_tokens_mask
    before = added.index(0) if 0 in added else 0
    beginning, end = whole.ids[:before], whole.ids[before + len(bare) :]
    if any(whole.ids != beginning + bare + end for whole, bare in zip(wholes, bares, strict=True)):
        rule = "add to a text no more than a beginning and an end that are always the same"
        raise ValueError(f"post-processor of the tokenizer must {rule}, got {added} (1 where it adds) in one of {texts!r}")
    return tuple(beginning), tuple(end)


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Return a few texts that a tokenizer can encode, the empty one first."""
    known = (tokenizer.id_to_token(number) for number in (tokenizer.get_vocab_size() // 2, tokenizer.get_vocab_size() - 1))
    texts = ["", *PROBES, *(token for token in known if token)]  # a small vocabulary may know none of the probes
    return [text for text in texts if can_encode(tokenizer, text)]


def can_encode(tokenizer: Tokenizer, text: str) -> bool:
    """Tell whether a tokenizer takes a text: one without an unknown token may not."""
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
    ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    if special_tokens:
        bare, whole = (encode_slow(tokenizer, special, PROBES[:1])[0] for special in (False, True))
        before = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        ends = (tuple(whole[:before]), tuple(whole[before + len(bare) :]))
    return TokenizerSpec(
        name=name,
        kind=name,
        vocab_size=len(tokenizer),
        digest=digest_of(name, encode),
        source=encode,
        special_tokens=special_tokens,
        ends=ends,
        pad_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
    )
