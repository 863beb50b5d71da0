"""Detection of UTF-16 and UTF-32, which Excel and PowerShell write, by the first bytes of a file."""

from __future__ import annotations

import codecs
import contextlib

import numpy as np

from seqstream.sources.files.chunks import open_chunks
from seqstream.sources.files.listing import File

HEAD_BYTES = 4096
"""First bytes of a file that are examined."""

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32-LE",
    codecs.BOM_UTF32_BE: "UTF-32-BE",
    codecs.BOM_UTF16_LE: "UTF-16-LE",
    codecs.BOM_UTF16_BE: "UTF-16-BE",
}
"""Byte order marks; those of UTF-32 are first, as UTF-32-LE begins with the mark of UTF-16-LE."""

_SOME_ZEROS, _FEW_ZEROS = 0.08, 0.05
_SEVERAL = 8


def wide_encoding_error(file: File, head: bytes | None = None) -> ValueError | None:
    """Return the error for a file in UTF-16 or UTF-32, ``None`` for any other.

    Args:
        file: The file.
        head: Its first bytes, `HEAD_BYTES` if it has as many; read from it if ``None``.
    """
    encoding = wide_encoding(_head(file) if head is None else head)
    if encoding is None:
        return None
    return ValueError(
        f"{file.name} must be UTF-8, got {encoding}; convert it: iconv -f {encoding} -t UTF-8 OLD > NEW, in Excel save it as "
        "'CSV UTF-8', in PowerShell write it with -Encoding utf8"
    )


def wide_encoding(head: bytes) -> str | None:
    """Return ``"UTF-16-LE"`` or another name if the first bytes of a file are in such an encoding, else ``None``."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    size = len(head) // 4
    head = head[: 4 * size]
    zeros = (np.frombuffer(head, np.uint8) == 0).reshape(-1, 4).mean(axis=0) if head else np.zeros(4)
    for name, zero, other in (("UTF-32-LE", zeros[2:].min(), zeros[0]), ("UTF-32-BE", zeros[:2].min(), zeros[3])):
        if zero > 1 - _FEW_ZEROS and other < _FEW_ZEROS and _decodes(head, name):
            return name
    even, odd = zeros[::2].mean(), zeros[1::2].mean()
    for name, zero, other in (("UTF-16-LE", odd, even), ("UTF-16-BE", even, odd)):
        # Every Latin character has a zero byte; in other scripts, spaces and newlines have one. Chinese text, with fewest
        # zeros, is not valid UTF-8.
        num_zeros = 2 * size * zero
        is_likely = (num_zeros > 1 and zero > 1 - _FEW_ZEROS) or (
            num_zeros > 0 and not _is_utf8(head) if zero < _SOME_ZEROS else num_zeros >= _SEVERAL
        )
        if is_likely and other <= _FEW_ZEROS * zero and _decodes(head, name):
            return name
    return None


def _head(file: File) -> bytes:
    head = b""
    with contextlib.closing(open_chunks(file)) as chunks:
        for chunk in chunks:
            head += chunk
            if len(head) >= HEAD_BYTES:
                break
    return head[:HEAD_BYTES]


def _is_utf8(data: bytes) -> bool:
    """Return whether bytes are UTF-8; their last character may be incomplete."""
    return _decodes(data, "utf-8")


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True
