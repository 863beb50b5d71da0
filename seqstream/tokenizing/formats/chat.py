"""Chats, rendered as text by a tokenizer's chat template, with labels on what the assistant says."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.records import IGNORE_INDEX, Json, RecordError, row_id_of
from seqstream.tokenizing.engines import Engine
from seqstream.tokenizing.formats.assistant_mask import ASSISTANT, Span, encode_with_mask
from seqstream.tokenizing.formats.fields import Field, naming_records, read_chats, read_objects
from seqstream.tokenizing.formats.row_format import LABELS, EncodedSequences
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

Speaker: TypeAlias = Literal["assistant", "all"]
Chat: TypeAlias = list[dict[str, Any]]
Renderer: TypeAlias = Callable[..., tuple[list[str], list[list[Span]]]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag that marks the assistant's text in a template, as `transformers` finds it."""

_ASSISTANT_ROLE = "assistant"

_NAMED_COLUMNS = ("tools", "documents")
_KWARGS = "chat_template_kwargs"
_RESERVED_KWARGS = (
    "conversations",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "return_assistant_tokens_mask",
)
_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class ChatError(ValueError):
    """A chat cannot be rendered."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a tokenizer renders chats: the text of its template, and the special tokens that the template may name.

    Attributes:
        text: A Jinja template, which `transformers` renders.
        special_tokens: ``(name, token)`` of each special token.
        tool_use: The template for chats with tools, if the tokenizer has several templates.
    """

    text: str
    special_tokens: tuple[tuple[str, Any], ...]
    tool_use: str | None = None

    def fingerprint(self) -> Json:
        """Return what identifies the template."""
        texts = (self.text,) if self.tool_use is None else (self.text, self.tool_use)
        return hashlib.sha256(repr((*texts, self.special_tokens)).encode()).hexdigest()[:16]

    @property
    def argument_columns(self) -> tuple[str, ...]:
        """Columns whose values are arguments of the template besides the messages."""
        named = (name for name in _NAMED_COLUMNS if re.search(rf"\b{name}\b", self.text + (self.tool_use or "")))
        return (*named, _KWARGS)

    def render(self, chat: Chat, *, add_prompt: bool = False, arguments: Mapping[str, Any] = _NO_ARGUMENTS) -> str:
        """Return a chat as text, as ``apply_chat_template(chat, tokenize=False, add_generation_prompt=add_prompt)`` does.

        Args:
            chat: The messages.
            add_prompt: Whether the text ends with the beginning of an answer of the assistant.
            arguments: Other arguments of ``apply_chat_template``: ``tools``, ``documents``, variables of the template.

        Raises:
            ChatError: The template raises.
        """
        return self._run(chat, arguments, add_generation_prompt=add_prompt)[0][0]

    def render_spans(self, chat: Chat, arguments: Mapping[str, Any] = _NO_ARGUMENTS) -> tuple[str, list[Span]]:
        """Return a chat as text, and the spans of it that the assistant says.

        Raises:
            ChatError: The template raises; or it has no ``{% generation %}``, and renders messages differently when a message
                follows.
        """
        if _GENERATION.search(self._text(arguments)):
            texts, spans = self._run(chat, arguments, return_assistant_tokens_mask=True)
            return texts[0], spans[0]
        return self._compare_prefixes(chat, arguments)

    def _text(self, arguments: Mapping[str, Any]) -> str:
        return self.text if self.tool_use is None or arguments.get("tools") is None else self.tool_use

    def _compare_prefixes(self, chat: Chat, arguments: Mapping[str, Any]) -> tuple[str, list[Span]]:
        """Find each span by rendering the chat up to the assistant's message, without it and with it."""
        whole = self.render(chat, arguments=arguments)
        spans = []
        for number, message in enumerate(chat):
            if message.get("role") != _ASSISTANT_ROLE:
                continue
            if not number:
                remedy = "drop such records with Filter before, or use chat='all'"
                raise ChatError(f"chat cannot begin with the assistant where its template has no {{% generation %}}; {remedy}")
            before = self.render(chat[:number], add_prompt=True, arguments=arguments)
            after = self.render(chat[: number + 1], arguments=arguments)
            if not (after.startswith(before) and whole.startswith(after)):
                got = f"got another text for message {number + 1} in the whole chat"
                remedy = "use a template with {% generation %}, or chat='all'"
                raise ChatError(f"chat template must render a message the same whatever follows it, {got}; {remedy}")
            spans.append((len(before), len(after)))
        return whole, spans

    def _run(self, chat: Chat, arguments: Mapping[str, Any], **settings: bool) -> tuple[list[str], list[list[Span]]]:
        render = _renderer()
        variables = {**dict(self.special_tokens), **arguments}
        try:
            texts, spans = render(conversations=[chat], chat_template=self._text(arguments), **variables, **settings)
        except Exception as error:  # a template may raise anything
            raise ChatError(f"chat template cannot render a chat: {error}; change the chat in a Map before") from error
        return texts, spans


def read_chat_template(tokenizer: object, tokenizer_spec: TokenizerSpec) -> ChatTemplate:
    """Return the chat template of a transformers tokenizer.

    Args:
        tokenizer: The user's object.
        tokenizer_spec: Its spec, for the message.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    text: Any = getattr(tokenizer, "chat_template", None)
    tool_use: Any = None
    if isinstance(text, Mapping):
        text, tool_use = text.get("default"), text.get("tool_use")
    if not isinstance(text, str):
        remedy = "pass a transformers tokenizer whose chat_template is set"
        raise ValueError(f"chat needs a tokenizer with a chat template, got {tokenizer_spec} without one; {remedy}")
    special: Mapping[str, Any] = getattr(tokenizer, "special_tokens_map", {})
    return ChatTemplate(text, tuple((name, _plain(token)) for name, token in special.items()), tool_use)


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A row is a chat; labels are the ids of what the assistant says, or all ids.

    Columns ``tools`` and ``documents`` are passed to a template that names them, and the dicts of a column
    ``chat_template_kwargs`` are passed to every template, as by ``apply_chat_template``.

    Attributes:
        tokenizer_spec: The bare tokenizer.
        field: Column of lists of messages.
        template: How they are rendered.
        speaker: Whose messages are labelled.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    template: ChatTemplate
    speaker: Speaker

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self.field.name, *self.template.argument_columns

    @property
    def num_special(self) -> int:
        return 0

    def fingerprint(self) -> dict[str, Json]:
        return {"chat": self.speaker, "template": self.template.fingerprint()}

    def sample(self, table: pa.Table) -> Iterable[str]:
        return (text for text, _ in self._render([table]))

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> EncodedSequences:
        rendered = list(self._render(tables))
        texts = [text for text, _ in rendered]
        with naming_records(tables):
            if self.speaker == "all":
                rows = engine(texts)
                return self._with_labels(rows, rows.ids)
            rows = encode_with_mask(texts, [spans for _, spans in rendered], engine)
        return self._with_labels(rows, np.where(rows.parallel[ASSISTANT], rows.ids, np.int32(IGNORE_INDEX)))

    def _render(self, tables: Sequence[pa.Table]) -> Iterable[tuple[str, list[Span]]]:
        """Yield the text of each record, and the spans of it that the assistant says; no spans if all is labelled."""
        names = self.template.argument_columns
        columns = [read_objects(tables, name) for name in names]
        for record, (chat, *values) in enumerate(zip(read_chats(tables, self.field), *columns, strict=True)):
            try:
                if not chat:
                    raise ChatError(f"{self.field} must hold messages, got none; drop such records with Filter before")
                arguments = _template_arguments(dict(zip(names, values, strict=True)))
                if self.speaker == "all":
                    yield self.template.render(chat, arguments=arguments), []
                else:
                    yield self.template.render_spans(chat, arguments)
            except ChatError as error:
                raise RecordError(str(error), row_id_of(tables, record)) from error

    def _with_labels(self, rows: TokenRows, labels: npt.NDArray[np.int32]) -> EncodedSequences:
        labelled = TokenRows(rows.ids, rows.offsets, {LABELS: labels})
        return EncodedSequences(labelled, SpecialCounts(), self.tokenizer_spec.truncation_side)


def _template_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the template for one record, from the values of `ChatTemplate.argument_columns`.

    Raises:
        ChatError: ``chat_template_kwargs`` is not a dict, or has a key that `Tokenize` sets.
    """
    kwargs = values.pop(_KWARGS, None)
    named = {name: value for name, value in values.items() if value is not None}
    if kwargs is None:
        return named
    if not isinstance(kwargs, Mapping):
        raise ChatError(f"column {_KWARGS!r} must hold dicts, got {kwargs!r:.60}; mend or drop it in a Map")
    if reserved := [name for name in kwargs if name in _RESERVED_KWARGS]:
        raise ChatError(f"column {_KWARGS!r} cannot set {reserved[0]!r}, which Tokenize decides; leave it out in a Map")
    return {**named, **kwargs}


def _renderer() -> Renderer:
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        remedy = "pip install -U transformers jinja2"
        raise ImportError(f"chat needs a transformers with render_jinja_template: {error}; {remedy}") from error
    return cast(Renderer, render_jinja_template)


def _plain(token: object) -> str | tuple[str, ...]:
    return tuple(map(str, token)) if isinstance(token, (list, tuple)) else str(token)
