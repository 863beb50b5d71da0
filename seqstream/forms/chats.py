"""Chats, written out by a tokenizer's own template, and which of it an assistant says.

Shapes: ``N`` chats, ``S`` stretches of text that all of them are cut into.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from seqstream.blueprints import Blueprint
from seqstream.engines import Engine
from seqstream.forms.drafts import IGNORED, LABELS, Sequences
from seqstream.forms.fields import Field, read_chats, row_id_of
from seqstream.pieces import Frame, TokenRows
from seqstream.sources.protocol import Json
from seqstream.stages import RecordError

Speaker: TypeAlias = Literal["assistant", "all"]
Chat: TypeAlias = list[dict[str, Any]]
Span: TypeAlias = tuple[int, int]
Renderer: TypeAlias = Callable[..., tuple[list[str], list[list[Span]]]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag by which a template says what the assistant says, as `transformers` finds it."""

_ASSISTANT = "assistant"


class ChatError(ValueError):
    """A chat cannot be written out."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a tokenizer writes chats: the text of its template, and the special tokens that it may name.

    Attributes:
        text: In Jinja, as `transformers` runs it.
        special_tokens: ``(name, token)`` of each.
    """

    text: str
    special_tokens: tuple[tuple[str, Any], ...]

    def fingerprint(self) -> Json:
        """Say which template this is."""
        return hashlib.sha256(repr((self.text, self.special_tokens)).encode()).hexdigest()[:16]

    def render(self, chat: Chat, *, prompted: bool = False) -> str:
        """Return a chat as text, as ``apply_chat_template(chat, tokenize=False, add_generation_prompt=prompted)`` does."""
        return self._run(chat, add_generation_prompt=prompted)[0][0]

    def render_spans(self, chat: Chat) -> tuple[str, list[Span]]:
        """Return a chat as text, and the stretches of it, from character to character, that an assistant says.

        Raises:
            ChatError: The template does not say which they are, and changes what was before when a message is added.
        """
        if _GENERATION.search(self.text):
            texts, spans = self._run(chat, return_assistant_tokens_mask=True)
            return texts[0], spans[0]
        return self._compare_prefixes(chat)

    def _compare_prefixes(self, chat: Chat) -> tuple[str, list[Span]]:
        whole = self.render(chat)
        spans = []
        for number, message in enumerate(chat):
            if message.get("role") != _ASSISTANT:
                continue
            if not number:
                remedy = "drop such records with Filter before, or use chat='all'"
                raise ChatError(f"chat cannot begin with the assistant where its template has no {{% generation %}}; {remedy}")
            begun, ended = self.render(chat[:number], prompted=True), self.render(chat[: number + 1])
            if not (ended.startswith(begun) and whole.startswith(ended)):
                got = f"got message {number + 1} written otherwise in the whole chat"
                remedy = "use a template with {% generation %}, or chat='all'"
                raise ChatError(f"chat template must write messages alike whatever follows them, {got}; {remedy}")
            spans.append((len(begun), len(ended)))
        return whole, spans

    def _run(self, chat: Chat, **settings: bool) -> tuple[list[str], list[list[Span]]]:
        render = _renderer()
        try:
            texts, spans = render(conversations=[chat], chat_template=self.text, **dict(self.special_tokens), **settings)
        except Exception as error:  # a template may raise anything
            raise ChatError(f"chat template cannot write a chat: {error}; mend it in a Map before") from error
        return texts, spans


def read_chat_template(tokenizer: object, blueprint: Blueprint) -> ChatTemplate:
    """Return the chat template of a transformers tokenizer.

    Raises:
        ValueError: It has none.
    """
    text = getattr(tokenizer, "chat_template", None)
    if isinstance(text, Mapping):
        text = text.get("default")
    if not isinstance(text, str):
        remedy = "pass a transformers tokenizer whose chat_template is set"
        raise ValueError(f"chat needs a tokenizer with a chat template, got {blueprint} without one; {remedy}")
    special: Mapping[str, Any] = getattr(tokenizer, "special_tokens_map", {})
    return ChatTemplate(text, tuple((name, _plain(token)) for name, token in special.items()))


@dataclasses.dataclass(frozen=True)
class Chats:
    """A row is a chat; labels are the ids of what the assistant says, or all of them.

    Attributes:
        blueprint: The tokenizer, bare.
        field: Column of lists of messages.
        template: How they are written out.
        speaker: Whose words are labelled.
    """

    blueprint: Blueprint
    field: Field
    template: ChatTemplate
    speaker: Speaker

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field.name,)

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
        if self.speaker == "all":
            rows = engine(texts)
            return self._draft(rows, rows.ids)
        rows, said = find_said(texts, [spans for _, spans in rendered], engine)
        return self._draft(rows, np.where(said, rows.ids, np.int32(IGNORED)))

    def _render(self, tables: Sequence[pa.Table]) -> Iterable[tuple[str, list[Span]]]:
        for record, chat in enumerate(read_chats(tables, self.field)):
            try:
                if not chat:
                    raise ChatError(f"{self.field} must hold messages, got none; drop such records with Filter before")
                yield (self.template.render(chat), []) if self.speaker == "all" else self.template.render_spans(chat)
            except ChatError as error:
                raise RecordError(str(error), row_id_of(tables, record)) from error

    def _draft(self, rows: TokenRows, labels: npt.NDArray[np.int32]) -> Sequences:
        labelled = TokenRows(rows.ids, rows.offsets, {LABELS: labels})
        return Sequences(labelled, Frame(), self.blueprint.truncation_side)


def find_said(texts: list[str], spans: Sequence[Sequence[Span]], engine: Engine) -> tuple[TokenRows, npt.NDArray[np.bool_]]:
    """Encode texts, and say which tokens lie in some spans of them.

    Texts are also cut where spans begin and end. Where the stretches give together the ids of the whole, each token is of one
    stretch; no engine but `tokenizers` says of which characters a token is, so only other texts go there.

    Args:
        texts: ``N`` texts.
        spans: Of each text, from character to character, ascending.
        engine: What encodes them, without special tokens.

    Returns:
        The rows, and ``bool (T,)``, true on tokens of which a character is in a span.
    """
    cuts = [[0, *(at for span in own for at in span), len(text)] for text, own in zip(texts, spans, strict=True)]
    stretches = [text[begin:end] for text, own in zip(texts, cuts, strict=True) for begin, end in itertools.pairwise(own)]
    encoded = engine([*texts, *stretches])
    num_ids = int(encoded.offsets[len(texts)])
    rows = TokenRows(encoded.ids[:num_ids], encoded.offsets[: len(texts) + 1])
    parts = TokenRows(encoded.ids[num_ids:], encoded.offsets[len(texts) :] - num_ids)
    firsts = np.cumsum([0, *(len(own) - 1 for own in cuts)])
    in_span = (np.arange(len(parts)) - np.repeat(firsts[:-1], np.diff(firsts))) % 2 == 1
    joined = TokenRows(parts.ids, parts.offsets[firsts], {"said": np.repeat(in_span, parts.lengths)})
    said = [joined.beside["said"][joined.span(row)] for row in range(len(rows))]
    odd = [row for row in range(len(rows)) if not np.array_equal(rows.ids[rows.span(row)], joined.ids[joined.span(row)])]
    tokenizer = _tokenizer_with_offsets(engine.blueprint.json, engine.blueprint.split_special_tokens) if odd else None
    for row, encoding in zip(odd, tokenizer.encode_batch([texts[row] for row in odd]) if tokenizer else (), strict=True):
        said[row] = _in_spans(np.array(encoding.offsets, np.int64).reshape(-1, 2), spans[row])
    return rows, np.concatenate([np.zeros(0, bool), *said])


def _in_spans(offsets: npt.NDArray[np.int64], spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Say which tokens, known by where they begin and end, lie in spans; one of no characters does if its neighbours do."""
    said = np.zeros(len(offsets), bool)
    for begin, end in spans:
        found = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > begin))
        if len(found):
            said[found[0] : found[-1] + 1] = True
    return said


@functools.lru_cache(maxsize=4)
def _tokenizer_with_offsets(json: str, split_special_tokens: bool) -> Tokenizer:
    """Return a tokenizer for its offsets; they leave out no character, as a bare one has no post-processor to trim them."""
    tokenizer = Tokenizer.from_str(json)
    tokenizer.encode_special_tokens = split_special_tokens
    return tokenizer


def _renderer() -> Renderer:
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        raise ImportError(f"chat needs transformers of 4.52 or later: {error}; pip install -U transformers jinja2") from error
    return cast(Renderer, render_jinja_template)


def _plain(token: object) -> str | tuple[str, ...]:
    return tuple(map(str, token)) if isinstance(token, (list, tuple)) else str(token)
