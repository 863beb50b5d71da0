"""Does memory grow with the corpus?

A fresh process imports everything and then runs two epochs over a text of four full windows, and another process over a text of
ten times the size. The largest resident size after the imports counts, less the size at their end.

Windows have 64 batches here, so that a corpus of few megabytes has many. The memory of default windows, of 64 MiB of ids, is
measured separately: in one epoch over as many copies of the text as fill four of them.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.resident import forget_peak, peak_bytes
from benchmarks.harness.settings import Settings, first_lines
from examples.shared.corpus import made_once
from seqstream.planning.batch_spec import ID_BYTES, WINDOW_BYTES

TARGET = 1.2
MAX_TOKENS = 4_096
WINDOW_BATCHES = 64
NUM_WINDOWS = 4
TIMES = 10

DEFAULT_WINDOWS = 4
DEFAULT_TARGET = Target("<=", 800)
"""MiB: two windows, the current one and the next, with their texts, ids and plans."""

_MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Peak:
    """The peak memory of an epoch, in bytes above that after the imports, and the number of its windows."""

    num_bytes: int
    num_windows: int


def measure(settings: Settings) -> Iterator[Record]:
    """Measure a text once and ten times over, and if the corpus is large enough, more text that is not repeated."""
    whole = settings.text(corpora.FIXED)
    size = _bytes_of_windows(whole)
    small = first_lines(whole, size) if size < whole.stat().st_size else whole
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    once = _record(name, "the text once", small, settings)
    yield once
    yield _record(name, f"the text {TIMES} times over", _repeated(small), settings).against(once, "<=", TARGET)
    if whole != small:
        times = whole.stat().st_size / small.stat().st_size
        yield _record(name, f"{times:.1f} times as much text, none repeated", whole, settings).against(once)
    if settings.max_bytes is None:
        yield _default_record(name, whole, size, settings)


def _default_record(name: str, text: Path, size: int, settings: Settings) -> Record:
    """Measure default windows, on a text that fills several, given the bytes of text that fill `NUM_WINDOWS` small ones."""
    tokens = DEFAULT_WINDOWS * WINDOW_BYTES / ID_BYTES
    wanted = size * tokens / (NUM_WINDOWS * WINDOW_BATCHES * MAX_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.txt")
        with file.open("wb") as repeated:
            while repeated.tell() < wanted:
                repeated.write(text.read_bytes())
        what = f"{file.stat().st_size >> 20} MiB of text, windows as by default"
        record = _record(name, what, file, settings, window_batches=None, epochs=1)
    return dataclasses.replace(record, target=DEFAULT_TARGET)


def _bytes_of_windows(text: Path) -> int:
    """Return how many bytes of a text fill the small windows."""
    loader = prove(corpora.tokenizer()).loader(ss.TextFiles(str(text)), ss.Bucket(max_tokens=MAX_TOKENS))
    for _ in loader:
        pass
    return int(NUM_WINDOWS * WINDOW_BATCHES * MAX_TOKENS * text.stat().st_size / loader.stats.tokens)


def _record(
    name: str, what: str, text: Path, settings: Settings, *, window_batches: int | None = WINDOW_BATCHES, epochs: int = 2
) -> Record:
    settings.show_progress(what)
    peak: Peak = settings.isolate(_peak, text, corpora.tokenizer(), window_batches, epochs)
    mebibytes = peak.num_bytes / _MEBIBYTE
    return Record(benchmark="memory", corpus=name, what=f"{what}, {peak.num_windows} windows", value=mebibytes, unit="MiB")


def _repeated(text: Path) -> Path:
    lines = text.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return made_once(f"beginnings/{text.stem}-{TIMES}-times.txt", lambda: lines * TIMES)


def _peak(text: Path, tokenizer: Path, window_batches: int | None, epochs: int) -> Peak:
    import fastokens  # noqa: F401 - so that it is not counted
    import tqdm.auto  # noqa: F401

    before = forget_peak()
    bucket = ss.Bucket(max_tokens=MAX_TOKENS, window_batches=window_batches)
    loader = prove(tokenizer).loader(ss.TextFiles(str(text)), bucket, epochs=epochs)
    windows = {batch.window for batch in loader if batch.state["position"]["epoch"] >= epochs - 1}
    return Peak(peak_bytes() - before, len(windows))
