"""Ranks with other data, options or states raise, all of them; differences that decide no rows are allowed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import seqstream as ss
from seqstream.testing.rank_threads import Options, run_ranks, try_ranks
from tests.helpers import rank_jobs
from tests.helpers.rank_corpora import letters
from tests.helpers.rank_processes import Pool
from tests.helpers.states import with_entry

TEXTS = [f"{number:04} " + "x" * (number % 9) for number in range(1_000)]
BUCKET = ss.Bucket(500, window_batches=4)
RULE = "ranks must have the same data and options, got "


def texts_of(make: Any, *stages: Any, spec: Any = BUCKET, **options: Any) -> ss.Loader:
    """Return a loader of texts from a list or a function."""
    return ss.Loader(ss.Generator(make, block_bytes=2_000), *stages, ss.Tokenize(letters, max_length=60), spec, **options)


def files_of(paths: Any, **options: Any) -> ss.Loader:
    """Return a loader of files."""
    source = paths if isinstance(paths, ss.Source) else ss.TextFiles(paths, block_bytes=700)
    return ss.Loader(source, ss.Tokenize(letters, max_length=60), BUCKET, **options)


def longer_than(num: int) -> Callable[[pa.Table], Any]:
    return lambda table: pc.greater(pc.utf8_length(table["text"]), num)


def with_one_changed(rank: int) -> list[str]:
    return [*TEXTS[:500], f"of rank {rank}", *TEXTS[501:]]


def later_of(rank: int) -> Callable[[], Iterator[str]]:
    return lambda: (text if number < 700 else f"{text} {rank}" for number, text in enumerate(TEXTS))


def tokens(texts: list[str]) -> list[list[int]]:
    return [[1, 2, 3] for _ in texts]


DIFFERENT: dict[str, tuple[Callable[..., ss.Loader], str]] = {
    "seed": (lambda rank, options: texts_of(TEXTS, seed=rank, **options), "seed 0 on rank 0, 1 on rank"),
    "shuffle": (lambda rank, options: texts_of(TEXTS, shuffle=rank == 0, **options), "shuffle True on rank 0, False on rank"),
    "uneven": (
        lambda rank, options: texts_of(TEXTS, uneven="drop" if rank else "repeat", **options),
        "uneven repeat on rank 0, drop on rank",
    ),
    "epochs": (lambda rank, options: texts_of(TEXTS, epochs=1 + min(rank, 1), **options), "epochs 1 on rank 0, 2 on rank"),
    "prefetch": (lambda rank, options: texts_of(TEXTS, prefetch=rank, **options), "prefetch 0 on rank 0, 1 on rank"),
    "accumulate": (lambda rank, options: texts_of(TEXTS, accumulate=1 + rank, **options), "accumulate 1 on rank 0, 2 on"),
    "budget": (
        lambda rank, options: texts_of(TEXTS, spec=ss.Bucket(500 + rank), **options),
        "batches.max_tokens 500 on rank 0, 501 on rank",
    ),
    "spec": (
        lambda rank, options: texts_of(TEXTS, spec=ss.Pack(64, rows=2) if rank else BUCKET, **options),
        "batches.kind Bucket on rank 0, Pack on rank",
    ),
    "tokenizer": (
        lambda rank, options: ss.Loader(
            ss.Generator(TEXTS), ss.Tokenize(tokens if rank else letters, max_length=60), BUCKET, **options
        ),
        (
            r"stage 1.tokenizers.text.kind tests.helpers.rank_corpora.letters on rank 0, "
            r"tests.distributed.test_agreement.tokens on rank"
        ),
    ),
    "max_length": (
        lambda rank, options: ss.Loader(ss.Generator(TEXTS), ss.Tokenize(letters, max_length=30 + rank), BUCKET, **options),
        "stage 1.max_length 30 on rank 0, 31 on rank",
    ),
    "stages": (
        lambda rank, options: texts_of(TEXTS, *[ss.Map(lambda table: table)][:rank], **options),
        "stage 1.kind Tokenize on rank 0, Map on rank",
    ),
    "lambda": (
        lambda rank, options: texts_of(
            TEXTS, ss.Map((lambda table: table.slice(0)) if rank else (lambda table: table)), **options
        ),
        r"stage 1.function \[\{'code': '\w+'\}\] on rank 0",
    ),
    "closure": (
        lambda rank, options: texts_of(TEXTS, ss.Filter(longer_than(5 + rank)), **options),
        r"stage 1.function \[\{'code': '(\w+)', 'num': '5'\}\] on rank 0, \[\{'code': '\1', 'num': '6'\}\] on rank",
    ),
    "shuffled list": (
        lambda rank, options: texts_of(random.Random(rank).sample(TEXTS, 1_000), shuffle=False, **options),
        "other records: item 0 of list: {'text': '0864 '} on rank 0, item 0 of list: {'text': '0137 xx'} on rank 1",
    ),
    "shuffled list, read by number": (
        lambda rank, options: texts_of([f"{n:04}" for n in random.Random(rank).sample(range(1_000), 1_000)], **options),
        "other records: item ",
    ),
    "shorter list": (
        lambda rank, options: texts_of(TEXTS[: 990 + rank], **options),
        "source.records.items 990 on rank 0, 991",
    ),
    "a record in the middle": (
        lambda rank, options: texts_of(with_one_changed(rank), **options),
        "other records: item 500 of list: {'text': 'of rank 0'} on rank 0, item 500 of list: {'text': 'of rank 1'} on rank 1",
    ),
    "generator of its own part": (
        lambda rank, options: texts_of(lambda: iter(TEXTS[rank::2]), **options),
        "other records: item 0 of .*: {'text': '0000 '} on rank 0",
    ),
    "generator that differs later": (
        lambda rank, options: texts_of(later_of(rank), **options),
        "other records in the block from item [5-7][0-9][0-9] of .* on: digest [0-9a-f]{8} on rank 0, [0-9a-f]{8} on rank",
    ),
    "shorter generator": (
        lambda rank, options: texts_of(lambda: iter(TEXTS[: 900 + rank]), **options),
        "other records in the block from item [89][0-9][0-9] of .* on: digest",
    ),
}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_are_named_on_all_ranks(name: str, world_size: int) -> None:
    """All ranks raise the same error, which has the values; where ranks differ at the beginning, no batch is served."""
    make, match = DIFFERENT[name]
    outcomes = try_ranks(world_size, lambda options: list(make(options["rank"], options)))
    assert len({str(outcome) for outcome in outcomes}) == 1
    for outcome in outcomes:
        assert isinstance(outcome, RuntimeError), outcome
        with pytest.raises(RuntimeError, match=RULE + match):
            raise outcome


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of equal size."""
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}{number:04}\n" for number in range(400)))
    return sorted(tmp_path.glob("*.txt"))


def file_loader(rank: int, kind: str, files: list[Path], options: dict[str, Any]) -> ss.Loader:
    """Return a loader of files that differ between ranks."""
    import datasets
    from datasets.distributed import split_dataset_by_node

    whole = datasets.Dataset.from_dict({"text": TEXTS})
    sources: dict[str, Callable[[], Any]] = {
        "order": lambda: files[:: -1 if rank else 1],
        "one more": lambda: files[min(rank, 1) :],
        "one each": lambda: files[rank % 3],
        "content": lambda: [files[0].parent / str(rank) / "a.txt"],
        "split": lambda: ss.TextFiles(files, block_bytes=700).split(valid=0.3, seed=rank)[0],
        "data set by node": lambda: ss.HFDataset(split_dataset_by_node(whole, rank % 2, 2)),
        "data set shuffled": lambda: ss.HFDataset(whole.shuffle(seed=rank)),
        "data set, one record": lambda: ss.HFDataset(datasets.Dataset.from_dict({"text": with_one_changed(rank)})),
        "stream": lambda: ss.HFDataset(whole.to_iterable_dataset(num_shards=8).shard(4, rank)),
        "same": lambda: files,
    }
    return files_of(sources[kind](), **options)


FILES = {
    "order": "source.files.names .*; pass files in one order, such as sorted",
    "one more": "source.files.files 3 on rank 0, 2 on rank",
    "one each": "source.files.names ",
    "content": "other records: .*a.txt, line ",
    "split": "source.split.seed 0 on rank 0, 1 on rank 1",
    "data set by node": "source.sample .*: no split_dataset_by_node",
    "data set shuffled": "source.sample ",
    "data set, one record": "other records: row 500 of the data set: {'text': 'of rank 0'} on rank 0",
    "stream": "source.sample ",
}


def write_other_content(folder: Path) -> None:
    """Write a file for each rank, all of equal size, that differ only in the middle."""
    for rank in range(4):
        (folder / str(rank)).mkdir()
        lines = [f"{number:07}\n" for number in range(5_000)]
        lines[2_500] = f"of rank{rank}"[:7] + "\n"
        lines[2_501] = f"{rank:07}\n"
        (folder / str(rank) / "a.txt").write_text("".join(lines))


@pytest.mark.parametrize("kind", FILES)
def test_other_files_and_data_sets_raise(kind: str, files: list[Path]) -> None:
    """Another order of files, one more file, a part for each rank, or another record in the middle raise."""
    write_other_content(files[0].parent)
    for outcome in try_ranks(2, lambda options: list(file_loader(options["rank"], kind, files, dict(options)))):
        assert isinstance(outcome, RuntimeError), outcome
        with pytest.raises(RuntimeError, match=RULE + FILES[kind]):
            raise outcome


def in_a_process(kind: str, files: list[Path]) -> list[str]:
    """Iterate to the end; return the texts, or the error."""
    import torch.distributed as dist

    try:
        loader = file_loader(dist.get_rank(), kind, files, {})
        return [str(row) for batch in loader for row in batch.row_ids[batch.weights > 0].tolist()]
    except RuntimeError as error:
        return [f"error: {error}"]


@pytest.mark.parametrize(("kind", "world_size"), [("order", 2), ("data set by node", 2), ("one each", 3)])
def test_processes_that_differ(pool: Pool, kind: str, world_size: int, files: list[Path]) -> None:
    """Over gloo as between threads, every process raises, and none waits for another."""
    outcomes = pool.run(world_size, in_a_process, kind, files)
    assert len({tuple(outcome) for outcome in outcomes}) == 1
    assert outcomes[0][0].startswith(f"error: {RULE}source.")


def test_processes_that_do_not(pool: Pool, files: list[Path]) -> None:
    """Equal processes find no difference, although each hashes strings differently."""
    rows = [row for outcome in pool.run(3, in_a_process, "same", files) for row in outcome]
    assert len(rows) == len(set(rows)) == 1_200


class Noisy(torch.utils.data.Dataset[Any]):
    """Random items, as with augmentation, which differ on each rank and each time."""

    def __init__(self, rank: int) -> None:
        self._generator = np.random.default_rng(rank)

    def __len__(self) -> int:
        return 300

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"features": self._generator.random((3 + number % 4, 2)), "number": number}


class OwnNoise(Noisy):
    """Items that differ on each rank, but are the same each time."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __getitem__(self, number: int) -> dict[str, Any]:
        values = np.random.default_rng([self._rank, number]).random((3 + number % 4, 2))
        return {"features": values, "number": number}


def test_random_items() -> None:
    """Each item appears once; items that differ each time that they are read are no difference between ranks."""

    def job(options: Options) -> list[int]:
        loader = ss.Loader(ss.Generator(Noisy(options["rank"])), ss.Bucket(200), epochs=2, **options)
        return [number for batch in loader for number in batch.number[batch.weights > 0].tolist()]

    numbers = [number for found in run_ranks(3, job) for number in found]
    assert sorted(numbers) == sorted([*range(300)] * 2)


def test_items_of_a_rank() -> None:
    """Items that differ between ranks, and are the same each time, raise."""
    outcomes = try_ranks(2, lambda each: list(ss.Loader(ss.Generator(OwnNoise(each["rank"])), ss.Bucket(200), **each)))
    for outcome in outcomes:
        assert isinstance(outcome, RuntimeError)
        assert f"{RULE}other records: item " in str(outcome)


def test_other_states() -> None:
    """States at the same position that differ in an entry raise an error that names it."""
    state = next(batch.state for batch in texts_of(TEXTS) if not batch.state["position"]["window"]["served"])
    step = state["position"]["window"]["step"]

    def job(options: Options) -> None:
        loader = texts_of(TEXTS, **options)
        loader.load_state_dict(with_entry(state, "position.window.step", step + options["rank"]))
        list(loader)

    for outcome in try_ranks(2, job):
        assert isinstance(outcome, RuntimeError)
        assert f"{RULE}state.step {step} on rank 0, {step + 1} on rank 1" in str(outcome)


def test_an_error_before_the_first_exchange() -> None:
    """If a rank cannot read its first block, the others raise and do not wait."""

    def broken(rank: int) -> Iterator[str]:
        if rank:
            raise OSError("no such disk")
        yield from TEXTS

    mine, other = try_ranks(2, lambda options: list(texts_of(functools.partial(broken, options["rank"]), **options)))
    assert str(mine) == "rank 1 has failed, so rank 0 cannot go on; the error there was OSError: no such disk"
    assert str(other) == "no such disk"


def test_ranks_with_and_without_a_stored_proof(pool: Pool, bpe_file: Path, texts: list[str], tmp_path: Path) -> None:
    """Ranks take the engine of rank 0, and have the same batches, whether that rank, another or none finds a proof."""
    (tmp_path / "a.txt").write_text("\n".join(texts[:200]), encoding="utf-8")
    found = []
    for rank in (0, 0, 1, -1):  # the first time rank 0 makes the proof
        ranks = pool.run(2, rank_jobs.take_with_cache, str(tmp_path), str(bpe_file), str(tmp_path / "cache"), rank)
        assert {each.state["calibration"]["engines"]["input_ids"] for each in ranks} == {"fastokens"}
        found.append([[batch.input_ids.tolist() for batch in each.batches] for each in ranks])
    assert found[0] == found[1] == found[2] == found[3]
    assert len([*(tmp_path / "cache" / "proofs").iterdir()]) == 2


def test_what_may_differ_between_ranks() -> None:
    """Options that decide no rows may differ: counters of functions, layout, padding side."""

    def job(options: Options) -> int:
        calls: list[int] = []
        rank = options["rank"]
        counted = ss.Map(lambda table: calls.append(len(table)) or table)
        loader = texts_of(
            TEXTS, counted, padding_side="right" if rank else "left", layout="jagged" if rank else "padded", **options
        )
        return sum(int(batch.weights.sum()) for _ in range(2) for batch in loader)

    assert sum(run_ranks(2, job)) == 2_000
