"""Which format files of tokens have, found by their content and by the files beside them; opens them as one store."""

from __future__ import annotations

import dataclasses
import glob
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from seqstream.options import num_bytes, whole_number, yes_or_no
from seqstream.sources.files.listing import Paths, normalize_paths
from seqstream.sources.tokens.arrow_store import ArrowStore
from seqstream.sources.tokens.datatrove import COMPANIONS, INDEX, open_datatrove
from seqstream.sources.tokens.delimited_tokens import DelimitedStore
from seqstream.sources.tokens.indexed_tokens import IndexedStore
from seqstream.sources.tokens.manifest import MANIFEST, PLAN, Manifest
from seqstream.sources.tokens.megatron import MAGIC, open_megatron
from seqstream.sources.tokens.raw_tokens import (
    LLM_C_EXAMPLES,
    LLM_C_TYPES,
    NUMPY_MAGIC,
    open_llm_c,
    open_numpy,
    open_raw,
)
from seqstream.sources.tokens.token_store import TokenStore

SEQSTREAM, MEGATRON, DATATROVE, NUMPY, RAW = "seqstream", "megatron", "datatrove", "numpy", "raw"
LLM_C_UINT16, LLM_C_UINT32 = "llm.c", "llm.c llama-3"
UNKNOWN_FORMAT = "unknown"
_LLM_C = {20240520: LLM_C_UINT16, 20240801: LLM_C_UINT32}

_KNOWN = (
    "folders of write_tokens, Megatron-LM's .bin with .idx, datatrove's .ds with .ds.index, .bin of llm.c and modded-nanogpt; "
    "and with end=TOKEN also arrays of numpy.save and, with dtype='uint16' or 'uint32' too, files of bare ids, as OLMo, dolma "
    "and nanoGPT write them"
)
_RAW_SUFFIXES = (".npy", ".bin", ".ds", "")
"""Endings of files of bare ids: no other file of a folder or glob is taken for one."""


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A file of tokens, and its format.

    Attributes:
        path: The file; the path without extensions of Megatron's pair of files; or the folder of `write_tokens`.
        format: Name of the format.
    """

    path: str
    format: str


def open_store(
    paths: Paths,
    *,
    end: int | None = None,
    dtype: str | None = None,
    mmap: bool = True,
    block_bytes: int | None = None,
) -> TokenStore:
    """Open files of tokens of one format.

    Args:
        paths: A file, a folder, a glob, or several of these. Of Megatron's two files either is enough, or their common prefix.
        end: The token that ends each document, for files that do not say where documents end; rows keep it. In files of llm.c
            and modded-nanogpt the token that begins each document: by default 50256, and 128000 where ids have four bytes.
        dtype: Type of the ids, ``"uint16"`` or ``"uint32"``, for files that do not say it.
        mmap: Whether files are mapped into memory; otherwise ids are read when they are needed.
        block_bytes: Size of a block; by default 256 KiB, and less in a small corpus.

    Raises:
        FileNotFoundError: A path names nothing, or a file that belongs to another is missing.
        ValueError: Files have several formats or none that is known, or are damaged; or an option does not fit the format.
    """
    if end is not None:
        end = whole_number("end", end, least=0, rule="a token id")
    if dtype not in (None, "uint16", "uint32"):
        raise ValueError(f"dtype must be 'uint16' or 'uint32', got {dtype!r}")
    if block_bytes is not None:
        block_bytes = num_bytes("block_bytes", block_bytes)
    mmap = yes_or_no("mmap", mmap)
    normal = normalize_paths(paths)
    found = list(dict.fromkeys(_find(normal if not isinstance(normal, str) else [normal], is_raw=end is not None)))
    kind = _one_format(found, normal)
    names = [file.path for file in found]
    if kind == SEQSTREAM:
        _refuse(kind, end=end, dtype=dtype, block_bytes=block_bytes)
        if len(names) > 1:
            raise ValueError(f"paths must name one folder of write_tokens, got {len(names)}; open each, and mix the sources")
        return _open_written(Path(names[0]), mmap=mmap)
    if kind in (MEGATRON, DATATROVE):
        _refuse(kind, end=end, dtype=dtype)
        opened = [open_megatron(name) for name in names] if kind == MEGATRON else [open_datatrove(name) for name in names]
        return IndexedStore(kind, *zip(*opened, strict=True), mmap=mmap, block_bytes=block_bytes)
    return _open_delimited(kind, names, end, dtype, mmap=mmap, block_bytes=block_bytes)


def _open_written(folder: Path, *, mmap: bool) -> TokenStore:
    """Open a folder of `write_tokens`, in whichever format its files are."""
    manifest = Manifest.read(folder)
    if manifest.format != MEGATRON:
        return ArrowStore(folder, manifest, mmap=mmap)
    opened = [open_megatron(str(folder / file.name.removesuffix(".bin"))) for file in manifest.files]
    ids, indexes = zip(*opened, strict=True) if opened else ((), ())
    store = IndexedStore(MEGATRON, ids, indexes, mmap=mmap)
    store.info = manifest.info
    return store


def _open_delimited(
    kind: str, names: list[str], end: int | None, dtype: str | None, *, mmap: bool, block_bytes: int | None
) -> TokenStore:
    """Open files in which a token bounds documents."""
    if kind in _LLM_C.values():
        _refuse(kind, dtype=dtype)
        opened = [open_llm_c(name) for name in names]
        token = opened[0][1] if end is None else end
        ids = [spec for spec, _ in opened]
        return DelimitedStore(kind, ids, token=token, begins=True, mmap=mmap, block_bytes=block_bytes)
    if end is None:
        raise ValueError(f"end must be the token that ends each document of {names[0]}, got None; pass end=TOKEN")
    if kind == RAW and dtype is None:
        raise ValueError(
            f"dtype must be given for {names[0]}, which holds bare ids, got None; pass 'uint16', as nanoGPT, OLMo 1 and dolma "
            "write by default, or 'uint32', as for vocabularies of more than 65,536 ids"
        )
    if kind == NUMPY:
        _refuse(kind, dtype=dtype)
    ids = [open_numpy(name) if kind == NUMPY else open_raw(name, dtype or "") for name in names]
    return DelimitedStore(kind, ids, token=end, mmap=mmap, block_bytes=block_bytes)


def _refuse(kind: str, **options: object) -> None:
    """Raise for options that a format does not need."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} must be None for files of {kind}, which say it themselves, got {value!r}; leave it out")


def _find(paths: Iterable[str], *, is_raw: bool) -> Iterator[FoundFile]:
    """Yield the files that paths name, in their order, those of a folder or glob by name.

    Args:
        paths: Files, folders, prefixes and globs.
        is_raw: Whether a file of unknown content may be one of bare ids.
    """
    for path in paths:
        if "://" in path:
            raise ValueError(f"paths must be local files, which can be mapped into memory, got {path!r}; copy the files here")
        path = os.path.expanduser(path)
        if os.path.isdir(path):
            if any(os.path.isfile(os.path.join(path, name)) for name in (MANIFEST, PLAN)):
                yield FoundFile(path, SEQSTREAM)
                continue
            names = sorted(entry.path for entry in os.scandir(path) if entry.is_file() and not entry.name.startswith("."))
        elif os.path.isfile(path):
            yield FoundFile(*_recognize(path, is_raw=is_raw))
            continue
        elif os.path.isfile(f"{path}.idx") or os.path.isfile(f"{path}.bin"):
            yield FoundFile(path, MEGATRON)
            continue
        else:
            names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not names:
            raise FileNotFoundError(f"paths must name files of tokens, got {path!r}, which names none")
        for name in names:
            if not is_companion(name):
                yield FoundFile(*_recognize(name, is_raw=is_raw and os.path.splitext(name)[1] in _RAW_SUFFIXES))


def is_companion(path: str) -> bool:
    """Return whether a file belongs to one of ids beside it: the metadata of datatrove and of dolma."""
    stem, suffix = os.path.splitext(path)
    if suffix in COMPANIONS:
        return os.path.isfile(stem)
    return path.endswith(".csv.gz") and os.path.isfile(f"{path.removesuffix('.csv.gz')}.npy")


def _recognize(path: str, *, is_raw: bool) -> tuple[str, str]:
    """Return the path of a file, or the prefix of a pair of files, and its format."""
    begin = _begin(path)
    stem, suffix = os.path.splitext(path)
    is_pair = suffix in (".bin", ".idx") and os.path.isfile(f"{stem}.bin") and os.path.isfile(f"{stem}.idx")
    if begin.startswith(MAGIC) or is_pair:
        return stem, MEGATRON  # if the magic bytes of a pair are damaged, opening it says so
    if os.path.isfile(path + INDEX):
        return path, DATATROVE
    if suffix == INDEX:
        return stem, DATATROVE
    number = struct.unpack("<i", begin[:4])[0] if len(begin) >= 4 else 0
    if number in LLM_C_TYPES:
        return path, _LLM_C[number]
    if begin.startswith(NUMPY_MAGIC):
        return path, NUMPY
    if is_raw and number != LLM_C_EXAMPLES and not begin.startswith((b"ARROW1", b"PAR1")):
        return path, RAW
    return path, UNKNOWN_FORMAT


def _begin(path: str) -> bytes:
    """Return the first bytes of a file; none if there is no such file."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb", buffering=0) as file:
        return file.read(16)


def _one_format(found: list[FoundFile], paths: object) -> str:
    """Return the format that all files have.

    Raises:
        ValueError: They have several, or none that is known.
    """
    if not found:
        raise ValueError(f"paths must name files of tokens, got {paths!r:.80}; known are {_KNOWN}")
    kinds = {file.format: file.path for file in reversed(found)}
    if len(kinds) > 1 or UNKNOWN_FORMAT in kinds:
        counts = {kind: sum(file.format == kind for file in found) for kind in kinds}
        shown = ", ".join(f"{counts[kind]:,} {kind} (such as {path})" for kind, path in sorted(kinds.items()))
        raise ValueError(f"paths must name files of one known format, got {shown}; known are {_KNOWN}")
    return next(iter(kinds))
