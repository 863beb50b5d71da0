"""Files of ids in which a token bounds documents: without a header (OLMo, dolma, nanoGPT), with that of NumPy, or of llm.c."""

from __future__ import annotations

import os
import tokenize

import numpy as np

from seqstream.sources.tokens.file_arrays import ArraySpec, read_at

NUMPY_MAGIC = b"\x93NUMPY"
_COPY = "copy it again"

LLM_C_TYPES = {20240520: (1, "<u2", 50256), 20240801: (7, "<u4", 128000)}
"""Files of llm.c and modded-nanogpt, by their first number: version, type of ids, and the token that begins documents."""
LLM_C_EXAMPLES = 20240522
"""First number of llm.c's files of multiple-choice questions."""
_HEADER_NUMBERS = 256
_HEADER_BYTES = 4 * _HEADER_NUMBERS


def open_raw(path: str, dtype: str) -> ArraySpec:
    """Return the ids of a file that has nothing else.

    Raises:
        ValueError: Its size is no multiple of an id.
    """
    size, width = os.stat(path).st_size, np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(f"{path} must have {width} bytes an id, as dtype={dtype!r} says, got {size:,} bytes; {_COPY}")
    return ArraySpec(path, dtype, 0, size // width)


def open_numpy(path: str) -> ArraySpec:
    """Return the ids of a file that ``numpy.save`` has written.

    Raises:
        ValueError: The file is damaged, or its array is none of whole numbers in one dimension.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise ValueError(f"{path} must be a file that numpy.save has written, got {error}; {_COPY}") from error
        begin = file.tell()
    if len(shape) != 1 or dtype.kind not in "iu" or not dtype.isnative:
        raise ValueError(f"{path} must hold one row of whole numbers, got shape {shape} of {dtype}; save a flat array of ids")
    spec = ArraySpec(path, str(dtype), begin, shape[0])
    if os.stat(path).st_size != spec.last_byte:
        raise ValueError(
            f"{path} must have {spec.last_byte:,} bytes for {spec.size:,} ids, got {os.stat(path).st_size:,}; {_COPY}"
        )
    return spec


def open_llm_c(path: str) -> tuple[ArraySpec, int]:
    """Return the ids of a file of llm.c or modded-nanogpt, and the token that begins each document.

    Raises:
        ValueError: The file is damaged, or of another version.
    """
    size = os.stat(path).st_size
    if size < _HEADER_BYTES:
        raise ValueError(f"{path} must begin with a header of {_HEADER_BYTES:,} bytes, got a file of {size:,}; {_COPY}")
    magic, version, num_tokens = read_at(path, "<i4", 0, 3)
    known, dtype, token = LLM_C_TYPES[magic]
    if version != known:
        raise ValueError(f"{path} must be of version {known}, got {version}; write it with llm.c's current tools")
    spec = ArraySpec(path, dtype, _HEADER_BYTES, num_tokens)
    if num_tokens < 0 or size != spec.last_byte:
        raise ValueError(f"{path} must have {spec.last_byte:,} bytes for {num_tokens:,} tokens, got {size:,}; {_COPY}")
    return spec, token
