"""Jobs of ranks in processes: functions that can be imported, with arguments that can be pickled."""

from __future__ import annotations

import functools
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

import seqstream as ss
from seqstream.testing.expectations import MakeLoader
from seqstream.testing.rank_laws import State, Taken, take
from seqstream.tokenizing.engine_choice import comparison_of
from tests.helpers.rank_corpora import SPECS, generator, letters, make_loader, make_pairs, some_texts

Make = Callable[..., ss.Loader]


def loader_of(kind: str, spec: str, folder: str, **options: Any) -> ss.Loader:
    """Return a loader by the names of its source and its spec; its files must exist."""
    if kind == "pairs":
        return make_pairs(some_texts(60), SPECS[spec], **options)
    if kind == "generator":
        return make_loader(generator(None, some_texts()), SPECS[spec], **options)  # type: ignore[arg-type]
    source: ss.Source = ss.TextFiles(f"{folder}/*", block_bytes=384)
    if kind == "split":
        source = source.split(valid=0.2, seed=3)[0]
    return make_loader(source, SPECS[spec], **options)


def epochs(make: MakeLoader, num: int = 1, state: State | None = None, num_steps: int | None = None) -> list[Taken]:
    """Take some epochs, from a state."""
    loader = make()
    if state is not None:
        loader.load_state_dict(state)
    return [take(loader, num_steps) for _ in range(num)]


def take_with_cache(folder: str, tokenizer: str, cache: str, rank: int) -> Taken:
    """Take an epoch of the text files of a folder; only one rank uses the cache folder, the others none."""
    comparison_of.cache_clear()
    before = os.environ["SEQSTREAM_CACHE"]
    os.environ["SEQSTREAM_CACHE"] = cache if dist.get_rank() == rank else "off"
    try:
        tokenize = ss.Tokenize(tokenizer, max_length=32)
        return take(ss.Loader(ss.TextFiles(f"{folder}/*.txt"), tokenize, ss.Bucket(128), seed=5))
    finally:
        os.environ["SEQSTREAM_CACHE"] = before


def maker(kind: str, spec: str, folder: object, **options: Any) -> Make:
    """Return a function that builds loaders in any process."""
    return functools.partial(loader_of, kind, spec, str(folder), **options)


def write_mixture(folder: Path) -> None:
    """Write the files of the corpora of `mixture_of`."""
    texts = some_texts(60)
    (folder / "plain.txt").write_text("".join(text + "\n" for text in texts))
    with gzip.open(folder / "zipped.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": text[::-1]}) + "\n" for text in texts))


def made_texts() -> Iterator[str]:
    """Yield texts; a function that is read front to back."""
    yield from some_texts(40, seed=5)


def mixture_of(folder: str, *, tokens: int, weights: dict[str, float] | None = None, **options: Any) -> ss.Loader:
    """Return a loader of three corpora of different kinds."""
    sources: dict[str, ss.Source] = {
        "plain": ss.TextFiles(f"{folder}/plain.txt", block_bytes=384),
        "zipped": ss.JsonLines(f"{folder}/zipped.jsonl.gz", block_bytes=512),
        "made": ss.Generator(made_texts, block_bytes=512),
    }
    mixture = ss.Mixture(sources, weights or {"plain": 0.5, "zipped": 0.3, "made": 0.2}, tokens=tokens)
    tokenize = ss.Tokenize(letters, max_length=60)
    return ss.Loader(mixture, tokenize, ss.Bucket(480, window_batches=4), **{"seed": 3, **options})


def different_mixtures(folder: str) -> None:
    """Iterate over a mixture that has other weights on each rank."""
    weight = 0.5 + dist.get_rank()
    for _ in mixture_of(folder, tokens=1_000, weights={"plain": weight, "zipped": 0.3, "made": 0.2}):
        pass
