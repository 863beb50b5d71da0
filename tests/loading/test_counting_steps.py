"""Steps of an epoch: counted exactly, and estimated within a few per cent, from any source and for any number of ranks."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqstream as ss
from seqstream.planning.batch_spec import BatchSpec
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers import rank_corpora

SPECS: dict[str, BatchSpec] = {
    "mixed": ss.Bucket(160, window_batches=6),
    "alike": ss.Bucket(160, window_batches=6, step="alike"),
    "rows": ss.Bucket(batch_size=3, window_batches=6),
    "shapes": ss.Bucket(160, shapes=3, window_batches=6),
    "pack": ss.Pack(64, rows=1, window_batches=6),
    "in-order": ss.Unbucketed(3),
}


def letters(texts: list[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


@pytest.mark.parametrize("uneven", ["repeat", "drop"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_steps_are_counted_exactly(tmp_path: Path, name: str, world_size: int, uneven: str) -> None:
    """Each rank counts the steps that all of them take, in each epoch, before and after it begins; nothing else changes."""
    texts = rank_corpora.some_texts(180)
    source = rank_corpora.compressed(tmp_path, texts)

    def make(options: Options) -> ss.Loader:
        stages = (ss.Tokenize(letters, max_length=60), SPECS[name])
        return ss.Loader(source, *stages, accumulate=2, uneven=uneven, **options)  # type: ignore[arg-type]

    def job(options: Options) -> list[tuple[int, int, list[list[int]]]]:
        loader, found = make(options), []
        for epoch in range(2):
            loader.set_epoch(epoch)
            before, steps = loader.count_steps(), loader.stats.steps
            rows = [batch.row_ids.tolist() for batch in loader]
            found.append((before, loader.stats.steps - steps, rows))
        return found

    def plain(options: Options) -> list[list[list[int]]]:
        loader = make(options)
        return [[batch.row_ids.tolist() for batch in loader] for _ in range(2)]

    for found, expected in zip(run_ranks(world_size, job), run_ranks(world_size, plain), strict=True):
        assert [counted for counted, _, _ in found] == [taken for _, taken, _ in found]
        assert [rows for _, _, rows in found] == expected


def test_a_count_is_kept() -> None:
    """A second call reads nothing; a generator that gives its items once is refused."""
    taken: list[int] = []

    def give() -> list[list[int]]:
        taken.append(1)
        return [[1] * 9] * 100

    loader = ss.Loader(ss.Generator(give), ss.Unbucketed(8))
    assert (loader.count_steps(), loader.estimate_steps()) == (13, None)
    reads = len(taken)
    assert (loader.count_steps(), len(taken)) == (13, reads)
    with pytest.raises(ValueError, match=r"count_steps\(\) cannot look at records that a generator gives only once"):
        ss.Loader(ss.Generator(iter([[1]])), ss.Unbucketed(8)).count_steps()


def text_lines(folder: Path) -> ss.Source:
    """Lines that become longer and longer."""
    chance = np.random.default_rng(0)
    sizes = chance.integers(1, 40, 30_000) + np.arange(30_000) // 350
    lines = [f"{number} " + "x" * size for number, size in enumerate(sizes.tolist())]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "c.csv").write_text("text\n" + "\n".join(lines))
    return ss.TextFiles(folder / "a.txt")


SOURCES: dict[str, Callable[[Path], ss.Source]] = {
    "plain": text_lines,
    "compressed": lambda folder: (text_lines(folder), ss.TextFiles(folder / "b.txt.gz"))[1],
    "csv": lambda folder: (text_lines(folder), ss.Csv(folder / "c.csv"))[1],
    "list": lambda folder: ss.Generator([record["text"] for record in text_lines(folder).records()]),
    "split": lambda folder: text_lines(folder).split(valid=0.2)[1],
    "part of a list": lambda folder: ss.Generator([record["text"] for record in text_lines(folder).records()]).split()[1],
}
ESTIMATED: dict[str, tuple[BatchSpec, dict[str, int]]] = {
    "bucket": (ss.Bucket(4_096), {}),
    "accumulate": (ss.Bucket(2_048), {"accumulate": 2}),
    "rows": (ss.Bucket(batch_size=32), {}),
    "pack": (ss.Pack(1_024, rows=4), {}),
    "in-order": (ss.Unbucketed(32), {"accumulate": 4}),
}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_estimates_are_close(tmp_path: Path, name: str, shuffle: bool) -> None:
    """Of a corpus whose lines grow longer, estimates are within 5 % of the count, or one step, whatever the source."""
    source = SOURCES[name](tmp_path)
    first = (list(SOURCES).index(name) + shuffle) % 2  # every other spec, so that each source has each once
    for spec, options in [*ESTIMATED.values()][first::2]:
        loader = ss.Loader(
            source, ss.Tokenize(letters, max_length=512), spec, shuffle=shuffle, accumulate=options.get("accumulate", 1)
        )
        assert loader.estimate_steps() == pytest.approx(loader.count_steps(), rel=0.05, abs=1)


def test_estimates_of_real_corpora(data: Path) -> None:
    """So they are of reviews, speeches and novels, compressed, of a list of long documents, and of a filtered corpus."""
    tokenize = ss.Tokenize(data / "tokenizers" / "gpt2", max_length=512)
    with gzip.open(data / "peps" / "peps.jsonl.gz", "rt") as file:
        peps = [json.loads(line)["text"] for line in file]
    reviews = ss.JsonLines(data / "movie_reviews" / "movie_reviews.jsonl.gz", columns=["text"])
    short = ss.Filter(lambda table: [len(text) < 3_000 for text in table.column("text").to_pylist()])
    speeches = ss.JsonLines(data / "us_speeches" / "speeches.jsonl.gz", columns=["text"])
    novels = ss.TextFiles(sorted((data / "gutenberg").glob("*.gz")), unit="paragraph")
    cases = [(reviews, ()), (reviews, (short,)), (speeches, ()), (novels, ()), (ss.Generator(peps), ())]
    for (source, stages), spec in itertools.product(cases, (ss.Bucket(2_048), ss.Pack(512, rows=2))):
        loader = ss.Loader(source, *stages, tokenize, spec)
        assert loader.estimate_steps() == pytest.approx(loader.count_steps(), rel=0.05, abs=1)


MIXED: dict[str, tuple[dict[str, Any], BatchSpec, dict[str, int]]] = {
    "proportional": ({"weights": "proportional"}, ss.Bucket(4_096), {}),
    "capped": ({"weights": {"grow": 1, "short": 3, "list": 1}, "epochs": {"short": 1.5, "list": 0.5}}, ss.Bucket(4_096), {}),
    "stop": (
        {"weights": {"grow": 1, "short": 1, "list": 0}, "epochs": {"short": 2}, "exhausted": "stop"},
        ss.Bucket(2_048),
        {},
    ),
    "tokens": (
        {
            "weights": [(0, {"grow": 0, "short": 1, "list": 0}), (200_000, {"grow": 1, "short": 0, "list": 0})],
            "tokens": 600_000,
        },
        ss.Pack(1_024, rows=4),
        {},
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_estimates_of_mixtures_are_close(tmp_path: Path, name: str) -> None:
    """Of files, compressed or not, and a list, whose lengths differ, they are within 5 %, whatever ends the epoch."""
    mixed, spec, options = MIXED[name]
    grow = text_lines(tmp_path)
    (tmp_path / "short.txt").write_text("\n".join("y" * (number % 13 + 1) for number in range(12_000)))
    own = ss.Tokenize(letters, max_length=20)
    sources = {
        "grow": ss.TextFiles(tmp_path / "b.txt.gz") if name == "tokens" else grow,
        "short": (ss.TextFiles(tmp_path / "short.txt"), own),
        "list": ss.Generator([record["text"] for record in itertools.islice(grow.records(), 0, None, 30)]),
    }
    loader = ss.Loader(
        ss.Mixture(sources, **mixed), ss.Tokenize(letters, max_length=512), spec, accumulate=options.get("accumulate", 1)
    )
    assert loader.estimate_steps() == pytest.approx(loader.count_steps(), rel=0.05, abs=1)


def test_estimates_of_mixtures_of_unknown_size(tmp_path: Path) -> None:
    """There is none with a source of unknown size, unless it has no weight, or where changing weights decide the end."""
    known, stream = text_lines(tmp_path), ss.Generator(lambda: [[1]])
    tokenize = ss.Tokenize(letters, max_length=512)

    def estimate(weights: Any) -> int | None:
        return ss.Loader(ss.Mixture({"a": known, "b": (stream,)}, weights), tokenize, ss.Bucket(4_096)).estimate_steps()

    assert estimate({"a": 1, "b": 1}) is None
    assert estimate({"a": 1, "b": 0}) is not None
    changing = ss.Mixture({"a": known, "c": ss.Generator(["x"] * 50)}, [(0, {"a": 1, "c": 1}), (9_000, {"a": 1, "c": 0})])
    assert ss.Loader(changing, tokenize, ss.Bucket(4_096)).estimate_steps() is None


def test_estimates_beside_a_thread_that_makes_windows(bpe_file: Path, texts: list[str]) -> None:
    """While windows are made, asking changes nothing: neither batches nor engines."""

    def make() -> ss.Loader:
        return ss.Loader(ss.Generator(texts * 20), ss.Tokenize(bpe_file, max_length=256), ss.Bucket(2_048))

    expected = [batch.row_ids.tolist() for batch in make()]
    loader = make()
    asked: list[int | None] = []
    threads = [threading.Thread(target=lambda: asked.append(loader.estimate_steps())) for _ in range(2)]
    iterator = iter(loader)
    for thread in threads:
        thread.start()
    found = [batch.row_ids.tolist() for batch in iterator]
    for thread in threads:
        thread.join()
    assert found == expected
    assert asked == pytest.approx([len(expected)] * 2, rel=0.05)
