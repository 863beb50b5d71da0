"""Are labels mixed if a file has them one after the other?

The rows of an epoch, in the order of serving, are cut into eighths. The share of a label in an eighth is compared with its
share in the corpus: the largest difference over all labels and eighths of an epoch counts, as a mean over seeds.

Both corpora are one window by default, so their labels are mixed as by a shuffle of everything. With windows of a sixth of a
corpus the order of the blocks must mix them; and in the first epoch, whose first windows are small, with fewer blocks a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from seqstream.planning.batch_spec import ID_BYTES

MAX_TOKENS = 4_096
EIGHTHS = 8
EPOCHS = {0: "first epoch", 1: "second epoch"}
WINDOWS = {None: "one window", 6: "windows of a sixth"}
TARGET = Target("<=", 0.15)


def measure(settings: Settings) -> Iterator[Record]:
    """Measure the corpora for classification, in the first epoch and in the second."""
    proven = prove(corpora.tokenizer())
    for name, file in corpora.labelled().items():
        num_tokens = _count(proven, file)
        for (windows, many), (epoch, which) in itertools.product(WINDOWS.items(), EPOCHS.items()):
            shown = f"{many}, {which}"
            settings.show_progress(f"{name}, {shown}")
            spec = ss.Bucket(MAX_TOKENS, window_bytes=None if windows is None else ID_BYTES * num_tokens // windows)
            found = [_deviation(proven, file, spec, seed, epoch) for seed in range(max(1, settings.seeds // 2))]
            record = Record(
                benchmark="mixing",
                corpus=name,
                what=f"largest deviation of an eighth, {shown}, mean of {len(found)} seeds",
                value=float(np.mean(found)),
                unit="",
                target=TARGET,
            )
            yield record


def _count(proven: Proven, file: Path) -> int:
    """Return the tokens of a corpus."""
    return sum(batch.num_tokens for batch in proven.loader(ss.JsonLines(str(file)), ss.Bucket(MAX_TOKENS)))


def _deviation(proven: Proven, file: Path, spec: ss.Bucket, seed: int, epoch: int) -> float:
    """Return the largest difference between the share of a label in an eighth and its share in the epoch."""
    loader = proven.loader(ss.JsonLines(str(file)), spec, seed=seed)
    loader.set_epoch(epoch)
    names, labels = np.unique([label for batch in loader for label in batch.label], return_inverse=True)
    is_label = labels[:, None] == np.arange(len(names))
    shares = np.array([eighth.mean(0) for eighth in np.array_split(is_label, EIGHTHS)])
    return float(np.abs(shares - is_label.mean(0)).max())
