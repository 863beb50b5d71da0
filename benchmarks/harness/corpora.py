"""The corpora of the benchmarks as plain files, and their tokenizer.

They are made from the folder that ``SEQSTREAM_DATA`` names, and kept in the cache folder. Without it there is one corpus, which
every machine can make: the docstrings of the installed libraries.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from examples.shared import corpus as docstring_corpus
from examples.shared.corpus import made_once

DOCSTRINGS = "docstrings"
FIXED = "fixed"
"""The corpus of `throughput`: documents, reviews, questions and single sentences, shuffled."""

PASSAGES, SOURCES, BOOKS = "passages", "sources", "books"
"""The corpora, besides the docstrings, on which models are trained."""

Texts = Iterable[str]


def names() -> list[str]:
    """Return the corpora that this machine has, `FIXED` left out."""
    return [*(_CORPORA if data_folder() else ()), DOCSTRINGS]


def text(name: str = FIXED, *, shuffled: bool = False) -> Path:
    """Return a corpus as a text file, one text a line: newlines inside a text are spaces, empty texts are left out.

    Args:
        name: `FIXED`, or one of `names`. `FIXED` stands for the docstrings where ``SEQSTREAM_DATA`` is not set.
        shuffled: In random order, seed 0, and not in the original order. `FIXED` and the docstrings are always shuffled.
    """
    folder = data_folder()
    if name == DOCSTRINGS or (name == FIXED and folder is None):
        return docstring_corpus.docstring_texts()
    if folder is None:
        raise ValueError(f"corpus {name!r} cannot be made without its data; set SEQSTREAM_DATA to the folder that has it")
    shuffled = shuffled or name == FIXED
    stem = f"{name}-shuffled" if shuffled else name
    order = _shuffled if shuffled else _one_line_each
    make = _fixed if name == FIXED else _CORPORA[name]
    return made_once(f"{_key(folder)}/{stem}.txt", lambda: order(make(folder)))


def labelled() -> dict[str, Path]:
    """Return corpora for classification as JSON lines ``{"text", "label"}``, grouped by label: the hard case for mixing."""
    folder = data_folder()
    if folder is None:
        return {DOCSTRINGS: grouped_docstrings()}
    files = {"movie_reviews": "movie_reviews/movie_reviews", "rotten_tomatoes": "rotten_tomatoes/rt-polarity"}
    return {
        name: made_once(f"{_key(folder)}/{name}.jsonl", functools.partial(_labelled_rows, folder / f"{file}.jsonl.gz"))
        for name, file in files.items()
    }


def grouped_docstrings() -> Path:
    """Return the docstrings as JSON lines ``{"text", "label"}``, library after library."""
    return made_once(f"grouped-{docstring_corpus.docstrings().name}", _grouped_docstrings)


def grouped() -> dict[str, Path]:
    """Return corpora to train on, as JSON lines ``{"text", "label"}``, labels numbered and one after another.

    `PASSAGES` are of movie reviews, good ones first; `SOURCES` are five that differ a lot; `BOOKS` are the paragraphs of four.
    """
    folder = data_folder()
    if folder is None:
        return {}
    made = {PASSAGES: _passages, SOURCES: _sources, BOOKS: _books}
    return {name: made_once(f"{_key(folder)}/{name}.jsonl", functools.partial(make, folder)) for name, make in made.items()}


def tokenizer(name: str = "gpt2") -> Path:
    """Return a ``tokenizer.json``, by default that of GPT-2; without ``SEQSTREAM_DATA`` the one trained on the docstrings."""
    folder = data_folder()
    return folder / "tokenizers" / name / "tokenizer.json" if folder else docstring_corpus.tokenizer()


def data_folder() -> Path | None:
    """Return the folder that ``SEQSTREAM_DATA`` names, or ``None`` where it is not set.

    Raises:
        FileNotFoundError: It names a folder that is not there.
    """
    named = os.environ.get("SEQSTREAM_DATA")
    if named and not Path(named).is_dir():
        raise FileNotFoundError(f"SEQSTREAM_DATA must name a folder, got {named}")
    return Path(named) if named else None


@functools.cache
def _key(folder: Path) -> str:
    """Return the name of the cache folder of this data, which depends on files and sizes."""
    files = sorted(folder.rglob("*.gz"))
    found = "\n".join(f"{file.relative_to(folder)} {file.stat().st_size}" for file in files)
    return f"corpora-{hashlib.sha256(found.encode()).hexdigest()[:12]}"


def _one_line_each(texts: Texts) -> Iterator[str]:
    lines = (text.replace("\r", " ").replace("\n", " ") for text in texts)
    return (line for line in lines if line.strip())


def _shuffled(texts: Texts) -> list[str]:
    lines = list(_one_line_each(texts))
    random.Random(0).shuffle(lines)
    return lines


def _lines(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8", newline="\n") as lines:
        yield from (line.removesuffix("\n") for line in lines)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    return map(json.loads, _lines(file))


def _fields(file: Path, *fields: str) -> Iterator[str]:
    return (" ".join(row[field] for field in fields) for row in _rows(file))


def _paragraphs(texts: Texts) -> Iterator[str]:
    return (paragraph for text in texts for paragraph in text.split("\n\n"))


def _labelled_rows(file: Path) -> Iterator[str]:
    return (json.dumps({"text": row["text"], "label": row["label"]}) for row in _rows(file))


def _grouped_docstrings() -> list[str]:
    lines = docstring_corpus.docstrings().read_text(encoding="utf-8").splitlines()
    return sorted(lines, key=lambda line: docstring_corpus.LABELS.index(json.loads(line)["label"]))


def _passages(folder: Path) -> Iterator[str]:
    """Cut reviews after every few sentences, and keep 3,000 passages of each label."""
    draw = random.Random(0)
    cut: dict[str, list[str]] = {"pos": [], "neg": []}
    for row in _rows(folder / "movie_reviews/movie_reviews.jsonl.gz"):
        sentences = row["text"].split("\n")
        while sentences:
            size = draw.randint(1, 12)
            cut[row["label"]].append(" ".join(sentences[:size]))
            sentences = sentences[size:]
    return _labelled(draw.sample(passages, 3_000) for passages in cut.values())


def _sources(folder: Path) -> Iterator[str]:
    """Draw from sources that differ in length and language, with numbers of rows such that none has most of the tokens."""
    french = (line.split("\t")[1] for line in _lines(folder / "tatoeba_eng_fra/eng-fra.tsv.gz"))
    sizes = {"peps": 5_000, "gsm8k": 1_200, "movie_reviews": 300, "rotten_tomatoes": 4_000}
    texts = [(_CORPORA[name](folder), size) for name, size in sizes.items()] + [(french, 8_000)]
    draw = random.Random(0)
    return _labelled(draw.sample(list(_one_line_each(source)), size) for source, size in texts)


def _books(folder: Path) -> Iterator[str]:
    return _labelled(
        _one_line_each(_paragraphs(["\n".join(_lines(book))])) for book in sorted((folder / "gutenberg").glob("*.gz"))
    )


def _labelled(groups: Iterable[Texts]) -> Iterator[str]:
    return (json.dumps({"text": text, "label": label}) for label, texts in enumerate(groups) for text in texts)


def _gutenberg(folder: Path) -> Iterator[str]:
    return _paragraphs("\n".join(_lines(book)) for book in sorted((folder / "gutenberg").glob("*.gz")))


def _banking(folder: Path) -> Iterator[str]:
    return (row["text"] for row in csv.DictReader(f"{line}\n" for line in _lines(folder / "banking77/train.csv.gz")))


_CORPORA: dict[str, Callable[[Path], Texts]] = {
    "peps": lambda folder: _paragraphs(_fields(folder / "peps/peps.jsonl.gz", "text")),
    "gsm8k": lambda folder: _fields(folder / "gsm8k/train.jsonl.gz", "question", "answer"),
    "movie_reviews": lambda folder: _fields(folder / "movie_reviews/movie_reviews.jsonl.gz", "text"),
    "gutenberg": _gutenberg,
    "tatoeba": lambda folder: (line.split("\t")[0] for line in _lines(folder / "tatoeba_eng_fra/eng-fra.tsv.gz")),
    "rotten_tomatoes": lambda folder: _fields(folder / "rotten_tomatoes/rt-polarity.jsonl.gz", "text"),
    "banking77": _banking,
    "snips": lambda folder: _fields(folder / "snips/train.jsonl.gz", "text"),
    "django": lambda folder: _lines(folder / "django_pairs/all.anno.gz"),
    "udhr": lambda folder: (line for text in _fields(folder / "udhr/udhr.jsonl.gz", "text") for line in text.split("\n")),
}


def _fixed(folder: Path) -> Iterator[str]:
    yield from _fields(folder / "peps/peps.jsonl.gz", "text")
    for name in ("movie_reviews", "gsm8k", "tatoeba"):
        yield from _CORPORA[name](folder)
