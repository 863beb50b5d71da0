"""Reading of a tokenizer from what the user passes: an object of `tokenizers` or transformers, a file, or a function.

The user's object is read, never changed and never used to encode: its padding and truncation have no effect here. What is read
from a serialised form is stored for later processes, which then read no tokenizer by `tokenizers`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from seqstream.options import function_name
from seqstream.records import Json
from seqstream.tokenizing import disk_cache
from seqstream.tokenizing.probes import by_class
from seqstream.tokenizing.python_components import LiveTokenizer, copy_components, serialize
from seqstream.tokenizing.python_tokenizers import PROBES, SlowTokenizer, digest_of, encode_slow
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


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
    if _is_fast(tokenizer):
        return _read_object(tokenizer, tokenizer.encode_special_tokens, "", special_tokens)
    if isinstance(tokenizer, (str, os.PathLike)):
        path = _tokenizer_file(Path(tokenizer))
        return _read_serialized(
            path.read_bytes(), False, path.parent.name if path.stem == "tokenizer" else path.stem, special_tokens, path
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if _is_fast(backend):
        return _read_transformers(tokenizer, backend, special_tokens)
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


def _is_fast(tokenizer: object) -> TypeGuard[Tokenizer]:
    """Return whether an object is a `tokenizers.Tokenizer`, without importing `tokenizers`."""
    module = sys.modules.get("tokenizers")
    return module is not None and isinstance(tokenizer, module.Tokenizer)


def _read_transformers(tokenizer: object, backend: Tokenizer, special_tokens: bool) -> TokenizerSpec:
    """Return the spec of a fast transformers tokenizer.

    Its attributes decide, not the settings of its backend, which one call may have changed.
    """
    name = Path(str(getattr(tokenizer, "name_or_path", ""))).name
    spec = _read_object(backend, bool(getattr(tokenizer, "split_special_tokens", False)), name, special_tokens)
    pad_id = getattr(tokenizer, "pad_token_id", None)
    return dataclasses.replace(
        spec,
        pad_id=spec.pad_id if pad_id is None else pad_id,
        pad_type=getattr(tokenizer, "pad_token_type_id", None) or spec.pad_type,
        padding_side=getattr(tokenizer, "padding_side", None) or spec.padding_side,
        truncation_side=getattr(tokenizer, "truncation_side", None) or spec.truncation_side,
    )


def _read_object(tokenizer: Tokenizer, split_special_tokens: bool, name: str, special_tokens: bool) -> TokenizerSpec:
    """Return the spec of a tokenizer as it would be loaded from its saved file.

    It differs from the object in one case: the scores of a Unigram model that was trained in this process lose their last bit,
    as in ``save``, so that ties may be broken differently. Components written in Python cannot be saved, and are shared.
    """
    text = serialize(tokenizer)
    if text is not None:
        return _read_serialized(text.encode(), split_special_tokens, name, special_tokens)
    copy = copy_components(tokenizer)
    copy.encode_special_tokens = split_special_tokens
    return _read_copy(copy, name, special_tokens)


def _read_serialized(
    data: bytes, split_special_tokens: bool, name: str, special_tokens: bool, path: Path | None = None
) -> TokenizerSpec:
    """Return the spec of a serialised tokenizer, from an earlier process if one has stored it.

    Args:
        data: The serialised form.
        split_special_tokens: Whether special tokens that are spelled out in a text are encoded as ordinary text.
        name: Name of the tokenizer; empty to use the type of its model.
        special_tokens: Whether special tokens are put around each text.
        path: The file, for messages.
    """
    key: Json = {
        "tokenizer": hashlib.sha256(data).hexdigest(),
        "split_special_tokens": split_special_tokens,
        "special_tokens": special_tokens,
        "environment": disk_cache.environment_of("tokenizers"),
        "code": disk_cache.own_code(),
    }
    stored = disk_cache.load("tokenizers", key)
    if stored is not None:
        spec = _unpack(stored, data)
    else:
        own = _load(data, path)
        own.encode_special_tokens = split_special_tokens  # not in the serialised form
        spec = _read_copy(own, "", special_tokens)
        disk_cache.save("tokenizers", key, _pack(spec, data))
    return dataclasses.replace(spec, name=name or spec.kind)


def _pack(spec: TokenizerSpec, data: bytes) -> bytes:
    """Return a spec as bytes: a line of JSON, and its serialised form unless that is ``data``."""
    fields = {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec) if each.name != "source"}
    source = spec.json.encode()
    return json.dumps(fields).encode() + b"\n" + (b"" if source == data else source)


def _unpack(stored: bytes, data: bytes) -> TokenizerSpec:
    fields, _, source = stored.partition(b"\n")
    read: dict[str, Any] = json.loads(fields)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in read.items()}
    return TokenizerSpec(source=(source or data).decode(), **values)


def _load(data: bytes, path: Path | None) -> Tokenizer:
    from tokenizers import Tokenizer

    if not data.strip():
        raise ValueError(f"tokenizer must be a tokenizer.json, got {path}: the file is empty")
    try:
        return Tokenizer.from_str(data.decode("utf-8-sig"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises no narrower type, and a panic in Rust is no Exception
        raise ValueError(f"tokenizer must be a tokenizer.json, got {path}: {error}") from error


def _read_copy(own: Tokenizer, name: str, special_tokens: bool) -> TokenizerSpec:
    """Return the spec of a copy of a tokenizer, which is changed."""
    dropout = getattr(own.model, "dropout", None)
    if dropout:
        raise ValueError(f"tokenizer cannot have dropout, got {dropout:.2g}: no two runs would agree; set model.dropout = None")
    padding, truncation = own.padding or {}, own.truncation or {}
    found = (number for number in map(own.token_to_id, PAD_TOKENS) if number is not None)
    pad_id = padding["pad_id"] if padding else next(found, None)
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
        pad_type=padding.get("pad_type_id", 0),
        padding_side=padding.get("direction", "right"),
        truncation_side=truncation.get("direction", "right"),
        split_special_tokens=own.encode_special_tokens,
        added_tokens=tuple(by_class(own.get_added_tokens_decoder().values())),
    )


def _find_special_tokens(own: Tokenizer, special_tokens: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens before and after a text, by encoding a few texts; removes the post-processor of ``own``."""
    from tokenizers.processors import Sequence as PostProcessors

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
