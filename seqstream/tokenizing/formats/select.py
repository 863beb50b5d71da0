"""Choosing the row format that the options of `Tokenize` ask for, and refusing options that cannot be combined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seqstream.tokenizing.formats.chat import ChatFormat, Speaker, read_chat_template
from seqstream.tokenizing.formats.fields import Field
from seqstream.tokenizing.formats.lists import ListFormat
from seqstream.tokenizing.formats.pair import PairFormat, find_template
from seqstream.tokenizing.formats.prompt import PromptFormat
from seqstream.tokenizing.formats.row_format import TOKEN_TYPES, RowFormat, SpecialTokens
from seqstream.tokenizing.formats.text import TextFormat
from seqstream.tokenizing.formats.words import WordFormat, WordLabels, check_words
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes of transformers that belong to no model."""


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """The options of `Tokenize` that decide what a row is made of; see there."""

    tokenizer: Any
    field: str | tuple[str, str] | list[str]
    prompt: str | None
    labels: str | None
    word_labels: WordLabels
    word_ids: bool
    chat: Speaker | None
    end: str | int | None
    overflow: str
    special_tokens: bool


def check_options(options: RowOptions) -> None:
    """Raise unless the options, each of which is valid alone, can be combined.

    Raises:
        ValueError: Two of them exclude each other, or one needs another.
    """
    chosen = _format_options(options)
    if len(chosen) > 1:
        raise ValueError(f"{chosen[0]} cannot be given with {chosen[1]}, for a row has one format; leave one of them out")
    if options.word_labels != "first" and options.labels is None:
        raise ValueError(f"word_labels={options.word_labels!r} needs a column of labels; set Tokenize(labels=...)")
    if options.word_ids and (isinstance(options.tokenizer, Mapping) or (chosen and options.labels is None)):
        other = "a dict of tokenizers" if isinstance(options.tokenizer, Mapping) else chosen[0]
        raise ValueError(
            f"word_ids=True cannot be given with {other}, it needs one field of lists of words; leave one of them out"
        )
    if isinstance(options.tokenizer, Mapping):
        _check_several(options, chosen)
    if isinstance(options.field, list) and (options.labels is not None or options.overflow == "split"):
        other = f"labels={options.labels!r}" if options.labels is not None else "overflow='split'"
        raise ValueError(f"{other} cannot be given with a list of fields, whose texts stay on one row; leave it out")
    if options.overflow == "split" and (isinstance(options.field, tuple) or options.prompt is not None):
        raise ValueError(f"overflow='split' cannot cut rows of {chosen[0]}; use 'truncate', 'drop' or 'error'")
    if options.chat is not None and options.end is not None:
        raise ValueError(f"end={options.end!r} cannot be given with {chosen[0]}, whose template ends each turn; leave it out")
    if options.chat is not None and not options.special_tokens:
        raise ValueError(f"special_tokens=False cannot be given with {chosen[0]}, whose template puts them; leave it out")


def _format_options(options: RowOptions) -> list[str]:
    """Return the options that choose a row format other than plain text, as the user wrote them."""
    pair = options.field if isinstance(options.field, tuple) else None
    given = {"field": pair, "prompt": options.prompt, "labels": options.labels, "chat": options.chat}
    return [f"{name}={value!r}" for name, value in given.items() if value is not None]


def _check_several(options: RowOptions, chosen: list[str]) -> None:
    """Raise unless the options can be combined with a dict of tokenizers."""
    if not options.tokenizer:
        raise ValueError("tokenizer must name at least one field, got an empty dict")
    if chosen and options.field == "text":
        raise ValueError(f"{chosen[0]} cannot be given with a dict of tokenizers, which makes a row of each field")
    if options.field != "text":
        raise ValueError(f"field={options.field!r} cannot be given with a dict of tokenizers, whose keys are the fields")
    if options.overflow == "split" and len(options.tokenizer) > 1:
        reason = "their pieces would not belong together; use 'truncate' or 'drop'"
        raise ValueError(f"overflow='split' cannot cut several columns ({', '.join(options.tokenizer)}): {reason}")


def make_row_format(options: RowOptions, field: str | tuple[str, str], tokenizer_spec: TokenizerSpec) -> RowFormat:
    """Return the format of the rows that are made from a column, or from two.

    Args:
        options: Options that passed `check_options`.
        field: Name of the column, or two names for pairs.
        tokenizer_spec: The tokenizer, with special tokens if they are wanted.

    Raises:
        ValueError: The tokenizer cannot make rows of that format.
    """
    end = () if options.end is None else (_end_id(tokenizer_spec, options.end),)
    chosen = _format_options(options) or ["word_ids=True"] * options.word_ids
    if chosen and tokenizer_spec.is_function:
        remedy = "pass a tokenizers.Tokenizer or a fast transformers tokenizer"
        raise ValueError(f"{chosen[0]} cannot be used with the tokenizer {tokenizer_spec.name} written in Python; {remedy}")
    if isinstance(field, tuple):
        template = find_template(tokenizer_spec)
        template = template if _wants_types(options.tokenizer) else template.without_types()
        return PairFormat(tokenizer_spec.bare, Field(field[0]), Field(field[1]), template, end)
    if options.chat is not None:
        template_of_chats = read_chat_template(options.tokenizer, tokenizer_spec)
        return ChatFormat(tokenizer_spec.bare, Field(field), template_of_chats, options.chat)
    before, after = tokenizer_spec.special_before, tokenizer_spec.special_after
    if end and options.overflow == "split" and after:
        reason = f"pieces of a text end with the {len(after)} special tokens of tokenizer {tokenizer_spec}"
        raise ValueError(f"end={options.end!r} cannot be given with overflow='split': {reason}; leave it out")
    special_tokens = SpecialTokens(before, after, end)
    several = isinstance(options.field, list)
    if options.prompt is not None:
        answers = PromptFormat(tokenizer_spec.bare, Field(options.prompt, "prompt"), Field(field), special_tokens)
        return ListFormat(answers, Field(field)) if several else answers
    if options.labels is not None or options.word_ids:
        check_words(tokenizer_spec.bare)
        labels = None if options.labels is None else Field(options.labels, "labels")
        return WordFormat(tokenizer_spec.bare, Field(field), special_tokens, labels, options.word_labels, options.word_ids)
    texts = TextFormat(tokenizer_spec, Field(field), end)
    return ListFormat(texts, Field(field)) if several else texts


def _wants_types(tokenizer: object) -> bool:
    """Return whether the model of a tokenizer takes token types; true if its model is not known."""
    names = getattr(tokenizer, "model_input_names", [TOKEN_TYPES])
    return TOKEN_TYPES in names or type(tokenizer).__name__ in _GENERIC_CLASSES


def _end_id(tokenizer_spec: TokenizerSpec, end: str | int) -> int:
    """Return the id of ``Tokenize(end=...)``.

    Raises:
        ValueError: The tokenizer has no such token, or puts it after texts already.
    """
    token_id: int | None
    if tokenizer_spec.is_function:
        token_id = end if isinstance(end, int) and end >= 0 else None
        rule = f"an id from 0 up for the tokenizer {tokenizer_spec.name} written in Python"
    else:
        tokenizer = tokenizer_spec.build()
        token_id = tokenizer.token_to_id(end) if isinstance(end, str) else end
        token_id = token_id if token_id is not None and token_id >= 0 and tokenizer.id_to_token(token_id) is not None else None
        rule = f"a token or an id in the vocabulary of tokenizer {tokenizer_spec}"
    if token_id is None:
        raise ValueError(f"end must be {rule}, got {end!r}")
    if token_id in tokenizer_spec.special_after:
        raise ValueError(
            f"end={end!r} cannot be put after texts, where tokenizer {tokenizer_spec} puts it already; leave it out"
        )
    return token_id
