"""Loaders whose engine is loaded and checked before the clock starts, and has seen nothing of the corpus.

A loader also checks its engine on the first records of the stream, which would then be in the cache of the engine. Here it is
checked only on the fixed set of hostile texts, and the loader receives the result in a state, as it does when it resumes. So a
clock around a `Proven.loader` and its iteration measures everything else: listing, fingerprinting and reading files, tokenising
with an engine whose cache has only a few unusual words, planning and padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import seqstream as ss
from seqstream.records import ROW_ID, OpenStage
from seqstream.sources.source import Source
from seqstream.tokenizing.engines import EngineName
from seqstream.tokenizing.probes import hostile_texts

MAX_LENGTH = 1_024


@dataclasses.dataclass(frozen=True)
class Proven:
    """A tokenising stage and the engines that were chosen for it."""

    tokenize: ss.Tokenize
    engines: Mapping[str, str]

    def loader(self, source: Source, *stages: ss.Map | ss.Bucket | ss.Pack, **options: Any) -> ss.Loader:
        """Return a loader that has its engine; ``stages`` are those after tokenising."""
        loader = ss.Loader(source, self.tokenize, *stages, **options)
        state = loader.state_dict()
        state["calibration"]["engines"] = dict(self.engines)
        loader.load_state_dict(state)
        return loader

    def open(self) -> OpenStage:
        """Return the function that tokenises tables."""
        return self.tokenize.open(self.engines)


def prove(tokenizer: Path, engine: EngineName = "auto") -> Proven:
    """Load a tokenizer, and load and check its engine."""
    tokenize = ss.Tokenize(str(tokenizer), max_length=MAX_LENGTH, engine=engine)
    proven = Proven(tokenize, tokenize.choose_engines())
    texts = strange_texts()  # `tokenizers` needs no check, and is built when first used
    proven.open()([pa.table({"text": texts, ROW_ID: range(len(texts))})])
    return proven


def strange_texts() -> list[str]:
    """Return the texts that engines are checked on, which a bare engine encodes too before its clock starts."""
    return hostile_texts(())
