"""Choosing the form of rows that the options of `Tokenize` ask for, and refusing options that do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from seqstream.blueprints import Blueprint
from seqstream.forms.chats import Chats, read_chat_template
from seqstream.forms.drafts import TOKEN_TYPES, Ends, Form
from seqstream.forms.fields import Field
from seqstream.forms.pairs import Pairs, find_template
from seqstream.forms.prompts import Prompted
from seqstream.forms.texts import Texts
from seqstream.forms.words import Words, prove_words

if TYPE_CHECKING:
    from seqstream.tokenizing import Tokenize

_OF_ANY_MODEL = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that belong to no model."""


def check_options(stage: Tokenize) -> None:
    """Check that the options of a stage, each in its range, go together.

    Raises:
        ValueError: They do not.
    """
    asked = _forms_asked(stage)
    if len(asked) > 1:
        raise ValueError(f"{asked[0]} cannot be given with {asked[1]}, for a row has one form; leave one of them out")
    if stage.word_labels != "first" and stage.labels is None:
        raise ValueError(f"word_labels={stage.word_labels!r} needs a column of labels; set Tokenize(labels=...)")
    if isinstance(stage.tokenizer, Mapping):
        _check_several(stage, asked)
    if stage.overflow == "split" and (isinstance(stage.field, tuple) or stage.prompt is not None):
        raise ValueError(f"overflow='split' cannot cut rows of {asked[0]}; use 'truncate', 'drop' or 'error'")
    if stage.chat is not None and stage.end is not None:
        raise ValueError(f"end={stage.end!r} cannot be given with {asked[0]}, whose template ends each turn; leave it out")
    if stage.chat is not None and not stage.special_tokens:
        raise ValueError(f"special_tokens=False cannot be given with {asked[0]}, whose template puts them; leave it out")


def _forms_asked(stage: Tokenize) -> list[str]:
    """Return the options that ask for another form than the plain one, as the user wrote them."""
    pair = stage.field if isinstance(stage.field, tuple) else None
    given = {"field": pair, "prompt": stage.prompt, "labels": stage.labels, "chat": stage.chat}
    return [f"{name}={value!r}" for name, value in given.items() if value is not None]


def _check_several(stage: Tokenize, asked: list[str]) -> None:
    if not stage.tokenizer:
        raise ValueError("tokenizer must name at least one field, got an empty dict")
    if asked and stage.field == "text":
        raise ValueError(f"{asked[0]} cannot be given with a dict of tokenizers, which makes a row of each field")
    if stage.field != "text":
        raise ValueError(f"field={stage.field!r} cannot be given with a dict of tokenizers, whose keys are the fields")
    if stage.overflow == "split" and len(stage.tokenizer) > 1:
        reason = "their pieces would not belong together; use 'truncate' or 'drop'"
        raise ValueError(f"overflow='split' cannot cut several columns ({', '.join(stage.tokenizer)}): {reason}")


def make_form(stage: Tokenize, field: str | tuple[str, str], blueprint: Blueprint) -> Form:
    """Return the form of the rows that a stage makes of a field.

    Args:
        stage: Its options, which go together.
        field: A column, or two for pairs.
        blueprint: The tokenizer, special tokens as they are wanted.

    Raises:
        ValueError: The tokenizer cannot make rows of that form.
    """
    closing = () if stage.end is None else (_find_end(blueprint, stage.end),)
    asked = _forms_asked(stage)
    if asked and blueprint.is_function:
        remedy = "pass a tokenizers.Tokenizer or a fast transformers tokenizer"
        raise ValueError(f"{asked[0]} cannot be had of the tokenizer {blueprint.name} written in Python; {remedy}")
    if isinstance(field, tuple):
        template = find_template(blueprint) if _wants_types(stage.tokenizer) else find_template(blueprint).untyped()
        return Pairs(blueprint.bare, Field(field[0]), Field(field[1]), template, closing)
    if stage.chat is not None:
        return Chats(blueprint.bare, Field(field), read_chat_template(stage.tokenizer, blueprint), stage.chat)
    if closing and stage.overflow == "split" and blueprint.ends[1]:
        reason = f"pieces of a text end with the {len(blueprint.ends[1])} special tokens of tokenizer {blueprint}"
        raise ValueError(f"end={stage.end!r} cannot be given with overflow='split': {reason}; leave it out")
    ends = Ends(*blueprint.ends, closing)
    if stage.prompt is not None:
        return Prompted(blueprint.bare, Field(stage.prompt, "prompt"), Field(field), ends)
    if stage.labels is not None:
        prove_words(blueprint.bare)
        return Words(blueprint.bare, Field(field), ends, Field(stage.labels, "labels"), stage.word_labels)
    return Texts(blueprint, Field(field), closing)


def _wants_types(tokenizer: object) -> bool:
    """Tell whether models of a tokenizer want token types: all do of which nothing is known."""
    names = getattr(tokenizer, "model_input_names", [TOKEN_TYPES])
    return TOKEN_TYPES in names or type(tokenizer).__name__ in _OF_ANY_MODEL


def _find_end(blueprint: Blueprint, end: str | int) -> int:
    """Return the id that closes texts.

    Raises:
        ValueError: The tokenizer has no such token, or puts it there already.
    """
    if blueprint.is_function:
        number = end if isinstance(end, int) and end >= 0 else None
        known = f"an id from 0 up for the tokenizer {blueprint.name} written in Python"
    else:
        tokenizer = blueprint.build()
        number = tokenizer.token_to_id(end) if isinstance(end, str) else end
        number = number if number is not None and number >= 0 and tokenizer.id_to_token(number) is not None else None
        known = f"a token or an id in the vocabulary of tokenizer {blueprint}"
    if number is None:
        raise ValueError(f"end must be {known}, got {end!r}")
    if number in blueprint.ends[1]:
        raise ValueError(f"end={end!r} cannot be put after texts, where tokenizer {blueprint} puts it already; leave it out")
    return number
