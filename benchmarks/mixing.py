"""Are the labels mixed that a file holds one after the other?

The rows of an epoch, in the order in which they are served, are cut into eighths. What counts is how far the share of a
label in an eighth is from its share in the corpus: the largest of all labels and eighths of an epoch, and the mean of that
over the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import seqstream as ss
from benchmarks import corpus
from benchmarks.proven import Proven, prove
from benchmarks.records import Record, Target
from benchmarks.settings import Settings

MAX_TOKENS = 4_096
EIGHTHS = 8
EPOCHS = {0: "the first epoch", 1: "the second epoch"}
TARGET = Target("<=", 0.15)


def measure(settings: Settings) -> Iterator[Record]:
    """Measure the corpora for classification, in the first epoch, whose windows grow from one block, and in the second."""
    proven = prove(corpus.tokenizer())
    for name, file in corpus.labelled().items():
        for epoch, shown in EPOCHS.items():
            settings.say(f"{name}, {shown}")
            found = [_deviation(proven, file, seed, epoch) for seed in range(max(1, settings.seeds // 2))]
            record = Record(
                benchmark="mixing",
                corpus=name,
                what=f"largest deviation of an eighth, {shown}, mean of {len(found)} seeds",
                value=float(np.mean(found)),
                unit="",
                target=TARGET,
            )
            yield record


def _deviation(proven: Proven, file: Path, seed: int, epoch: int) -> float:
    """Return the largest difference between the share of a label in an eighth and its share in the epoch."""
    loader = proven.loader(ss.JsonLines(str(file)), ss.Bucket(max_tokens=MAX_TOKENS), seed=seed)
    loader.set_epoch(epoch)
    names, labels = np.unique([label for batch in loader for label in batch.label], return_inverse=True)
    is_label = labels[:, None] == np.arange(len(names))
    shares = np.array([eighth.mean(0) for eighth in np.array_split(is_label, EIGHTHS)])
    return float(np.abs(shares - is_label.mean(0)).max())
