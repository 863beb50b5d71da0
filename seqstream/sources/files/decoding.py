"""Bytes of records to columns of text, many records at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa

from seqstream.arrays import Index
from seqstream.sources.files.boundaries import GAP, newlines
from seqstream.sources.files.encodings import wide_encoding_error
from seqstream.sources.files.ranges import RULES, place
from seqstream.sources.files.spans import Piece, too_long

Errors = Literal["strict", "replace"]


def decode_records(pieces: list[Piece], unit: str, errors: Errors, max_record_bytes: int) -> pa.StringArray:
    """Return the records of the pieces, a string for each.

    Raises:
        ValueError: Text is not UTF-8 and ``errors`` is strict, or a record is too long.
    """
    if unit == "file":
        text, offsets = _split_files(pieces, errors)
    else:
        text, offsets = _SPLIT[unit](join_text(pieces, unit, errors))
    check_lengths(np.diff(offsets), pieces, unit, max_record_bytes)
    if len(text) >= 1 << 31:
        raise ValueError(f"block of {len(text):,} bytes cannot exceed 2 GiB; lower block_bytes")
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text))


def join_text(pieces: list[Piece], unit: str, errors: Errors) -> bytes:
    r"""Return the text of the pieces, in which each record ends with ``\n``, or with an empty line, as the unit says."""
    join = _JOIN[unit]
    text = b"".join(map(join, pieces))
    return text if _is_plain_utf8(text) else b"".join(join(_replaced(piece, errors)) for piece in pieces)


def check_lengths(lengths: Index, pieces: list[Piece], unit: str, max_record_bytes: int) -> None:
    """Raise if a record is too long, with its place."""
    if not len(lengths) or lengths.max() <= max_record_bytes:
        return
    index = int(np.argmax(lengths > max_record_bytes))
    size = int(lengths[index])
    for piece in pieces:
        starts = piece.starts(RULES[unit])
        if index < len(starts):
            raise too_long(piece.file, int(starts[index]), size, max_record_bytes)
        index -= len(starts)


def check_errors(errors: str) -> None:
    """Raise unless ``errors`` is a way to treat what is not UTF-8."""
    if not isinstance(errors, str) or errors not in ("strict", "replace"):
        raise ValueError(f"errors must be 'strict' or 'replace', got {errors!r}")


def _is_utf8(text: bytes) -> bool:
    # Arrow checks at 13 GB/s what bytes.decode does at 2.5.
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_plain_utf8(text: bytes) -> bool:
    """Return whether text is UTF-8 without zero bytes, which are half of each letter of UTF-16."""
    return b"\0" not in text and _is_utf8(text)


def _replaced(piece: Piece, errors: Errors) -> Piece:
    if not _is_plain_utf8(piece.data) and (problem := wide_encoding_error(piece.file)):
        raise problem
    try:
        return piece._replace(data=piece.data.decode("utf-8", errors).encode())
    except UnicodeDecodeError as error:
        offset = piece.offset + error.start
        found = f"0x{piece.data[error.start]:02x} at byte {offset:,}, {error.reason}"
        remedy = "pass errors='replace' to go on with U+FFFD in its place"
        raise ValueError(f"{place(piece.file, offset)}: text must be UTF-8, got {found}; {remedy}") from error


def _normalized(piece: Piece) -> bytes:
    text = piece.text
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def _join_lines(piece: Piece) -> bytes:
    text = _normalized(piece)
    return text + b"\n" if text and text[-1] != 10 else text


def _join_paragraphs(piece: Piece) -> bytes:
    # Blank lines at both ends, of which one is left between paragraphs.
    return b"\n\n%b\n\n" % _normalized(piece)


def _split_lines(text: bytes) -> tuple[bytes, Index]:
    ends = newlines(text)
    return text.replace(b"\n", b""), np.append(0, ends - np.arange(len(ends)))


def _split_paragraphs(text: bytes) -> tuple[bytes, Index]:
    text = GAP.sub(b"\n\n", text)[2:]
    is_newline = np.frombuffer(text, np.uint8) == 10
    ends = np.flatnonzero(is_newline[1:] & is_newline[:-1])
    return text.replace(b"\n\n", b""), np.append(0, ends - 2 * np.arange(len(ends)))


def _split_files(pieces: list[Piece], errors: Errors) -> tuple[bytes, Index]:
    texts = [piece.text if _is_plain_utf8(piece.data) else _replaced(piece, errors).text for piece in pieces]
    return b"".join(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64)


_JOIN: dict[str, Callable[[Piece], bytes]] = {"line": _join_lines, "json": _join_lines, "paragraph": _join_paragraphs}
_SPLIT: dict[str, Callable[[bytes], tuple[bytes, Index]]] = {"line": _split_lines, "paragraph": _split_paragraphs}
