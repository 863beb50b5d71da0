"""`Tokenize`: the stage that turns columns of text into columns of token ids, its options, and their checks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

from seqstream.options import NO_LIMIT, one_of, read_limit, yes_or_no
from seqstream.records import IGNORE_INDEX, INPUT_IDS, Json, OpenStage, lengths_column
from seqstream.tokenizing.encoding import OpenTokenize
from seqstream.tokenizing.engine_choice import choose_engine
from seqstream.tokenizing.engines import ENGINES, FUNCTION, Engine, EngineName, is_installed
from seqstream.tokenizing.formats.chat import Speaker
from seqstream.tokenizing.formats.row_format import TOKEN_TYPES, WORD_IDS, RowFormat
from seqstream.tokenizing.formats.select import RowOptions, check_options, make_row_format
from seqstream.tokenizing.formats.words import WordLabels
from seqstream.tokenizing.python_components import LiveTokenizer
from seqstream.tokenizing.tokenizer_reading import read_tokenizer
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Overflow: TypeAlias = Literal["truncate", "split", "drop", "error"]

_OVERFLOWS = ("truncate", "split", "drop", "error")
_EMPTIES = ("drop", "keep")
_SETTINGS = ("max_length", "overflow", "empty", "special_tokens")
"""Options that decide the ids, besides those that choose the row format."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokenize:
    """Turn columns of text into a column of token ids, ``input_ids``, and what belongs to it.

    A row is one text, or the words of one text, from a column of lists of words. Other options choose another row format: two
    fields make pairs, ``prompt`` completions, ``labels`` words with labels, ``chat`` conversations. A list of fields makes rows
    of several texts.

    The ids are the tokenizer's own: those of ``tokenizers`` with padding and truncation off, and with ``max_length`` those of
    transformers for ``tokenizer(text, truncation=True, max_length=max_length)``. The tokenizer is read once, here, and never
    changed: its own padding and truncation have no effect, and later changes to it have none either.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``, a transformers tokenizer, a path to ``tokenizer.json`` or to its directory, or a
            function from a list of texts to a list of lists of ids. A tokenizer with a part written in Python works as a
            function does: at the speed of Python, and in worker processes only if they are forked. A dict of field -> tokenizer
            makes several columns, ``<field>_ids``; a record is then dropped if any of them is empty or, with
            ``overflow="drop"``, too long.
        field: Column of the texts, which the ids replace, or of lists of words, each then encoded alone. A list of strings is
            the words of one text; lists most of whose items hold a blank between two words hold several texts, and raise an
            error. A tuple of two columns makes pairs, as ``tokenizer(first, second)`` of transformers does, with
            ``token_type_ids`` unless the tokenizer is that of a model without them; ``"truncate"`` shortens the longer text
            first. A list of columns, also of one, such as ``["query", "choices"]``, makes a column ``<field>_ids`` of each,
            and ``<field>_labels`` with ``prompt`` or ``chat``; there a list of strings is several texts, whose ids follow each
            other, with their lengths in ``<field>_lengths``. See `Batch.part` and `Batch.flatten`. A record is dropped if any
            text is empty or, with ``overflow="drop"``, too long.
        max_length: Longest row in tokens, special tokens included. A number of 2**31 or more is no limit, such as the
            ``model_max_length`` of a transformers tokenizer without a limit, 10**30.
        overflow: What is done with longer rows: ``"truncate"`` drops the end, or the beginning if the tokenizer's
            ``truncation_side`` is left; ``"split"`` cuts them into pieces that keep every token, with special tokens around
            each, other columns repeated, and their number in a column ``piece``; ``"drop"`` drops the record; ``"error"``
            raises.
        empty: Whether records without tokens of their own, special tokens aside, are dropped or kept; the loader puts one
            padding token into a row without any token.
        special_tokens: Whether the special tokens of the tokenizer are put around each text.
        end: A token, or its id, that is put after each row and counts in ``max_length``; for tokenizers that put none there,
            such as GPT-2's. Of the pieces of a text only the last has it.
        prompt: Column of texts that precede those of ``field``, tokenised apart; ``labels`` are the ids, -100 on the prompt and
            on the special tokens before it, and on what ends a row that was cut: the completion goes on there. A row in which
            no label is left is dropped, and counted as `Stats.rows_without_labels`.
        labels: Column of lists of whole numbers, one for each word of ``field``; they become ``labels``, -100 on special
            tokens.
        word_labels: ``"first"`` labels the first token of each word, and the others -100; ``"all"`` labels all of them.
        word_ids: Whether rows of words have a column ``word_ids``: the number of the word, in its record, that each token is
            from, -100 for special tokens and padding. A word without tokens keeps its number, which no token has.
        chat: ``field`` has lists of messages, ``{"role": ..., "content": ...}``, rendered by the chat template of a
            transformers tokenizer; ``labels`` are the ids of what the assistant says, -100 elsewhere, or with ``"all"`` all
            ids. Messages ``{"from": ..., "value": ...}`` get the role of the sender: ``human`` is the user, ``gpt`` and
            ``function_call`` are the assistant, ``observation`` is a tool. Columns ``tools`` and ``documents`` are passed to a
            template that names them, and the dicts of a column ``chat_template_kwargs`` to every template. Chats and tools may
            be JSON text. Keys that are null, as structs of Arrow have them, are left out; `JsonLines`, `Generator` and
            ``Json()`` features keep messages as they were. Rows and pieces without labels are dropped.
        engine: What computes the ids. ``"auto"`` is the fastest installed engine whose ids proved to be the same. The proof is
            kept in the user's cache folder, or in the folder that the environment variable ``SEQSTREAM_CACHE`` names; ``off``
            keeps nothing.

    Raises:
        ValueError: An option is out of range, options cannot be combined, or the ids cannot be reproduced exactly.
        TypeError: ``tokenizer`` or another option has the wrong type.
        FileNotFoundError: The file does not exist.
        ModuleNotFoundError: ``engine`` is not installed.
    """

    tokenizer: Any
    _: dataclasses.KW_ONLY
    field: str | tuple[str, str] | list[str] = "text"
    max_length: int | None = None
    overflow: Overflow = "truncate"
    empty: Literal["drop", "keep"] = "drop"
    special_tokens: bool = True
    end: str | int | None = None
    prompt: str | None = None
    labels: str | None = None
    word_labels: WordLabels = "first"
    word_ids: bool = False
    chat: Speaker | None = None
    engine: EngineName = "auto"
    _tokenizer_specs: dict[str, TokenizerSpec] = dataclasses.field(init=False)
    _row_formats: dict[str, RowFormat] = dataclasses.field(init=False)
    _engines: dict[tuple[str, str], Engine] = dataclasses.field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check_settings()
        _check_fields(self.tokenizer)
        if isinstance(self.field, list):
            object.__setattr__(self, "field", list(self.field))
        object.__setattr__(self, "max_length", _read_max_length(self.max_length, self.overflow))
        options = RowOptions(**{each.name: getattr(self, each.name) for each in dataclasses.fields(RowOptions)})
        check_options(options)
        fields = self.field if isinstance(self.field, list) else [self.field]
        given = self.tokenizer if isinstance(self.tokenizer, Mapping) else dict.fromkeys(fields, self.tokenizer)
        tokenizer_specs: dict[str, TokenizerSpec] = {}
        row_formats: dict[str, RowFormat] = {}
        for field, tokenizer in given.items():
            column = f"{field}_ids" if given is self.tokenizer or isinstance(self.field, list) else INPUT_IDS
            is_read = given is not self.tokenizer and len(tokenizer_specs) > 0  # all fields have one tokenizer
            read = functools.partial(read_tokenizer, tokenizer, special_tokens=self.special_tokens)
            tokenizer_spec = next(iter(tokenizer_specs.values())) if is_read else read()
            if tokenizer_spec.is_function and self.engine != "auto":
                raise ValueError(
                    f"engine must be 'auto' for the tokenizer {tokenizer_spec.name} written in Python, got {self.engine!r}"
                )
            tokenizer_specs[column] = tokenizer_spec
            row_formats[column] = make_row_format(options, field, tokenizer_spec)
            _check_length(tokenizer_spec, row_formats[column].num_special, self.max_length)
        object.__setattr__(self, "_tokenizer_specs", tokenizer_specs)
        object.__setattr__(self, "_row_formats", row_formats)

    def _check_settings(self) -> None:
        one_of("overflow", self.overflow, _OVERFLOWS)
        one_of("empty", self.empty, _EMPTIES)
        one_of("engine", self.engine, ENGINES)
        one_of("word_labels", self.word_labels, ("first", "all"))
        one_of("chat", self.chat, (None, "assistant", "all"))
        _check_field(self.field)
        yes_or_no("special_tokens", self.special_tokens)
        yes_or_no("word_ids", self.word_ids)
        for name, value, kind, wanted in (
            ("prompt", self.prompt, str, "the name of a column"),
            ("labels", self.labels, str, "the name of a column"),
            ("end", self.end, (str, int), "a token or its id"),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise TypeError(f"{name} must be {wanted}, got {value!r}")
        if isinstance(self.end, int) and not 0 <= self.end < NO_LIMIT:
            raise ValueError(f"end must be a token or its id, from 0 up and below 2**31, got {self.end}")
        if self.engine != "auto" and not is_installed(self.engine):
            raise ModuleNotFoundError(f"engine {self.engine} is not installed; pip install 'seqstream[fast]'", name=self.engine)

    def __repr__(self) -> str:
        specs = self._tokenizer_specs
        if isinstance(self.tokenizer, Mapping):
            parts = [f"{row_format.input_columns[0]}: {specs[column]}" for column, row_format in self._row_formats.items()]
        else:
            parts = list(map(str, specs.values()))
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.init and option.name != "tokenizer" and value != option.default:
                parts.append(f"{option.name}={value!r}")
        return f"Tokenize({', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        for tokenizer_spec in self._tokenizer_specs.values():
            if isinstance(tokenizer_spec.source, LiveTokenizer):
                tokenizer_spec.source.__reduce__()  # raises a clearer error than the user's own object
        return {**self.__dict__, "_engines": {}}  # built again where they are used

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ids in the tables that this stage returns."""
        return tuple(self._row_formats)

    @property
    def num_special(self) -> int:
        """Number of special tokens of a row."""
        return max(row_format.num_special for row_format in self._row_formats.values())

    def decoder(self, column: str | None = None) -> Tokenizer | None:
        """Return a tokenizer that decodes the ids of a column, by default of the first; ``None`` if it is a function."""
        tokenizer_spec = self._tokenizer_specs[column or self.columns[0]]
        return None if tokenizer_spec.is_function else tokenizer_spec.build()

    @property
    def planned_columns(self) -> tuple[str, ...]:
        """The columns that `Bucket` plans by: those of ids, and for a list of fields the lengths of the texts of each."""
        columns = self.columns
        return (*columns, *map(lengths_column, columns)) if isinstance(self.field, list) else columns

    def fingerprint(self) -> Json:
        """Return what decides the ids: tokenizers and options, but not the engine."""
        tokenizers: dict[str, Json] = {}
        of_formats: dict[str, Json] = {}
        for column, row_format in self._row_formats.items():
            tokenizers[" + ".join(row_format.input_columns)] = self._tokenizer_specs[column].fingerprint()
            of_formats |= row_format.fingerprint()
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {"kind": "Tokenize", "tokenizers": tokenizers, **settings, **of_formats}

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """The tokenizers that are functions of the user."""
        return [each.function for each in self._tokenizer_specs.values() if each.is_function]

    def pad_values(self) -> dict[str, int]:
        """Return the padding id of each column of ids whose tokenizer has one, and what other columns have there if not 0."""
        found: dict[str, int] = {}
        for column, tokenizer_spec in self._tokenizer_specs.items():
            if tokenizer_spec.pad_id is not None:
                found[column] = tokenizer_spec.pad_id
            if tokenizer_spec.pad_type and isinstance(self.field, tuple):
                found[TOKEN_TYPES] = tokenizer_spec.pad_type
        return found | ({WORD_IDS: IGNORE_INDEX} if self.word_ids else {})

    def vocabulary_sizes(self) -> dict[str, int | None]:
        """Return the number of ids of each column of ids; ``None`` where it is not known."""
        return {column: tokenizer_spec.vocab_size for column, tokenizer_spec in self._tokenizer_specs.items()}

    def padding_sides(self) -> dict[str, str]:
        """Return the side on which the tokenizer of each column of ids pads, ``"right"`` or ``"left"``."""
        return {column: tokenizer_spec.padding_side for column, tokenizer_spec in self._tokenizer_specs.items()}

    def choose_engines(self, sample: pa.Table | None = None) -> dict[str, str]:
        """Return the name of the engine for each column of ids, after comparing it on hostile texts and on a sample.

        Args:
            sample: First records of the stream, as this stage receives them.

        Raises:
            EngineError: ``engine`` was named and returns other ids, or cannot use the tokenizer.

        Warns:
            EngineWarning: The fastest engine returns other ids, so ``tokenizers`` is used.
        """
        chosen = {}
        for column, row_format in self._row_formats.items():
            texts = row_format.sample(sample) if sample is not None and len(sample) else ()
            engine = choose_engine(row_format.tokenizer_spec, self.engine, texts)
            self._engines[column, engine.name] = engine
            chosen[column] = engine.name
        return chosen

    def open(self, engines: Mapping[str, str]) -> OpenStage:
        """Return the function that tokenises tables: all their texts in one call of the engine, whose ids are not copied again.

        Args:
            engines: Name of the engine for each column of ids, as `choose_engines` returned it.

        Raises:
            ValueError: An engine cannot be used for the kind of tokenizer.
        """
        opened = {column: self._engine(column, engines[column]) for column in self._row_formats}
        return OpenTokenize(self._row_formats, opened, self.max_length, self.overflow, drop_empty=self.empty == "drop")

    def _engine(self, column: str, name: str) -> Engine:
        """Return the engine that `choose_engines` has built and used, or one that is built at its first use."""
        tokenizer_spec = self._row_formats[column].tokenizer_spec
        if (name == FUNCTION) != tokenizer_spec.is_function:
            raise ValueError(f"engine {name} cannot be used for tokenizer {tokenizer_spec}; choose engines anew")
        return self._engines.setdefault((column, name), Engine(tokenizer_spec, name))


def _check_fields(tokenizer: object) -> None:
    """Raise if a dict is not one of tokenizers but, for example, a vocabulary."""
    for field, value in tokenizer.items() if isinstance(tokenizer, Mapping) else ():
        if not isinstance(field, str) or isinstance(value, int):
            remedy = "for a vocabulary pass a tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=...))"
            raise TypeError(f"tokenizer must be a dict of column -> tokenizer, got {{{field!r}: {value!r}, ...}}; {remedy}")


def _check_field(field: object) -> None:
    is_several = isinstance(field, list) or (isinstance(field, tuple) and len(field) == 2)
    names = list(field) if is_several else [field]  # type: ignore[call-overload]
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"field must be the name of a column, a tuple of two or a list, got {field!r}")
    if isinstance(field, list) and len(set(names)) < len(names):
        raise ValueError(f"field must have each column once, got {field!r}")


def _read_max_length(given: object, overflow: str) -> int | None:
    limit = read_limit("max_length", given)
    if limit is None and overflow != "truncate":
        reason = "" if given is None else ", which is no limit: the tokenizer's model_max_length is not known"
        raise ValueError(f"overflow={overflow!r} needs a max_length, got {given!r}{reason}; set Tokenize(max_length=...)")
    return limit


def _check_length(tokenizer_spec: TokenizerSpec, num_special: int, max_length: int | None) -> None:
    if max_length is not None and max_length <= num_special:
        raise ValueError(
            f"max_length must be more than the {num_special} special tokens of tokenizer {tokenizer_spec}, got {max_length}"
        )
