"""Words with labels in CoNLL's formats: a line for each word, a blank line after each sentence."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from seqstream.options import column_name, one_of, yes_or_no
from seqstream.records import RESERVED, Json
from seqstream.sources.blocks import Block, choose_block_bytes
from seqstream.sources.corpus_source import CorpusSource
from seqstream.sources.files.decoding import ERRORS, Errors, check_lengths, join_text
from seqstream.sources.files.folder_columns import FolderColumns, find_folder_columns
from seqstream.sources.files.listing import Paths, find_files, normalize_paths
from seqstream.sources.files.ranges import Corpus, make_limits
from seqstream.sources.tables.conll_columns import CONLLU_NAMES, LINES, Layout, count_columns, parse_sentences

Columns: TypeAlias = Sequence[str | None] | Mapping[str, int | str]

_ALIASES = {"words": "form", "tags": "upos"}
_CONLLU = ".conllu"


@dataclasses.dataclass(frozen=True)
class Conll(CorpusSource):
    """Sentences of words with labels, as CoNLL-2003 and CoNLL-U have them: each column becomes a list of strings.

    A line is a word and its labels, between tabs if the line has one, else between spaces. Blank lines, which may have white
    space, are between sentences; several are as one. Lines ``-DOCSTART-`` are left out, and in CoNLL-U comments, ranges
    (``1-2``) and empty nodes (``1.1``). Files are read like `TextFiles`: plain files in byte ranges, compressed ones from
    their beginning. Folders named ``name=value`` are a column too, as in `Parquet`.

    ``Tokenize(field="words", labels="tags", word_ids=True)`` makes rows of them, after `ClassLabels`, with the number of the
    word of each token; a word without tokens keeps its number and its label.

    Args:
        paths: A path, a glob (its files sort by name), any URL that fsspec knows, or a list of these.
        columns: A name for each column of a line, in their order, ``None`` for one that is not read: ``("words", None, None,
            "tags")`` for CoNLL-2003. Or the number of the column for each name, negative from the end: ``{"words": 0, "tags":
            -1}``. In CoNLL-U columns have names, ``id form lemma upos xpos feats head deprel deps misc``: those that are read,
            ``("form", "head")``, or new names for them, ``{"words": "form", "tags": "xpos"}``; ``words`` alone is ``form``, and
            ``tags`` is ``upos``.
        conllu: Whether the files are CoNLL-U; by default if their names end in ``.conllu``.
        block_bytes: Bytes read at once. Smaller blocks mix better, larger ones cost fewer reads. By default 256 KiB, or less
            so that a small corpus has 128 blocks.
        errors: Where text is not UTF-8, ``"strict"`` raises an error and ``"replace"`` puts U+FFFD.
        max_record_bytes: A longer sentence is an error.
        storage_options: Arguments of the fsspec file system that opens URLs, such as ``{"token": ...}``. They are in no
            fingerprint, state or ``repr``.

    Raises:
        ValueError: ``columns`` do not fit the first line; or, while reading, a line has another number of columns.
        FileNotFoundError: A path or glob names no file.
        IsADirectoryError: A path is a directory.
        PermissionError: A file may not be read.
    """

    paths: Paths
    _: dataclasses.KW_ONLY
    columns: Columns = ("words", "tags")
    conllu: bool | None = None
    block_bytes: int | None = None
    errors: Errors = "strict"
    max_record_bytes: int = 64 << 20
    storage_options: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        one_of("errors", self.errors, ERRORS)
        if self.conllu is not None:
            yes_or_no("conllu", self.conllu)
        object.__setattr__(self, "columns", _normalize(self.columns))
        object.__setattr__(self, "paths", normalize_paths(self.paths))
        _ = self._layout  # read here, so that the error for a missing file or column points at the user's line

    @functools.cached_property
    def _corpus(self) -> Corpus:
        files = find_files(normalize_paths(self.paths), "*.conll", self.storage_options)
        named = {_is_conllu(name, compression) for name, compression in zip(files.names, files.compressions, strict=True)}
        if self.conllu is None and len(named) > 1:
            raise ValueError(f"paths must be of one format, got names with and without {_CONLLU}; pass conllu=True or False")
        limits = make_limits(choose_block_bytes(self.block_bytes, files.text_bytes.sum()), self.max_record_bytes)
        return Corpus(files, "conllu" if (self.conllu is None and True in named) or self.conllu else "conll", limits)

    @functools.cached_property
    def _layout(self) -> Layout:
        if self._corpus.unit == "conllu":
            return Layout("conllu", len(CONLLU_NAMES), _choose_by_name(self.columns))
        first, where = self._first_line()
        width = count_columns(first) if first else len(self.columns)
        try:
            return Layout("conll", width, _choose_by_number(self.columns, width))
        except ValueError as error:
            shown = first.decode("utf-8", "replace")
            raise ValueError(f"{error}, as in {where}: {shown[:60]!r}") from None

    def _first_line(self) -> tuple[bytes, str]:
        """Return the first line with columns, and its file; an empty one if there is none."""
        for shard in range(self.num_shards):
            for spans, _ in self._corpus.blocks(shard, None):
                if found := LINES["conll"].search(text := join_text(spans, "conll", self.errors)):
                    return text[found.start() : text.index(b"\n", found.start())], spans[0].file.name
        return b"", ""

    @functools.cached_property
    def _folders(self) -> FolderColumns | None:
        found = find_folder_columns(self._corpus.files.names)
        found = found and found.without([*self._layout.columns])
        return found and found.chosen(None)

    def read(self, shard: int, state: Json = None) -> Iterator[Block]:
        for spans, after in self._corpus.blocks(shard, state):
            table, lengths = parse_sentences(join_text(spans, self._corpus.unit, self.errors), spans, self._layout)
            check_lengths(lengths, spans, self._corpus.unit, self.max_record_bytes)
            yield self._with_folders(table, spans), after

    def fingerprint(self) -> Json:
        # Without errors and max_record_bytes: a user may change these after a bad record, and resume from the last state.
        return {
            "kind": "Conll",
            "format": self._layout.unit,
            "columns": dict(self._layout.columns),
            "block_bytes": self._corpus.limits.block_bytes,
            "files": self._files,
            **self._folders_fingerprint,
        }


def _is_conllu(name: str, compression: str | None) -> bool:
    return (os.path.splitext(name)[0] if compression else name).lower().endswith(_CONLLU)


def _normalize(columns: object) -> Columns:
    """Return the option ``columns`` as a dict or a tuple.

    Raises:
        TypeError: It is neither a mapping of names nor a list of names.
        ValueError: It has no name, one of them twice, or a reserved one.
    """
    if isinstance(columns, Mapping):
        found: Columns = dict(columns)
        names = [*found]
    elif isinstance(columns, Sequence) and not isinstance(columns, str | bytes):
        found = tuple(columns)
        names = [name for name in found if name is not None]
    else:
        raise TypeError(f"columns must be names of columns, such as ('words', 'tags'), got {columns!r:.80}")
    for name in names:
        column_name("columns", name)
        if name in RESERVED:
            raise ValueError(f"columns must be none of the reserved {', '.join(RESERVED)}, got {name!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"columns must have at least one name, and each once, got {columns!r:.80}")
    return found


def _choose_by_number(columns: Columns, width: int) -> dict[str, int]:
    """Return the number of each column that is read, in lines of ``width`` columns."""
    if not isinstance(columns, Mapping):
        if len(columns) != width:
            remedy = 'None for one that is not read, or their numbers, such as columns={"words": 0, "tags": -1}'
            raise ValueError(f"columns must have a name for each of {width} columns, {remedy}, got {len(columns)} names")
        return {name: number for number, name in enumerate(columns) if name is not None}
    for name, number in columns.items():
        if isinstance(number, bool) or not isinstance(number, int) or not -width <= number < width:
            raise ValueError(f"columns must be numbers from {-width} to {width - 1}, got {number!r} for {name!r}")
    return {name: int(number) % width for name, number in columns.items()}


def _choose_by_name(columns: Columns) -> dict[str, int]:
    """Return the number of each column that is read in CoNLL-U."""
    given = columns if isinstance(columns, Mapping) else {name: name for name in columns if name is not None}
    chosen = {}
    for name, column in given.items():
        if isinstance(column, int) and not isinstance(column, bool) and -len(CONLLU_NAMES) <= column < len(CONLLU_NAMES):
            chosen[name] = column % len(CONLLU_NAMES)
            continue
        known = _ALIASES.get(column, column) if isinstance(column, str) else column
        if known not in CONLLU_NAMES:
            known_names = ", ".join(CONLLU_NAMES)
            raise ValueError(f"columns must be among those of CoNLL-U, {known_names}, or words and tags, got {column!r}")
        chosen[name] = CONLLU_NAMES.index(known)
    return chosen
