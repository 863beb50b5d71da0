"""JSON arrays: a file is one array of objects."""

from __future__ import annotations

import dataclasses
import functools

from seqstream.options import column_name
from seqstream.records import Json
from seqstream.sources.blocks import choose_block_bytes
from seqstream.sources.files.listing import find_files, normalize_paths
from seqstream.sources.files.ranges import make_limits
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.tables.json_arrays import ArrayCorpus


@dataclasses.dataclass(frozen=True)
class JsonArrays(JsonLines):
    """Files each of which is one JSON array of objects, ``[{...}, {...}]``, over any number of lines, plain or compressed.

    Objects are read as those of `JsonLines` are, with its options. A file is a shard, and is read from its beginning; a resumed
    run goes on after the last element that was read.

    Args:
        key: For files that are an object around the array, ``{"version": 1, "data": [{...}]}``, its key: ``"data"``. What
            follows the array is not read.

    Raises:
        ValueError: While reading, a file is no array, an element is no object, or a value does not fit the type of its field.
    """

    key: str | None = None

    def __post_init__(self) -> None:
        if self.key is not None:
            column_name("key", self.key)
        super().__post_init__()

    @functools.cached_property
    def _corpus(self) -> ArrayCorpus:
        files = find_files(normalize_paths(self.paths), "*.json", self.storage_options)
        limits = make_limits(choose_block_bytes(self.block_bytes, files.text_bytes.sum()), self.max_record_bytes)
        return ArrayCorpus(dataclasses.replace(files, is_sequential=True), "json", limits, self.key)

    def fingerprint(self) -> Json:
        return {**super().fingerprint(), "kind": "JsonArrays", "key": self.key}
