"""The tokens of a source written to a folder: all ranges of it, here or on an executor, and the manifest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

import pyarrow as pa

from seqstream.loading.fingerprints import compact, differences
from seqstream.loading.iteration import progress_bar
from seqstream.loading.stage_lists import DataStage, check_stages, choose_engines, left_to_run, rows_of, tokenizer_of
from seqstream.options import num_bytes, one_of, whole_number, yes_or_no
from seqstream.records import ROW_ID, Counts, Json
from seqstream.sources.choose_source import Data, source_of
from seqstream.sources.mixture import Mixture
from seqstream.sources.source import Source
from seqstream.sources.tokens.arrow_files import UNFINISHED
from seqstream.sources.tokens.json_files import read_json, write_json
from seqstream.sources.tokens.manifest import MANIFEST, PLAN, Manifest
from seqstream.sources.tokens.megatron import megatron_dtype
from seqstream.sources.tokens.token_store import TokenInfo
from seqstream.windows.row_ids import with_row_ids
from seqstream.writing.file_formats import ArrowFormat, FileFormat, MegatronFormat
from seqstream.writing.ranges import shard_ranges
from seqstream.writing.write_range import WriteJob, write_range, written_files

_KIND = "seqstream tokens being written"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class WrittenTokens:
    """What `write_tokens` has written.

    Attributes:
        folder: Where the files are; ``TokenFiles(folder)`` reads them.
        is_complete: Whether all ranks have written their part.
        num_rows: Rows that this call has written or found.
        num_tokens: Tokens of the whole folder; ``None`` until it is complete.
        counts: Records of the whole folder by outcome, as `Stats` counts them.
    """

    folder: Path
    is_complete: bool
    num_rows: int
    num_tokens: int | None = None
    counts: Counts = dataclasses.field(default_factory=dict)


def write_tokens(
    source: Data,
    *stages: DataStage,
    to: str | Path,
    executor: Executor | None = None,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    file_bytes: int = 64 << 20,
    format: Literal["arrow", "megatron"] = "arrow",
) -> WrittenTokens:
    """Tokenise a source once, into a folder that `TokenFiles` reads many times.

    The files are Arrow IPC files of one record batch a block, each about ``file_bytes`` large, with all columns of the rows.
    They appear when they are complete: a call that was killed goes on where it was when it is made again, and a folder that is
    complete is left as it is.

    Args:
        source: Where records come from, or what a `Loader` takes for it; each source of a `Mixture` is written to a folder of
            its own.
        stages: What happens to them: those that stand before `Bucket` or `Pack` in a `Loader`.
        to: The folder; it is made if it does not exist.
        executor: A ``concurrent.futures.Executor`` that writes ranges of shards side by side, in processes that see the source
            and the folder. Without one, all is done here; the fast engines use all cores by themselves.
        progress: Whether to show a progress bar.
        rank: Which of ``world_size`` calls this is, each of which writes a part. The last to end completes the folder.
        world_size: Number of such calls.
        file_bytes: Size of a range of the source, and of a file of tokens, at which the next begins.
        format: ``"arrow"``, or ``"megatron"`` for pairs of ``.bin`` and ``.idx`` as Megatron-LM's ``IndexedDatasetBuilder``
            writes them, a row as a document. They hold only ``input_ids``, in two bytes an id where Megatron-LM would do so.
            Its programs take the path of a pair without the extensions; `TokenFiles` takes the folder.

    Raises:
        TypeError: A stage or the source has the wrong type.
        ValueError: The folder has the tokens of another source or of other stages; the message names what differs.
    """
    one_of("format", format, ("arrow", "megatron"))
    job, plan, info = _prepare(source, check_stages(stages), Path(to), num_bytes("file_bytes", file_bytes), format)
    world_size = whole_number("world_size", world_size, least=1, rule="1 or more")
    rank = whole_number("rank", rank, least=0, most=world_size - 1, rule="0 or more and below world_size")
    if (job.folder / MANIFEST).exists():
        found = Manifest.read(job.folder)
        _check_same({"origin": found.origin, **_made_by(found.info)}, plan, job.folder)
        return WrittenTokens(job.folder, True, found.num_rows, found.num_tokens, found.counts)
    _begin(job.folder, plan)
    numbers = range(rank, len(job.ranges), world_size)
    bar = progress_bar(len(numbers), unit=" ranges") if yes_or_no("progress", progress) else None
    num_rows = 0
    for rows in _write_all(job, numbers, executor):
        num_rows += rows
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    manifest = _complete(job, plan["origin"], info)
    if manifest is None:
        return WrittenTokens(job.folder, False, num_rows)
    return WrittenTokens(job.folder, True, num_rows, manifest.num_tokens, manifest.counts)


def _prepare(
    data: Data, stages: tuple[DataStage, ...], folder: Path, file_bytes: int, format: str
) -> tuple[WriteJob, dict[str, Json], TokenInfo]:
    """Return what is to be done, what the folder must have been made of, and what a loader must know of the tokens."""
    source = source_of(data)
    if isinstance(source, Mixture):
        raise TypeError("source must be one source, got Mixture; write each of its sources to a folder of its own")
    stages = left_to_run(source.token_info, stages)
    tokenize = tokenizer_of(stages)
    info = rows_of(stages, source.token_info)
    ranges = tuple(shard_ranges(source, file_bytes))
    origin = {"source": compact(source.fingerprint()), "file_bytes": file_bytes, "ranges": len(ranges), "format": format}
    engines = {} if tokenize is None else _choose_engines(source, stages)
    fill = int(info.pad_values.get("input_ids", 0)) if tokenize is not None and tokenize.empty == "keep" else None
    ids = {} if tokenize is None else tokenize.vocabulary_sizes()
    files: FileFormat = MegatronFormat(megatron_dtype(ids.get("input_ids"))) if format == "megatron" else ArrowFormat()
    job = WriteJob(source, stages, engines, ids, fill, folder, files, file_bytes, ranges)
    return job, {"origin": origin, **_made_by(info)}, info


def _made_by(info: TokenInfo) -> dict[str, Json]:
    return {"stages": {f"stage {number}": each for number, each in enumerate(info.stages, 1)}, "functions": info.functions}


def _choose_engines(source: Source, stages: tuple[DataStage, ...]) -> Mapping[str, str]:
    """Return the engine for each column of ids, proved on the first records of the source."""
    blocks = (
        with_row_ids(source, table, shard, 0)[0]
        for shard in range(source.num_shards)
        for table, _ in (source.read(shard) if source.can_repeat else ())
    )
    sample = next((table for table in blocks if len(table)), pa.table({ROW_ID: pa.nulls(0, pa.int64())}))
    return choose_engines(stages, sample)


def _begin(folder: Path, plan: dict[str, Json]) -> None:
    """Leave a note of what is written, or raise if something else is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLAN
    if not path.exists():
        others = sorted(each.name for each in folder.iterdir() if not each.name.endswith(UNFINISHED))
        if others and not {PLAN, MANIFEST} & {*others}:  # another process may have begun or ended just now
            raise ValueError(f"{folder} must be empty or have tokens, got {', '.join(others[:3])}; choose another folder")
        write_json(path, {"kind": _KIND, "version": _VERSION, **plan})
    found = read_json(path, _KIND, _VERSION)
    _check_same(found, plan, folder)


def _check_same(found: Mapping[str, Json], plan: Mapping[str, Json], folder: Path) -> None:
    listed = [
        f"{name} is {saved!r} there and {own!r} here"
        for key in plan
        for name, saved, own in differences(found.get(key), json.loads(json.dumps(plan[key])), key)
    ]
    if listed:
        raise ValueError(
            f"{folder} must have tokens of this source and these stages, but {'; '.join(listed)}; choose another folder or "
            "remove this one"
        )


def _write_all(job: WriteJob, numbers: range, executor: Executor | None) -> Iterator[int]:
    """Write ranges, and yield the rows of each."""
    if executor is None:
        yield from (write_range(job, number) for number in numbers)
        return
    waiting = {executor.submit(write_range, job, number) for number in numbers}
    try:
        for done in concurrent.futures.as_completed(waiting):
            yield done.result()
    finally:
        for each in waiting:
            each.cancel()


def _complete(job: WriteJob, origin: Json, info: TokenInfo) -> Manifest | None:
    """Write the manifest if all files are there; return it, or ``None`` where others still write."""
    files = []
    for number in range(len(job.ranges)):
        found, place = written_files(job, number)
        if place is not None:
            return None
        files.append(found)
    manifest = Manifest.of(origin, info, itertools.chain.from_iterable(files))
    manifest.write(job.folder)
    (job.folder / PLAN).unlink(missing_ok=True)
    for left in job.folder.glob(f"*{UNFINISHED}"):
        left.unlink(missing_ok=True)
    return manifest
