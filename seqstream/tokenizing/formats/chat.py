"""Chats, written out by a tokenizer's own template, and which of it an assistant says."""

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
from seqstream.tokenizing.formats.fields import Field, naming_records, read_beside, read_chats
from seqstream.tokenizing.formats.row_format import LABELS, Sequences
from seqstream.tokenizing.token_rows import SpecialCounts, TokenRows
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

Speaker: TypeAlias = Literal["assistant", "all"]
Chat: TypeAlias = list[dict[str, Any]]
Renderer: TypeAlias = Callable[..., tuple[list[str], list[list[Span]]]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag by which a template says what the assistant says, as `transformers` finds it."""

_ASSISTANT = "assistant"

_BESIDE = ("tools", "documents")
_KWARGS = "chat_template_kwargs"
_TAKEN = (
    "conversations",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "return_assistant_tokens_mask",
)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ChatError(ValueError):
    """A chat cannot be written out."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a tokenizer writes chats: the text of its template, and the special tokens that it may name.

    Attributes:
        text: In Jinja, as `transformers` runs it.
        special_tokens: ``(name, token)`` of each.
        tool_use: Another text for chats with tools, where the tokenizer has several templates.
    """

    text: str
    special_tokens: tuple[tuple[str, Any], ...]
    tool_use: str | None = None

    def fingerprint(self) -> Json:
        """Say which template this is."""
        texts = (self.text,) if self.tool_use is None else (self.text, self.tool_use)
        return hashlib.sha256(repr((*texts, self.special_tokens)).encode()).hexdigest()[:16]

    @property
    def beside(self) -> tuple[str, ...]:
        """Columns that the template writes out beside the messages, or that say how."""
        named = (name for name in _BESIDE if re.search(rf"\b{name}\b", self.text + (self.tool_use or "")))
        return (*named, _KWARGS)

    def render(self, chat: Chat, *, prompted: bool = False, beside: Mapping[str, Any] = _NOTHING) -> str:
        """Return a chat as text, as ``apply_chat_template(chat, tokenize=False, add_generation_prompt=prompted)`` does.

        Args:
            chat: The messages.
            prompted: Whether an answer of the assistant is begun at the end.
            beside: What else the function takes: ``tools``, ``documents``, variables of the template.
        """
        return self._run(chat, beside, add_generation_prompt=prompted)[0][0]

    def render_spans(self, chat: Chat, beside: Mapping[str, Any] = _NOTHING) -> tuple[str, list[Span]]:
        """Return a chat as text, and the stretches of it, from character to character, that an assistant says.

        Raises:
            ChatError: The template does not say which they are, and changes what was before when a message is added.
        """
        if _GENERATION.search(self._text(beside)):
            texts, spans = self._run(chat, beside, return_assistant_tokens_mask=True)
            return texts[0], spans[0]
        return self._compare_prefixes(chat, beside)

    def _text(self, beside: Mapping[str, Any]) -> str:
        return self.text if self.tool_use is None or beside.get("tools") is None else self.tool_use

    def _compare_prefixes(self, chat: Chat, beside: Mapping[str, Any]) -> tuple[str, list[Span]]:
        whole = self.render(chat, beside=beside)
        spans = []
        for number, message in enumerate(chat):
            if message.get("role") != _ASSISTANT:
                continue
            if not number:
                remedy = "drop such records with Filter before, or use chat='all'"
                raise ChatError(f"chat cannot begin with the assistant where its template has no {{% generation %}}; {remedy}")
            begun = self.render(chat[:number], prompted=True, beside=beside)
            ended = self.render(chat[: number + 1], beside=beside)
            if not (ended.startswith(begun) and whole.startswith(ended)):
                got = f"got message {number + 1} written otherwise in the whole chat"
                remedy = "use a template with {% generation %}, or chat='all'"
                raise ChatError(f"chat template must write messages alike whatever follows them, {got}; {remedy}")
            spans.append((len(begun), len(ended)))
        return whole, spans

    def _run(self, chat: Chat, beside: Mapping[str, Any], **settings: bool) -> tuple[list[str], list[list[Span]]]:
        render = _renderer()
        variables = {**dict(self.special_tokens), **beside}
        try:
            texts, spans = render(conversations=[chat], chat_template=self._text(beside), **variables, **settings)
        except Exception as error:  # a template may raise anything
            raise ChatError(f"chat template cannot write a chat: {error}; mend it in a Map before") from error
        return texts, spans


def read_chat_template(tokenizer: object, tokenizer_spec: TokenizerSpec) -> ChatTemplate:
    """Return the chat template of a transformers tokenizer.

    Raises:
        ValueError: It has none.
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
class Chats:
    """A row is a chat; labels are the ids of what the assistant says, or all of them.

    Columns ``tools`` and ``documents`` are given to a template that names them, and what a column ``chat_template_kwargs``
    holds is given to every template, as to ``apply_chat_template``.

    Attributes:
        tokenizer_spec: The tokenizer, bare.
        field: Column of lists of messages.
        template: How they are written out.
        speaker: Whose words are labelled.
    """

    tokenizer_spec: TokenizerSpec
    field: Field
    template: ChatTemplate
    speaker: Speaker

    @property
    def fields(self) -> tuple[str, ...]:
        return self.field.name, *self.template.beside

    @property
    def num_special(self) -> int:
        return 0

    def fingerprint(self) -> dict[str, Json]:
        return {"chat": self.speaker, "template": self.template.fingerprint()}

    def sample(self, table: pa.Table) -> Iterable[str]:
        return (text for text, _ in self._render([table]))

    def encode(self, tables: Sequence[pa.Table], engine: Engine) -> Sequences:
        rendered = list(self._render(tables))
        texts = [text for text, _ in rendered]
        with naming_records(tables):
            if self.speaker == "all":
                rows = engine(texts)
                return self._draft(rows, rows.ids)
            rows = encode_with_mask(texts, [spans for _, spans in rendered], engine)
        return self._draft(rows, np.where(rows.beside[ASSISTANT], rows.ids, np.int32(IGNORE_INDEX)))

    def _render(self, tables: Sequence[pa.Table]) -> Iterable[tuple[str, list[Span]]]:
        names = self.template.beside
        columns = [read_beside(tables, name) for name in names]
        for record, (chat, *values) in enumerate(zip(read_chats(tables, self.field), *columns, strict=True)):
            try:
                if not chat:
                    raise ChatError(f"{self.field} must hold messages, got none; drop such records with Filter before")
                beside = _arguments(dict(zip(names, values, strict=True)))
                if self.speaker == "all":
                    yield self.template.render(chat, beside=beside), []
                else:
                    yield self.template.render_spans(chat, beside)
            except ChatError as error:
                raise RecordError(str(error), row_id_of(tables, record)) from error

    def _draft(self, rows: TokenRows, labels: npt.NDArray[np.int32]) -> Sequences:
        labelled = TokenRows(rows.ids, rows.offsets, {LABELS: labels})
        return Sequences(labelled, SpecialCounts(), self.tokenizer_spec.truncation_side)


def _arguments(beside: dict[str, Any]) -> dict[str, Any]:
    """Return what a template is given beside the messages of a record.

    Raises:
        ChatError: There are arguments that are no dict, or that are not the record's to choose.
    """
    more = beside.pop(_KWARGS, None)
    found = {name: value for name, value in beside.items() if value is not None}
    if more is None:
        return found
    if not isinstance(more, Mapping):
        raise ChatError(f"column {_KWARGS!r} must hold dicts, got {more!r:.60}; mend or drop it in a Map")
    if taken := [name for name in more if name in _TAKEN]:
        raise ChatError(f"column {_KWARGS!r} cannot set {taken[0]!r}, which Tokenize decides; leave it out in a Map")
    return {**found, **more}


def _renderer() -> Renderer:
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        remedy = "pip install -U transformers jinja2"
        raise ImportError(f"chat needs a transformers with render_jinja_template: {error}; {remedy}") from error
    return cast(Renderer, render_jinja_template)


def _plain(token: object) -> str | tuple[str, ...]:
    return tuple(map(str, token)) if isinstance(token, (list, tuple)) else str(token)
