"""A small corpus in a folder, the loader of it, and ranks started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import seqstream as ss
from tests.helpers.forked import ROOT

MAX_LENGTH = 24


def write_corpus(folder: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    """Write what `make_loader` reads."""
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))


def make_loader(folder: Path, spec: ss.Bucket | ss.Unbucketed | None = None, **options: Any) -> ss.Loader:
    """Make a loader of many short windows."""
    source = ss.TextFiles(str(folder / "corpus.txt"), block_bytes=2_048)
    stages = ss.Tokenize(folder / "tokenizer.json", max_length=MAX_LENGTH), spec or ss.Bucket(192, window_batches=8)
    return ss.Loader(source, *stages, **{"on_batch": ss.CausalLabels(), **options})


def rows_of(batch: ss.Batch) -> list[int]:
    """Return the rows of a batch, without those that a rank repeats to have any."""
    return batch.row_ids[batch.weights > 0].tolist()


def torchrun(script: Path, *options: str, ranks: int, **environment: str) -> str:
    """Run a script on some ranks of this machine by torchrun, and return what they printed."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        str(script),
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
