"""Jobs of ranks in processes: functions that can be imported, with arguments that can be pickled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import seqstream as ss
from seqstream.testing.expectations import MakeLoader
from seqstream.testing.rank_laws import State, Taken, take
from tests.helpers.rank_corpora import SPECS, generator, make_loader, make_pairs, some_texts

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


def maker(kind: str, spec: str, folder: object, **options: Any) -> Make:
    """Return a function that builds loaders in any process."""
    return functools.partial(loader_of, kind, spec, str(folder), **options)
