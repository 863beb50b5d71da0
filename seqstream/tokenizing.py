"""The stage that turns columns of text into columns of token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from seqstream.blueprints import Blueprint, read_tokenizer
from seqstream.encoding import Encoding, text_column
from seqstream.engines import ENGINES, FUNCTION, Engine, EngineName, choose_engine, is_installed
from seqstream.sources.protocol import Json
from seqstream.stages import OpenStage

Overflow: TypeAlias = Literal["truncate", "split", "drop", "error"]

_OVERFLOWS = ("truncate", "split", "drop", "error")
_EMPTIES = ("drop", "keep")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Tokenize:
    """Turn a column of text into a column of token ids, ``input_ids``.

    The ids are the tokenizer's own: what ``tokenizers`` gives with padding and truncation off, and with ``max_length`` what
    transformers gives for ``tokenizer(text, truncation=True, max_length=max_length)``. The tokenizer is read once, here, and
    never changed: its own padding and truncation have no effect, and what is done to it later has none either.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``, a transformers tokenizer, a path to ``tokenizer.json`` or to its directory, or a
            function from a list of texts to a list of lists of ids. A dict of field -> tokenizer makes several columns,
            ``<field>_ids``; a record is then dropped if any of them is empty or, with ``overflow="drop"``, too long.
        field: Column of the text, which the ids replace.
        max_length: Longest row in tokens, special tokens included.
        overflow: What becomes of longer ones: ``"truncate"`` drops the end, or the beginning if the tokenizer's
            ``truncation_side`` says so; ``"split"`` makes pieces of it, every token kept, special tokens around each, other
            columns repeated, numbered in a column ``piece``; ``"drop"`` drops the record; ``"error"`` raises.
        empty: Whether records that give no token of their own, special tokens aside, are dropped or kept; the loader
            gives a row of no token at all one padding token.
        special_tokens: Whether the special tokens that the tokenizer puts around a text are put there.
        engine: What computes the ids. ``"auto"`` is the fastest one installed that proves to give the same ids.

    Raises:
        ValueError: A setting is out of range, or the tokenizer's ids cannot be had exactly.
        TypeError: ``tokenizer`` is nothing that can be used as one.
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: ``engine`` is not installed.
    """

    tokenizer: Any
    _: dataclasses.KW_ONLY
    field: str = "text"
    max_length: int | None = None
    overflow: Overflow = "truncate"
    empty: Literal["drop", "keep"] = "drop"
    special_tokens: bool = True
    engine: EngineName = "auto"
    _blueprints: dict[str, Blueprint] = dataclasses.field(init=False)
    _engines: dict[tuple[str, str], Engine] = dataclasses.field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        _check_choice("overflow", self.overflow, _OVERFLOWS)
        _check_choice("empty", self.empty, _EMPTIES)
        _check_choice("engine", self.engine, ENGINES)
        if self.engine != "auto" and not is_installed(self.engine):
            raise ModuleNotFoundError(f"engine {self.engine} is not installed; pip install 'seqstream[fast]'", name=self.engine)
        given = self.tokenizer if isinstance(self.tokenizer, Mapping) else {self.field: self.tokenizer}
        if given is self.tokenizer:
            _check_fields(given, self.field, self.overflow)
        read = {field: read_tokenizer(value, special_tokens=self.special_tokens) for field, value in given.items()}
        for blueprint in read.values():
            _check_lengths(blueprint, self.max_length, self.overflow)
            if blueprint.is_function and self.engine != "auto":
                raise ValueError(
                    f"engine must be 'auto' for the tokenizer {blueprint.name} written in Python, got {self.engine!r}"
                )
        object.__setattr__(self, "_blueprints", read)

    def __repr__(self) -> str:
        shown = {field: str(blueprint) for field, blueprint in self._blueprints.items()}
        parts = [
            ", ".join(f"{field}: {text}" for field, text in shown.items()) if self._several else next(iter(shown.values()))
        ]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.init and field.name != "tokenizer" and value != field.default:
                parts.append(f"{field.name}={value!r}")
        return f"Tokenize({', '.join(parts)})"

    @property
    def _several(self) -> bool:
        return isinstance(self.tokenizer, Mapping)

    @property
    def _columns(self) -> dict[str, str]:
        return {field: f"{field}_ids" if self._several else "input_ids" for field in self._blueprints}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ids that this stage makes."""
        return tuple(self._columns.values())

    def fingerprint(self) -> Json:
        """Say what decides the ids: tokenizers and settings; not the engine, which decides none."""
        settings = ("max_length", "overflow", "empty", "special_tokens")
        tokenizers = {field: blueprint.fingerprint() for field, blueprint in self._blueprints.items()}
        return {"kind": "Tokenize", "tokenizers": tokenizers, **{name: getattr(self, name) for name in settings}}

    def pad_values(self) -> dict[str, int]:
        """Return the padding token of each column whose tokenizer has one."""
        pairs = ((self._columns[field], blueprint.pad_id) for field, blueprint in self._blueprints.items())
        return {column: pad_id for column, pad_id in pairs if pad_id is not None}

    def choose_engines(self, sample: pa.Table | None = None) -> dict[str, str]:
        """Return the name of the engine for each column of ids, each proved on hostile texts and on the first of a sample.

        Args:
            sample: First records of the stream as this stage will see them.

        Raises:
            ValueError: ``engine`` was named and gives other ids, or cannot take the tokenizer.

        Warns:
            EngineWarning: The fastest engine gives other ids, so ``tokenizers`` is used.
        """
        chosen = {}
        for field, blueprint in self._blueprints.items():
            texts: Iterable[str | None] = ()
            if sample is not None and len(sample):
                texts = (value.as_py() for value in text_column(sample, field))
            engine = choose_engine(blueprint, self.engine, texts)
            self._engines[field, engine.name] = engine
            chosen[self._columns[field]] = engine.name
        return chosen

    def open(self, engines: Mapping[str, str]) -> OpenStage:
        """Return the function that tokenises tables: all their texts in one call of the engine, the ids not copied after it.

        Args:
            engines: For each column of ids, the name of the engine, as `choose_engines` returned it.
        """
        opened = {field: self._engine(field, engines[column]) for field, column in self._columns.items()}
        return Encoding(opened, self._columns, self.max_length, self.overflow, drop_empty=self.empty == "drop")

    def _engine(self, field: str, name: str) -> Engine:
        """Return the engine that was proved, warm as it is, or one that is built when it is used."""
        blueprint = self._blueprints[field]
        if (name == FUNCTION) != blueprint.is_function:
            raise ValueError(f"engine {name} cannot be used for tokenizer {blueprint}; choose engines anew")
        return self._engines.setdefault((field, name), Engine(blueprint, name))


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_fields(tokenizers: Mapping[str, Any], field: str, overflow: str) -> None:
    if not tokenizers:
        raise ValueError("tokenizer must name at least one field, got an empty dict")
    if field != "text":
        raise ValueError(f"field={field!r} cannot be given with a dict of tokenizers, whose keys are the fields")
    if overflow == "split" and len(tokenizers) > 1:
        reason = "their pieces would not belong together; use 'truncate' or 'drop'"
        raise ValueError(f"overflow='split' cannot cut several columns ({', '.join(tokenizers)}): {reason}")


def _check_lengths(blueprint: Blueprint, max_length: int | None, overflow: str) -> None:
    if max_length is None:
        if overflow != "truncate":
            raise ValueError(f"overflow={overflow!r} needs a max_length, got None; set Tokenize(max_length=...)")
        return
    if isinstance(max_length, bool) or not isinstance(max_length, int):
        raise TypeError(f"max_length must be a whole number, got {max_length!r}")
    special = len(blueprint.frame)
    if max_length <= special:
        raise ValueError(
            f"max_length must be more than the {special} special tokens of tokenizer {blueprint}, got {max_length}"
        )
