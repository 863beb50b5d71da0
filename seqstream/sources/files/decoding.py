"""Decoding of records: the bytes of many become a column of text at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.sources.files.boundaries import GAP, newlines
from seqstream.sources.files.encodings import wide_encoding_error
from seqstream.sources.files.ranges import RULES, locate_byte
from seqstream.sources.files.spans import ByteSpan, too_long

Errors: TypeAlias = Literal["strict", "replace"]
"""The option ``errors``: where text is not UTF-8, raise an error or put U+FFFD."""

ERRORS: tuple[Errors, ...] = ("strict", "replace")


def decode_records(spans: list[ByteSpan], unit: str, errors: Errors, max_record_bytes: int) -> pa.StringArray:
    """Return the records of spans, a string for each.

    Args:
        spans: Whole records.
        unit: What a record is: ``"line"``, ``"paragraph"`` or ``"file"``.
        errors: ``"strict"`` raises where text is not UTF-8, ``"replace"`` puts U+FFFD there.
        max_record_bytes: A longer record is an error.

    Raises:
        ValueError: Text is not UTF-8 and ``errors`` is strict, or a record is too long.
    """
    if unit == "file":
        text, offsets = _split_files(spans, errors)
    else:
        text, offsets = _SPLIT[unit](join_text(spans, unit, errors))
    check_lengths(np.diff(offsets), spans, unit, max_record_bytes)
    if len(text) >= 1 << 31:
        raise ValueError(f"block of {len(text):,} bytes cannot exceed 2 GiB; lower block_bytes")
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text))


def join_text(spans: list[ByteSpan], unit: str, errors: Errors) -> bytes:
    r"""Return the UTF-8 text of spans, in which each record ends with ``\n``, and a paragraph with ``\n\n``."""
    join = _JOIN[unit]
    text = b"".join(map(join, spans))
    return text if _is_plain_utf8(text) else b"".join(join(_to_utf8(span, errors)) for span in spans)


def check_lengths(lengths: Index, spans: list[ByteSpan], unit: str, max_record_bytes: int) -> None:
    """Raise if a record is longer than ``max_record_bytes``.

    Args:
        lengths: ``int64 (records,)``, bytes of each record.
        spans: The records.
        unit: What a record is, a key of `RULES`.
        max_record_bytes: The limit.
    """
    if not len(lengths) or lengths.max() <= max_record_bytes:
        return
    index = int(np.argmax(lengths > max_record_bytes))
    size = int(lengths[index])
    for span in spans:
        starts = span.starts(RULES[unit])
        if index < len(starts):
            raise too_long(span.file, int(starts[index]), size, max_record_bytes)
        index -= len(starts)


def _is_utf8(text: bytes) -> bool:
    # Arrow validates 13 GB/s, bytes.decode 2.5 GB/s.
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_plain_utf8(text: bytes) -> bool:
    """Return whether text is UTF-8 without zero bytes, which every Latin letter has in UTF-16."""
    return b"\0" not in text and _is_utf8(text)


def _to_utf8(span: ByteSpan, errors: Errors) -> ByteSpan:
    """Return a span as valid UTF-8; raise if ``errors`` is strict, or if the file is in UTF-16 or UTF-32."""
    if not _is_plain_utf8(span.data) and (problem := wide_encoding_error(span.file)):
        raise problem
    try:
        return span._replace(data=span.data.decode("utf-8", errors).encode())
    except UnicodeDecodeError as error:
        offset = span.offset + error.start
        found = f"0x{span.data[error.start]:02x} at byte {offset:,}, {error.reason}"
        remedy = "pass errors='replace' to go on with U+FFFD in its place"
        raise ValueError(f"{locate_byte(span.file, offset)}: text must be UTF-8, got {found}; {remedy}") from error


def _with_newlines(span: ByteSpan) -> bytes:
    r"""Return the text of a span with ``\n`` for ``\r\n``."""
    text = span.text
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def _join_lines(span: ByteSpan) -> bytes:
    text = _with_newlines(span)
    return text + b"\n" if text and text[-1] != 10 else text


def _join_paragraphs(span: ByteSpan) -> bytes:
    # With a blank line at both ends; the text is split where one or more follow each other.
    return b"\n\n%b\n\n" % _with_newlines(span)


def _split_lines(text: bytes) -> tuple[bytes, Index]:
    ends = newlines(text)
    return text.replace(b"\n", b""), np.append(0, ends - np.arange(len(ends)))


def _split_paragraphs(text: bytes) -> tuple[bytes, Index]:
    text = GAP.sub(b"\n\n", text)[2:]
    is_newline = np.frombuffer(text, np.uint8) == 10
    ends = np.flatnonzero(is_newline[1:] & is_newline[:-1])
    return text.replace(b"\n\n", b""), np.append(0, ends - 2 * np.arange(len(ends)))


def _split_files(spans: list[ByteSpan], errors: Errors) -> tuple[bytes, Index]:
    texts = [span.text if _is_plain_utf8(span.data) else _to_utf8(span, errors).text for span in spans]
    return b"".join(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64)


_JOIN: dict[str, Callable[[ByteSpan], bytes]] = {
    **dict.fromkeys(("line", "json"), _join_lines),
    **dict.fromkeys(("paragraph", "conll", "conllu"), _join_paragraphs),
}
_SPLIT: dict[str, Callable[[bytes], tuple[bytes, Index]]] = {"line": _split_lines, "paragraph": _split_paragraphs}
