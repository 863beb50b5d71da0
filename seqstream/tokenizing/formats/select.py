"""Choosing the form of rows that the options of `Tokenize` ask for, and refusing options that do not go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seqstream.tokenizing.formats.chat import Chats, Speaker, read_chat_template
from seqstream.tokenizing.formats.fields import Field
from seqstream.tokenizing.formats.pair import Pairs, find_template
from seqstream.tokenizing.formats.prompt import Prompted
from seqstream.tokenizing.formats.row_format import TOKEN_TYPES, RowFormat, SpecialTokens
from seqstream.tokenizing.formats.text import Texts
from seqstream.tokenizing.formats.words import WordLabels, Words, prove_words
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

_OF_ANY_MODEL = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that belong to no model."""


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """The options of `Tokenize` that decide what a row is made of; see there."""

    tokenizer: Any
    field: str | tuple[str, str]
    prompt: str | None
    labels: str | None
    word_labels: WordLabels
    chat: Speaker | None
    end: str | int | None
    overflow: str
    special_tokens: bool


def check_options(options: RowOptions) -> None:
    """Check that options, each in its range, go together.

    Raises:
        ValueError: They do not.
    """
    asked = _forms_asked(options)
    if len(asked) > 1:
        raise ValueError(f"{asked[0]} cannot be given with {asked[1]}, for a row has one form; leave one of them out")
    if options.word_labels != "first" and options.labels is None:
        raise ValueError(f"word_labels={options.word_labels!r} needs a column of labels; set Tokenize(labels=...)")
    if isinstance(options.tokenizer, Mapping):
        _check_several(options, asked)
    if options.overflow == "split" and (isinstance(options.field, tuple) or options.prompt is not None):
        raise ValueError(f"overflow='split' cannot cut rows of {asked[0]}; use 'truncate', 'drop' or 'error'")
    if options.chat is not None and options.end is not None:
        raise ValueError(f"end={options.end!r} cannot be given with {asked[0]}, whose template ends each turn; leave it out")
    if options.chat is not None and not options.special_tokens:
        raise ValueError(f"special_tokens=False cannot be given with {asked[0]}, whose template puts them; leave it out")


def _forms_asked(options: RowOptions) -> list[str]:
    """Return the options that ask for another form than the plain one, as the user wrote them."""
    pair = options.field if isinstance(options.field, tuple) else None
    given = {"field": pair, "prompt": options.prompt, "labels": options.labels, "chat": options.chat}
    return [f"{name}={value!r}" for name, value in given.items() if value is not None]


def _check_several(options: RowOptions, asked: list[str]) -> None:
    if not options.tokenizer:
        raise ValueError("tokenizer must name at least one field, got an empty dict")
    if asked and options.field == "text":
        raise ValueError(f"{asked[0]} cannot be given with a dict of tokenizers, which makes a row of each field")
    if options.field != "text":
        raise ValueError(f"field={options.field!r} cannot be given with a dict of tokenizers, whose keys are the fields")
    if options.overflow == "split" and len(options.tokenizer) > 1:
        reason = "their pieces would not belong together; use 'truncate' or 'drop'"
        raise ValueError(f"overflow='split' cannot cut several columns ({', '.join(options.tokenizer)}): {reason}")


def make_row_format(options: RowOptions, field: str | tuple[str, str], tokenizer_spec: TokenizerSpec) -> RowFormat:
    """Return the form of the rows that are made of a field.

    Args:
        options: Options that go together.
        field: A column, or two for pairs.
        tokenizer_spec: The tokenizer, special tokens as they are wanted.

    Raises:
        ValueError: The tokenizer cannot make rows of that form.
    """
    closing = () if options.end is None else (_find_end(tokenizer_spec, options.end),)
    asked = _forms_asked(options)
    if asked and tokenizer_spec.is_function:
        remedy = "pass a tokenizers.Tokenizer or a fast transformers tokenizer"
        raise ValueError(f"{asked[0]} cannot be had of the tokenizer {tokenizer_spec.name} written in Python; {remedy}")
    if isinstance(field, tuple):
        template = find_template(tokenizer_spec) if _wants_types(options.tokenizer) else find_template(tokenizer_spec).untyped()
        return Pairs(tokenizer_spec.bare, Field(field[0]), Field(field[1]), template, closing)
    if options.chat is not None:
        return Chats(tokenizer_spec.bare, Field(field), read_chat_template(options.tokenizer, tokenizer_spec), options.chat)
    if closing and options.overflow == "split" and tokenizer_spec.ends[1]:
        reason = f"pieces of a text end with the {len(tokenizer_spec.ends[1])} special tokens of tokenizer {tokenizer_spec}"
        raise ValueError(f"end={options.end!r} cannot be given with overflow='split': {reason}; leave it out")
    ends = SpecialTokens(*tokenizer_spec.ends, closing)
    if options.prompt is not None:
        return Prompted(tokenizer_spec.bare, Field(options.prompt, "prompt"), Field(field), ends)
    if options.labels is not None:
        prove_words(tokenizer_spec.bare)
        return Words(tokenizer_spec.bare, Field(field), ends, Field(options.labels, "labels"), options.word_labels)
    return Texts(tokenizer_spec, Field(field), closing)


def _wants_types(tokenizer: object) -> bool:
    """Tell whether models of a tokenizer want token types: all do of which nothing is known."""
    names = getattr(tokenizer, "model_input_names", [TOKEN_TYPES])
    return TOKEN_TYPES in names or type(tokenizer).__name__ in _OF_ANY_MODEL


def _find_end(tokenizer_spec: TokenizerSpec, end: str | int) -> int:
    """Return the id that closes texts.

    Raises:
        ValueError: The tokenizer has no such token, or puts it there already.
    """
    if tokenizer_spec.is_function:
        number = end if isinstance(end, int) and end >= 0 else None
        known = f"an id from 0 up for the tokenizer {tokenizer_spec.name} written in Python"
    else:
        tokenizer = tokenizer_spec.build()
        number = tokenizer.token_to_id(end) if isinstance(end, str) else end
        number = number if number is not None and number >= 0 and tokenizer.id_to_token(number) is not None else None
        known = f"a token or an id in the vocabulary of tokenizer {tokenizer_spec}"
    if number is None:
        raise ValueError(f"end must be {known}, got {end!r}")
    if number in tokenizer_spec.ends[1]:
        raise ValueError(
            f"end={end!r} cannot be put after texts, where tokenizer {tokenizer_spec} puts it already; leave it out"
        )
    return number
