"""A source as a user would write one: numbered JSON arrays in files, several blocks a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import seqstream as ss


@dataclasses.dataclass(frozen=True)
class JsonArrays(ss.Source):
    """Files that each hold a JSON array of arrays of ids."""

    folder: Path
    rows_per_block: int = 8

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    @property
    def num_shards(self) -> int:
        return len(self.files)

    def read(self, shard: int, state: Any = None) -> Iterator[tuple[pa.Table, Any]]:
        rows = json.loads(self.files[shard].read_text())
        for begin in range(state or 0, len(rows), self.rows_per_block):
            end = begin + self.rows_per_block
            ids = pa.array(rows[begin:end], pa.list_(pa.int32()))
            yield pa.table({"input_ids": ids}), end if end < len(rows) else None

    def fingerprint(self) -> Any:
        return {"kind": "JsonArrays", "files": [path.name for path in self.files], "rows_per_block": self.rows_per_block}


def write_arrays(folder: Path, num_files: int = 12, rows: int = 30) -> JsonArrays:
    """Write files of rows of 1 to 40 ids; every id is 100 times the file's number plus the row's."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        lengths = [(number * 31 + row * row * 7) % 40 + 1 for row in range(rows + number)]
        text = json.dumps([[number * 100 + row] * length for row, length in enumerate(lengths)])
        (folder / f"{number:03}.json").write_text(text)
    return JsonArrays(folder)
