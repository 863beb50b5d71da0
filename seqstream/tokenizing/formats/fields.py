"""Reading the columns that are tokenised: texts, lists of words, of labels or of messages, found in tables and checked.

Shapes: ``N`` records of all given tables, one after the other; ``V`` items of their lists.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import is_list, is_text, to_numpy
from seqstream.records import RESERVED, RecordError, row_id_of
from seqstream.sources.tables.arrow_to_python import decode_text, to_objects
from seqstream.tokenizing.failing_texts import TextError
from seqstream.tokenizing.formats.chat_roles import with_roles


@dataclasses.dataclass(frozen=True)
class Field:
    """A column of the data, by its name, and the option of `Tokenize` that gives the name, for messages."""

    name: str
    option: str = "field"

    def __str__(self) -> str:
        return f"field {self.name!r}"

    @property
    def remedy(self) -> str:
        """How to choose another column."""
        return f"set Tokenize({self.option}=...)"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of ``N`` records.

    Attributes:
        chunks: The ``V`` items, one list after the other.
        offsets: ``int64 (N + 1,)``, from 0 to ``V``.
    """

    chunks: list[pa.Array]
    offsets: Index

    @property
    def lengths(self) -> Index:
        """Items of each record, ``int64 (N,)``."""
        return np.diff(self.offsets)

    def distinct(self) -> tuple[pa.Array, Index]:
        """Return the distinct items, and the index of each item among them, ``int64 (V,)``."""
        coded = pa.chunked_array(self.chunks, None if self.chunks else pa.string()).dictionary_encode().combine_chunks()
        return coded.dictionary, to_numpy(coded.indices).astype(np.int64)

    def to_numpy(self) -> Index:
        """Return items that are whole numbers, ``int64 (V,)``."""
        return np.concatenate([np.empty(0, np.int64), *(to_numpy(chunk).astype(np.int64) for chunk in self.chunks)])

    def record_of(self, item: int) -> int:
        """Return the record of an item."""
        return int(np.searchsorted(self.offsets, item, side="right")) - 1


def read_texts(tables: Sequence[pa.Table], field: Field) -> list[str]:
    """Return the texts of all records, ``N`` strings; tables without rows may lack the column.

    Raises:
        ValueError: The column is missing, or does not hold text.
        RecordError: A text is missing.
    """
    return [text for table in tables if len(table) for text in text_column(table, field).to_pylist()]


def text_column(table: pa.Table, field: Field) -> pa.ChunkedArray:
    """Return a column of text as ``pa.string()``.

    Raises:
        ValueError: The column is missing, or does not hold text.
        RecordError: A text is missing.
    """
    column = _column(table, field)
    if column.type != pa.string():
        if not is_text(column.type):
            raise ValueError(f"{field} must hold text, got {column.type} among the columns {_shown(table)}; {field.remedy}")
        column = column.cast(pa.string())
    return column


def holds_words(tables: Sequence[pa.Table], field: Field) -> bool:
    """Return whether a column holds lists of words, by its type in the first table with rows."""
    first = next((table for table in tables if len(table)), None)
    if first is None:
        return False
    kind = _column(first, field).type
    return is_list(kind) and (is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def read_words(tables: Sequence[pa.Table], field: Field) -> Lists:
    """Return the lists of words of all records.

    Raises:
        ValueError: The column is missing, or does not hold lists of text.
        RecordError: A list or a word is missing.
    """
    lists = _read_lists(tables, field, "lists of words", is_text)
    return Lists([chunk if chunk.type == pa.string() else chunk.cast(pa.string()) for chunk in lists.chunks], lists.offsets)


def read_labels(tables: Sequence[pa.Table], field: Field) -> Lists:
    """Return the lists of labels of all records, one label for each word.

    Raises:
        ValueError: The column is missing, or does not hold lists of whole numbers.
        RecordError: A list or a label is missing.
    """
    remedy = f"ClassLabels(classes, field={field.name!r}) before makes numbers of strings"
    lists = _read_lists(tables, field, "lists of whole numbers", pa.types.is_integer, remedy)
    return Lists([chunk for chunk in lists.chunks if len(chunk)], lists.offsets)  # empty chunks may have no type


def _read_lists(tables: Sequence[pa.Table], field: Field, wanted: str, fits: Any, remedy: str = "") -> Lists:
    """Return the lists of all records.

    Args:
        tables: The records.
        field: Column of lists.
        wanted: What the column must hold, for the message.
        fits: Returns whether the type of an item is right.
        remedy: For the message; that of ``field`` if empty.
    """
    chunks: list[pa.Array] = []
    lengths: list[Index] = [np.empty(0, np.int64)]
    for table in tables:
        for chunk in _column(table, field).chunks if len(table) else ():
            if not (is_list(chunk.type) and (fits(chunk.type.value_type) or pa.types.is_null(chunk.type.value_type))):
                got = f"got {chunk.type} among the columns {_shown(table)}"
                raise ValueError(f"{field} must hold {wanted}, {got}; {remedy or field.remedy}")
            bounds = to_numpy(chunk.offsets)
            lengths.append(np.diff(bounds).astype(np.int64))
            chunks.append(chunk.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0])))
    lists = Lists(chunks, np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))
    if any(chunk.null_count for chunk in chunks):
        item = int(np.flatnonzero(np.concatenate([chunk.is_null().to_numpy(zero_copy_only=False) for chunk in chunks]))[0])
        raise RecordError(_must_not_be_null(field, "hold"), row_id_of(tables, lists.record_of(item)))
    return lists


def read_chats(tables: Sequence[pa.Table], field: Field) -> list[list[dict[str, Any]]]:
    """Return the messages of all records, ``N`` lists: from lists of structs, without keys that are null, or from JSON text.

    Raises:
        ValueError: The column is missing, or does not hold lists of messages.
        RecordError: A chat or a message is missing, or a text is not JSON.
    """
    chats: list[list[dict[str, Any]]] = []
    for table in (each for each in tables if len(each)):
        column = _column(table, field)
        if not _may_be_chats(column.type):
            got = f"got {column.type} among the columns {_shown(table)}"
            raise ValueError(f"{field} must hold lists of messages (struct<role, content>), {got}; {field.remedy}")
        for chat in (chat for chunk in column.chunks for chat in to_objects(chunk)):
            chats.append(_read_chat(chat, field, tables, len(chats)))
    return chats


def _may_be_chats(kind: pa.DataType) -> bool:
    inner = kind.value_type if is_list(kind) or pa.types.is_fixed_size_list(kind) else kind
    is_object = pa.types.is_struct(inner) or pa.types.is_null(inner)
    return bool(is_text(inner) or isinstance(inner, pa.JsonType) or (inner != kind and is_object))


def _read_chat(chat: Any, field: Field, tables: Sequence[pa.Table], record: int) -> list[dict[str, Any]]:
    try:
        messages = decode_text(chat)
        messages = [decode_text(message) for message in messages] if isinstance(messages, list) else messages
    except ValueError as error:
        message = f"{field} must hold lists of messages, got text that is no JSON: {error}"
        raise RecordError(message, row_id_of(tables, record)) from error
    if isinstance(messages, list) and None in messages:
        raise RecordError(_must_not_be_null(field, "hold"), row_id_of(tables, record))
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RecordError(f"{field} must hold lists of messages, got {messages!r:.60}", row_id_of(tables, record))
    # As in apply_chat_template: templates treat a missing key as one without a value.
    known = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        return with_roles(known)
    except ValueError as error:
        raise RecordError(f"{field} {error}", row_id_of(tables, record)) from None


def read_objects(tables: Sequence[pa.Table], name: str) -> list[Any]:
    """Return the nested values of a column, ``N`` of them, with JSON text decoded; ``None`` if the column or value is missing.

    Raises:
        RecordError: A text is not JSON.
    """
    values: list[Any] = []
    for table in tables:
        if name not in table.column_names:
            values += [None] * len(table)
            continue
        for value in (value for chunk in table.column(name).chunks for value in to_objects(chunk)):
            try:
                decoded = decode_text(value)
                values.append([decode_text(each) for each in decoded] if isinstance(decoded, list) else decoded)
            except ValueError as error:
                message = f"column {name!r} must hold JSON where it holds text: {error}"
                raise RecordError(message, row_id_of(tables, len(values))) from error
    return values


@contextlib.contextmanager
def naming_records(tables: Sequence[pa.Table], record_of: Callable[[int], int] = int) -> Iterator[None]:
    """Add the row id of the record to errors about one text of an engine's call.

    Args:
        tables: The records.
        record_of: Returns the record, among all tables, of a text by its index in the call.
    """
    try:
        yield
    except TextError as error:
        raise RecordError(str(error), row_id_of(tables, record_of(error.index))) from error
    except Exception as error:
        index = getattr(error, "text_index", None)  # raised by a user's function, and left as it is
        if index is not None:
            error.row_id = row_id_of(tables, record_of(index))  # type: ignore[attr-defined]
        raise


def _column(table: pa.Table, field: Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        shown = _shown(table) or "(none)"
        raise ValueError(f"Tokenize cannot find the field {field.name!r} among the columns {shown}; {field.remedy}")
    column = table.column(field.name)
    if column.null_count:
        record = int(np.argmax(column.is_null().to_numpy()))
        raise RecordError(_must_not_be_null(field, "be"), row_id_of([table], record))
    return column


def _must_not_be_null(field: Field, verb: str) -> str:
    return f"{field} must not {verb} null; drop such records with Filter before"


def _shown(table: pa.Table) -> str:
    pairs = zip(table.schema.names, table.schema.types, strict=True)
    return ", ".join(f"{name} ({kind})" for name, kind in pairs if name not in RESERVED)
