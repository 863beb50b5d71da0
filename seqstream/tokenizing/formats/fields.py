"""Columns that are to be tokenised: texts, lists of words, of labels or of messages, found in tables and checked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.arrow import is_text, to_numpy
from seqstream.records import RESERVED, RecordError, row_id_of
from seqstream.sources.tables.arrow_to_python import decode_text, to_objects
from seqstream.tokenizing.python_tokenizers import RowError


@dataclasses.dataclass(frozen=True)
class Field:
    """A column, and the option of `Tokenize` that names it, for messages."""

    name: str
    option: str = "field"

    def __str__(self) -> str:
        return f"field {self.name!r}"

    @property
    def remedy(self) -> str:
        """What to do if it is not the right one."""
        return f"set Tokenize({self.option}=...)"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of ``N`` records.

    Attributes:
        chunks: Their items, ``V`` in all, one after the other.
        offsets: ``int64 (N + 1,)``, from 0 to ``V``.
    """

    chunks: list[pa.Array]
    offsets: Index

    @property
    def lengths(self) -> Index:
        """Items of each record, ``int64 (N,)``."""
        return np.diff(self.offsets)

    def distinct(self) -> tuple[list[Any], npt.NDArray[np.int64]]:
        """Return each different item once, and for each item which it is, ``int64 (V,)``."""
        if not self.chunks:
            return [], np.empty(0, np.int64)
        coded = pa.chunked_array(self.chunks).dictionary_encode().combine_chunks()
        return coded.dictionary.to_pylist(), to_numpy(coded.indices).astype(np.int64)

    def to_numpy(self) -> npt.NDArray[np.int64]:
        """Return items that are whole numbers, ``int64 (V,)``."""
        return np.concatenate([np.empty(0, np.int64), *(to_numpy(chunk).astype(np.int64) for chunk in self.chunks)])

    def record_of(self, item: int) -> int:
        """Return which record has an item."""
        return int(np.searchsorted(self.offsets, item, side="right")) - 1

    def part(self, record: int) -> slice:
        """Return which items a record has."""
        return slice(int(self.offsets[record]), int(self.offsets[record + 1]))


def read_texts(tables: Sequence[pa.Table], field: Field) -> list[str]:
    """Return the texts of the records of all tables; one without rows may lack the column.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A text is missing.
    """
    return [text for table in tables if len(table) for text in text_column(table, field).to_pylist()]


def text_column(table: pa.Table, field: Field) -> pa.ChunkedArray:
    """Return a column of text as ``pa.string()``.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A text is missing.
    """
    column = _find(table, field)
    if column.type != pa.string():
        if not is_text(column.type):
            raise ValueError(f"{field} must hold text, got {column.type} among the columns {_shown(table)}; {field.remedy}")
        column = column.cast(pa.string())
    return column


def read_words(tables: Sequence[pa.Table], field: Field) -> Lists:
    """Return the words of records, which are lists of them.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A list or a word is missing.
    """
    lists = _read_lists(tables, field, "lists of words", is_text)
    return Lists([chunk if chunk.type == pa.string() else chunk.cast(pa.string()) for chunk in lists.chunks], lists.offsets)


def read_labels(tables: Sequence[pa.Table], field: Field) -> Lists:
    """Return the labels of the words of records.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A list or a label is missing.
    """
    remedy = f"ClassLabels(classes, field={field.name!r}) before makes numbers of strings"
    lists = _read_lists(tables, field, "lists of whole numbers", pa.types.is_integer, remedy)
    return Lists([chunk for chunk in lists.chunks if len(chunk)], lists.offsets)  # one of no items may have no type


def read_chats(tables: Sequence[pa.Table], field: Field) -> list[list[dict[str, Any]]]:
    """Return the messages of records: from lists of structs, without the keys that have no value, or from text of JSON.

    Raises:
        ValueError: There is no such column, or it holds something else.
        RecordError: A chat or a message is missing, or a text is no JSON.
    """
    chats: list[list[dict[str, Any]]] = []
    for table in (each for each in tables if len(each)):
        column = _find(table, field)
        if not _may_be_chats(column.type):
            got = f"got {column.type} among the columns {_shown(table)}"
            raise ValueError(f"{field} must hold lists of messages (struct<role, content>), {got}; {field.remedy}")
        for chat in (chat for chunk in column.chunks for chat in to_objects(chunk)):
            chats.append(_read_chat(chat, field, tables, len(chats)))
    return chats


def _may_be_chats(kind: pa.DataType) -> bool:
    inner = kind.value_type if _is_list(kind) or pa.types.is_fixed_size_list(kind) else kind
    return bool(is_text(inner) or isinstance(inner, pa.JsonType) or (inner != kind and _is_object(inner)))


def _is_object(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_null(kind))


def _read_chat(chat: Any, field: Field, tables: Sequence[pa.Table], record: int) -> list[dict[str, Any]]:
    try:
        messages = decode_text(chat)
        messages = [decode_text(message) for message in messages] if isinstance(messages, list) else messages
    except ValueError as error:
        message = f"{field} must hold lists of messages, got text that is no JSON: {error}"
        raise RecordError(message, row_id_of(tables, record)) from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        rule = f"hold lists of messages, got {messages!r:.60}"
        if isinstance(messages, list) and None in messages:
            rule = "not hold null; drop such records with Filter before"
        raise RecordError(f"{field} must {rule}", row_id_of(tables, record))
    # As apply_chat_template does: templates take a key that is missing for one without a value.
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def read_beside(tables: Sequence[pa.Table], name: str) -> list[Any]:
    """Return nested values of a column of records, text of JSON decoded; ``None`` where there is no column or no value.

    Raises:
        RecordError: A text is no JSON.
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


def holds_lists(tables: Sequence[pa.Table], field: Field) -> bool:
    """Tell whether the first table with rows has lists in a column."""
    first = next((table for table in tables if len(table)), None)
    return first is not None and _is_words(_find(first, field).type)


@contextlib.contextmanager
def naming_records(tables: Sequence[pa.Table], record_of: Callable[[int], int] = int) -> Iterator[None]:
    """Give the errors about one text of a call the row id of its record.

    Args:
        tables: The records, ``N``.
        record_of: From the number of a text in the call to that of its record, over all tables.
    """
    try:
        yield
    except RowError as error:
        raise RecordError(str(error), row_id_of(tables, record_of(error.row))) from error
    except Exception as error:
        row = getattr(error, "text_row", None)  # a user's function raised it, and who waits for it wants the same
        if row is not None:
            error.row_id = row_id_of(tables, record_of(row))  # type: ignore[attr-defined]
        raise


def _find(table: pa.Table, field: Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        shown = _shown(table) or "(none)"
        raise ValueError(f"Tokenize cannot find the field {field.name!r} among the columns {shown}; {field.remedy}")
    column = table.column(field.name)
    if column.null_count:
        record = int(np.argmax(column.is_null().to_numpy()))
        raise RecordError(f"{field} must not be null; drop such records with Filter before", row_id_of([table], record))
    return column


def _read_lists(tables: Sequence[pa.Table], field: Field, wanted: str, fits: Any, remedy: str = "") -> Lists:
    chunks: list[pa.Array] = []
    lengths: list[Index] = [np.empty(0, np.int64)]
    for table in tables:
        for chunk in _find(table, field).chunks if len(table) else ():
            if not (_is_list(chunk.type) and (fits(chunk.type.value_type) or pa.types.is_null(chunk.type.value_type))):
                shown = f"got {chunk.type} among the columns {_shown(table)}"
                raise ValueError(f"{field} must hold {wanted}, {shown}; {remedy or field.remedy}")
            bounds = to_numpy(chunk.offsets)
            lengths.append(np.diff(bounds).astype(np.int64))
            chunks.append(chunk.values.slice(int(bounds[0]), int(bounds[-1] - bounds[0])))
    lists = Lists(chunks, np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))
    if any(chunk.null_count for chunk in chunks):
        item = int(np.flatnonzero(np.concatenate([chunk.is_null().to_numpy(zero_copy_only=False) for chunk in chunks]))[0])
        raise RecordError(
            f"{field} must not hold null; drop such records with Filter before", row_id_of(tables, lists.record_of(item))
        )
    return lists


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_words(kind: pa.DataType) -> bool:
    return _is_list(kind) and (is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def _shown(table: pa.Table) -> str:
    pairs = zip(table.schema.names, table.schema.types, strict=True)
    return ", ".join(f"{name} ({kind})" for name, kind in pairs if name not in RESERVED)
