"""Pairs of files of Megatron-LM that are written block by block, with a summary beside each as a mark that it is complete."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqstream.arrow import is_list, to_numpy
from seqstream.records import PIECE, ROW_ID, Counts, Json
from seqstream.sources.tokens.arrow_files import FileSummary, RunningSummary
from seqstream.sources.tokens.json_files import read_json, write_json
from seqstream.sources.tokens.megatron import MegatronWriter

SUMMARY_SUFFIX = ".summary.json"
_KIND = "seqstream summary of a file of tokens"
_VERSION = 1
_COLUMN = "input_ids"


class MegatronFileWriter:
    """Writes PREFIX.bin and PREFIX.idx, a row as a document, and the summary; no pair where there are no rows.

    Args:
        path: PREFIX.summary.json, which appears last.
        schema: Columns of the blocks.
        dtype: Type of the ids.

    Raises:
        ValueError: Rows have other columns than ``input_ids``.
    """

    def __init__(self, path: Path, schema: pa.Schema, dtype: str) -> None:
        columns = [name for name in schema.names if name not in (ROW_ID, PIECE)]
        if columns not in ([], [_COLUMN]) or (columns and not is_list(schema.field(_COLUMN).type)):
            raise ValueError(
                f"rows must have no columns but {_COLUMN!r}, lists of ids, to be files of Megatron-LM, got "
                f"{', '.join(columns)}; leave the others out of the source, drop them in a Map, or write format='arrow'"
            )
        self.schema = schema
        self.num_bytes = 0
        self._path = path
        self._summary = RunningSummary()
        self._writer = MegatronWriter(str(prefix_of(path)), dtype) if columns else None

    def write(self, table: pa.Table, counts: Counts) -> None:
        """Write a block, with the schema of the file; one without rows only adds its counts.

        Raises:
            ValueError: An id does not fit the type.
        """
        self._summary.add_counts(counts)
        if not len(table) or self._writer is None:
            return
        rows = table.column(_COLUMN).combine_chunks()
        if rows.null_count or rows.flatten().null_count:
            raise ValueError(f"rows must have no missing ids to be files of Megatron-LM, got some in {prefix_of(self._path)}")
        lengths = np.diff(to_numpy(rows.offsets)).astype(np.int64)
        ids: Any = to_numpy(rows.flatten())
        self._writer.write(ids, lengths)
        self._summary.add_rows(lengths)
        self.num_bytes += ids.nbytes

    def finish(self, end: Json = None) -> FileSummary:
        """Give the files their names, the summary last; ``end`` is where in the data the next pair of the range begins."""
        summary = self._summary.end(end)
        if self._writer is not None:
            self._writer.finish()
        write_json(self._path, {"kind": _KIND, "version": _VERSION, "summary": summary.to_json()})
        return summary

    def discard(self) -> None:
        """Remove what was written."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.discard()


def prefix_of(path: Path) -> Path:
    """Return the path of a pair of files without their extensions, given that of their summary."""
    return path.with_name(path.name.removesuffix(SUMMARY_SUFFIX))


def read_summary(path: Path) -> FileSummary:
    """Return what a pair of files holds, given the path of its summary.

    Raises:
        ValueError: The summary is damaged.
    """
    return FileSummary.from_json(read_json(path, _KIND, _VERSION)["summary"])
