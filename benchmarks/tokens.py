"""What does it cost to write tokens once, how fast are they read, and what does an interruption or damage do?

*Writing*: `write_tokens` against an epoch of a loader that makes batches of the text with the same fast engine, and against
``datasets.map`` with the same tokenizer, which runs once. *Reading*: an epoch of `TokenFiles`, the mean of three, against one
of the text, in which the engine is loaded and proven before the clock starts, and against one with `tokenizers`, which runs
once. Every run is in a fresh process, and files are in the page cache. *Short rows*: lines of 31 bytes into padded batches. *By
row*: an epoch of ``shuffle="rows"`` against one of blocks. *Opening*: 10,000 files. *Kills*: a writer with a slow tokenizer is
killed 50 times at random moments, and its folder is compared with one of a writer that was left alone. *Damage*: truncated
files, flipped bits, exchanged files and edited manifests that are refused.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import seqstream as ss
from benchmarks.harness import corpora, peers
from benchmarks.harness.damaged_tokens import DAMAGES, write_rows
from benchmarks.harness.proven_engine import MAX_LENGTH, prove
from benchmarks.harness.records import Record, Target
from benchmarks.harness.settings import Settings
from benchmarks.throughput import Run
from seqstream.sources.tokens.manifest import Manifest

READ_BYTES = 30_000_000
READ_EPOCHS = 3
ROW_BYTES = 31
KILLS = 50
FILES = 10_000

WRITING_TARGET, MAP_TARGET = 0.9, 20
READING_TARGET, REFERENCE_TARGET = 3, 30
SHORT_TARGET = Target(">=", 1_500_000)
BY_ROW_TARGET = 1.5
OPENING_TARGET = Target("<=", 1)
NONE = Target("<=", 0)


def measure(settings: Settings) -> Iterator[Record]:
    """Measure writing, reading, opening, kills and damage."""
    text = settings.text(corpora.FIXED)
    name = corpora.FIXED if corpora.data_folder() else corpora.DOCSTRINGS
    with tempfile.TemporaryDirectory() as folder:
        yield from _speed(settings, text, Path(folder), name)
        yield from _short_rows(settings, text, Path(folder))
        settings.show_progress("opening")
        yield _opening(Path(folder), FILES if settings.max_bytes is None else settings.max_bytes // 1_000)
        yield from _kills(settings, Path(folder), KILLS if settings.max_bytes is None else 3)
        settings.show_progress("damage")
        yield _damage(Path(folder))


# Speed


def _speed(settings: Settings, text: Path, folder: Path, name: str) -> Iterator[Record]:
    text = _cut(text, folder / "text.txt")
    tokens = folder / "tokens"
    ways: dict[str, tuple[Callable[..., Run], tuple[Any, ...], int]] = {
        "write_tokens": (_write, (text, tokens), 99),
        "on the fly": (_fly, (text,), 99),
        "on the fly, engine proven": (_fly_proven, (text,), 99),
        "TokenFiles": (_read, (tokens, "blocks"), 99),
        "TokenFiles by row": (_read, (tokens, "rows"), 99),
        "on the fly, engine=tokenizers": (_fly_reference, (text,), 1),
        "datasets.map": (_map, (text,), 1),
    }
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for repeat in range(settings.repeats):
        for way, (function, arguments, most) in ways.items():
            if repeat < most:
                settings.show_progress(f"{way}, {repeat + 1} of {min(most, settings.repeats)}")
                found[way].append(settings.isolate(function, *arguments))
    if len(counts := {(run.tokens, run.rows) for runs in found.values() for run in runs}) > 1:
        raise ValueError(f"all ways must have the same tokens and rows, got {counts}")
    seconds = {way: statistics.median(run.seconds for run in runs) for way, runs in found.items()}
    of = {way: Record(benchmark="tokens", corpus=name, what=way, value=value, unit="s") for way, value in seconds.items()}
    yield of["write_tokens"]
    yield of["on the fly"].against(of["write_tokens"], ">=", WRITING_TARGET)
    yield of["datasets.map"].against(of["write_tokens"], ">=", MAP_TARGET)
    yield of["TokenFiles"]
    yield of["on the fly, engine proven"].against(of["TokenFiles"], ">=", READING_TARGET)
    yield of["on the fly, engine=tokenizers"].against(of["TokenFiles"], ">=", REFERENCE_TARGET)
    yield of["TokenFiles by row"].against(of["TokenFiles"], "<=", BY_ROW_TARGET)


def _cut(text: Path, path: Path) -> Path:
    """Write the lines of a text again and again, up to the size that is read."""
    data = text.read_bytes()
    size = min(READ_BYTES, 4 * len(data))
    path.write_bytes((data * (1 + size // len(data)))[:size].rpartition(b"\n")[0] + b"\n")
    return path


def _tokenize() -> ss.Tokenize:
    return ss.Tokenize(str(corpora.tokenizer()), max_length=MAX_LENGTH)


def _write(text: Path, folder: Path) -> Run:
    for file in folder.glob("*"):
        file.unlink()
    begun = time.perf_counter()
    written = ss.write_tokens(ss.TextFiles(str(text)), _tokenize(), to=folder, progress=False)
    return Run(time.perf_counter() - begun, written.num_tokens or 0, written.num_rows)


def _epoch(make: Callable[[], ss.Loader], num: int = 1) -> Run:
    """Return what an epoch takes, with what is done once shared out among ``num`` epochs."""
    begun = time.perf_counter()
    loader = make()
    for _ in range(num):
        for _ in loader:
            pass
    return Run((time.perf_counter() - begun) / num, loader.stats.tokens // num, loader.stats.rows // num)


def _fly(text: Path) -> Run:
    return _epoch(lambda: ss.Loader(ss.TextFiles(str(text)), _tokenize(), ss.Bucket(peers.MAX_TOKENS)))


def _fly_proven(text: Path) -> Run:
    proven = prove(corpora.tokenizer())
    return _epoch(lambda: proven.loader(ss.TextFiles(str(text)), ss.Bucket(peers.MAX_TOKENS)))


def _fly_reference(text: Path) -> Run:
    proven = prove(corpora.tokenizer(), "tokenizers")
    return _epoch(lambda: proven.loader(ss.TextFiles(str(text)), ss.Bucket(peers.MAX_TOKENS)))


def _read(folder: Path, shuffle: Any) -> Run:
    return _epoch(lambda: ss.Loader(ss.TokenFiles(folder, shuffle=shuffle), ss.Bucket(peers.MAX_TOKENS)), READ_EPOCHS)


def _map(text: Path) -> Run:
    with tempfile.TemporaryDirectory() as cache:
        rows = peers.hf_tokenised(text, corpora.tokenizer(), Path(cache), max_length=MAX_LENGTH)
        begun = time.perf_counter()
        mapped = rows()
        return Run(time.perf_counter() - begun, int(sum(map(len, mapped["input_ids"]))), len(mapped))


# Short rows


def _short_rows(settings: Settings, text: Path, folder: Path) -> Iterator[Record]:
    data = text.read_bytes()[:READ_BYTES].decode(errors="ignore").encode("ascii", "ignore").replace(b"\n", b" ")
    lines = [data[at : at + ROW_BYTES] for at in range(0, len(data), ROW_BYTES)]
    path = folder / "short.txt"
    path.write_bytes(b"\n".join(line for line in lines if line.strip()))
    tokens = folder / "short"
    ss.write_tokens(ss.TextFiles(str(path)), _tokenize(), to=tokens, progress=False)
    runs = []
    for repeat in range(settings.repeats):
        settings.show_progress(f"short rows, {repeat + 1} of {settings.repeats}")
        runs.append(settings.isolate(_read, tokens, "blocks"))
    value = statistics.median(run.rows / run.seconds for run in runs)
    what = f"TokenFiles into padded batches, {runs[0].rows:,} rows"
    yield Record(
        benchmark="tokens", corpus=f"lines of {ROW_BYTES} bytes", what=what, value=value, unit="rows/s", target=SHORT_TARGET
    )


# Opening


def _opening(folder: Path, num: int) -> Record:
    many = copies_of(write_rows(folder / "one"), folder / "many", num)
    begun = time.perf_counter()
    ss.TokenFiles(many)
    seconds = time.perf_counter() - begun
    what = f"opening {num:,} files"
    return Record(benchmark="tokens", corpus="rows of 20 tokens", what=what, value=seconds, unit="s", target=OPENING_TARGET)


def copies_of(one: Path, folder: Path, num: int) -> Path:
    """Make a folder of ``num`` files, each the first file of another folder; a thousand at a time are one file on the disk."""
    folder.mkdir()
    manifest = Manifest.read(one)
    entry = manifest.files[0]
    data = (one / entry.name).read_bytes()
    names = [f"{number:06}-0000.arrow" for number in range(num)]
    for number, name in enumerate(names):
        if number % 1_000 == 0:
            (folder / name).write_bytes(data)
        else:
            os.link(folder / names[number // 1_000 * 1_000], folder / name)
    files = tuple(type(entry)(**{**vars(entry), "name": name}) for name in names)
    counts = {"num_rows": sum(entry.rows) * num, "num_tokens": entry.num_tokens * num}
    type(manifest)(**{**vars(manifest), "files": files, **counts}).write(folder)
    return folder


# Kills


def _kills(settings: Settings, folder: Path, num: int) -> Iterator[Record]:
    texts = [f"{number} " + "x" * (number * 7 % 60) for number in range(80 * (num + 5))]
    (folder / "lines.txt").write_text("\n".join(texts))
    source = ss.TextFiles(folder / "lines.txt", block_bytes=400)
    draw = random.Random(0)
    for number in range(num):
        settings.show_progress(f"kill {number + 1} of {num}")
        kill_writer(source, folder / "killed", draw.randrange(3), draw.uniform(0, 0.04))
    left = len([*(folder / "killed").glob("manifest.json")])
    for name in ("killed", "alone"):
        ss.write_tokens(source, ss.Tokenize(slowly), to=folder / name, progress=False, file_bytes=1_000)
    rows, expected = (_rows(folder / name) for name in ("killed", "alone"))
    differing = sum((folder / "killed" / file.name).read_bytes() != file.read_bytes() for file in (folder / "alone").iterdir())
    for what, value in (
        (f"rows lost by {num} kills", (expected - rows).total()),
        (f"rows repeated by {num} kills", (rows - expected).total()),
        ("files that differ from those of a writer left alone", differing),
        ("kills that came after the end", left),
    ):
        yield Record(benchmark="tokens", corpus=f"{len(texts):,} texts", what=what, value=value, unit="", target=NONE)


def kill_writer(source: ss.Source, folder: Path, num_files: int, seconds: float) -> None:
    """Write tokens in a process of its own, and kill it some time after it has finished some files."""
    wanted = _num_files(folder) + num_files
    pid = os.fork()  # everything is imported here, which takes longer than writing
    if not pid:
        try:
            ss.write_tokens(source, ss.Tokenize(slowly), to=folder, progress=False, file_bytes=1_000)
        finally:
            os._exit(0)
    while _num_files(folder) < wanted:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _num_files(folder: Path) -> int:
    return len([*folder.glob("*.arrow")])


def slowly(texts: list[str]) -> list[list[int]]:
    """Tokenise by letters, in a while."""
    time.sleep(0.03)
    return [[ord(letter) for letter in text] for text in texts]


def _rows(folder: Path) -> Counter[str]:
    return Counter(str(record["input_ids"]) for record in ss.TokenFiles(folder).records())


# Damage


def _damage(folder: Path) -> Record:
    missed = 0
    for name, damage in DAMAGES.items():
        damaged = write_rows(folder / name / "tokens")
        damage(damaged)
        try:
            ss.TokenFiles(damaged).verify()
        except ValueError:
            continue
        missed += 1
    what = f"of {len(DAMAGES)} kinds of damage that are not refused"
    return Record(benchmark="tokens", corpus="rows of 20 tokens", what=what, value=missed, unit="", target=NONE)
