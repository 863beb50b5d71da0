"""Writers of other libraries' files of tokens, in plain Python, after the descriptions of the formats."""

from __future__ import annotations

import struct
from pathlib import Path

Documents = list[list[int]]

LETTERS = {"uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q"}
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def packed(ids: list[int], dtype: str) -> bytes:
    return struct.pack(f"<{len(ids)}{LETTERS[dtype]}", *ids)


def write_megatron(prefix: Path, documents: list[Documents], dtype: str = "uint16", *, modes: bool = False) -> None:
    """Write documents of sequences, as ``IndexedDatasetBuilder`` does with ``add_item``, ``end_document`` and ``finalize``."""
    lengths, bounds, pointers, pointer = [], [0], [], 0
    with Path(f"{prefix}.bin").open("wb") as data:
        for document in documents:
            for sequence in document:
                data.write(packed(sequence, dtype))
                lengths.append(len(sequence))
                pointers.append(pointer)
                pointer += len(sequence) * struct.calcsize(LETTERS[dtype])
            bounds.append(len(lengths))
    with Path(f"{prefix}.idx").open("wb") as index:
        index.write(b"MMIDIDX\x00\x00")
        index.write(struct.pack("<Q", 1))
        index.write(struct.pack("<B", CODES[dtype]))
        index.write(struct.pack("<QQ", len(lengths), len(bounds)))
        index.write(struct.pack(f"<{len(lengths)}i", *lengths))
        index.write(struct.pack(f"<{len(pointers)}q", *pointers))
        index.write(struct.pack(f"<{len(bounds)}q", *bounds))
        if modes:
            index.write(bytes(len(lengths)))


def write_datatrove(path: Path, documents: Documents, dtype: str = "uint16", *, metadata: bool = True) -> None:
    """Write documents as ``TokenizedFile`` does."""
    ends, total = [], 0
    with path.open("wb") as data:
        for document in documents:
            data.write(packed(document, dtype))
            total += len(document)
            ends.append(total)
    Path(f"{path}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    if metadata:
        Path(f"{path}.metadata").write_text(f"gpt2|{struct.calcsize(LETTERS[dtype])}\n{total}\n{total}.00 T")


def write_llm_c(path: Path, documents: Documents, dtype: str = "uint16") -> None:
    """Write documents as ``write_datafile`` does."""
    ids = [token for document in documents for token in document]
    magic, version = (20240520, 1) if dtype == "uint16" else (20240801, 7)
    path.write_bytes(struct.pack("<256i", magic, version, len(ids), *[0] * 253) + packed(ids, dtype))


def write_raw(path: Path, documents: Documents, dtype: str = "uint16") -> None:
    """Write documents one after the other, without a header."""
    path.write_bytes(packed([token for document in documents for token in document], dtype))


def write_numpy(path: Path, documents: Documents, dtype: str = "uint16") -> None:
    """Write documents as version 1.0 of the format of ``numpy.save`` describes it."""
    ids = [token for document in documents for token in document]
    kind, width = ("u" if dtype[0] == "u" else "i"), struct.calcsize(LETTERS[dtype])
    header = f"{{'descr': '{'|' if width == 1 else '<'}{kind}{width}', 'fortran_order': False, 'shape': ({len(ids)},), }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + packed(ids, dtype))
