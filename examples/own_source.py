"""Read files of a format of your own: a source needs two members, and `seqstream.testing` checks that it keeps the rules.

A source is divided into shards that can be opened by themselves, here files that each hold a JSON array of arrays of ids. A
shard is read in blocks: Arrow tables of named columns, each with the state from which reading goes on after it. Such a source
is mixed, resumed, split and shared by ranks like those of seqstream. If each shard is a single block, `approx_bytes` may say
how large it is: then a rank reads only the shards that it tokenises.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import seqstream as ss
from seqstream import testing


@dataclasses.dataclass(frozen=True)
class JsonArrays(ss.Source):
    """Files that each hold a JSON array of arrays of ids; its fields are its fingerprint, by which states are checked."""

    folder: str
    rows_per_block: int = 1000

    @property
    def files(self) -> list[Path]:
        return sorted(Path(self.folder).glob("*.json"))

    @property
    def num_shards(self) -> int:
        return len(self.files)

    def read(self, shard: int, state: Any = None) -> Iterator[tuple[pa.Table, Any]]:
        rows = json.loads(self.files[shard].read_text())
        for first in range(state or 0, len(rows), self.rows_per_block):
            end = first + self.rows_per_block
            table = pa.table({"input_ids": pa.array(rows[first:end], pa.list_(pa.int32()))})
            yield table, end if end < len(rows) else None  # None: the shard is finished


def write_files(folder: str) -> None:
    """Write a few files of rows of one to thirty ids."""
    for number in range(4):
        rows = [[number + 1] * (row % 30 + 1) for row in range(50)]
        Path(folder, f"{number}.json").write_text(json.dumps(rows))


def main() -> None:
    """Check the source and a loader of it, and count the batches of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder)
        source = JsonArrays(folder, rows_per_block=20)

        def make_loader(**options: Any) -> ss.Loader:
            return ss.Loader(source, ss.Bucket(200, window_batches=4), **options)

        testing.check_source(source)
        testing.check_loader(make_loader)
        print("the source and a loader of it keep all rules")
        loader = make_loader()
        print(f"{len(list(loader))} batches of {loader.stats.rows} rows, {loader.stats.padding:.1%} padding")


if __name__ == "__main__":
    main()
