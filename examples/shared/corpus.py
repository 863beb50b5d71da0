"""The docstring corpus: the docstrings of the standard library, numpy and torch, and a tokenizer trained on them.

It is built once from the installed packages, without importing them and without a network, and kept in the cache folder.
Lengths range from one word to thousands, as in real documentation, so batches of random rows are mostly padding.
"""

from __future__ import annotations

import ast
import json
import os
import random
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

LABELS = ("stdlib", "numpy", "torch")
_NAME = f"docstrings-python{python_version()}-numpy{version('numpy')}-torch{version('torch')}"
_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings() -> Path:
    """Return a file of JSON lines ``{"text": ..., "label": ...}``, in a seeded random order; the label is the package."""
    return made_once(f"{_NAME}.jsonl", lambda: map(json.dumps, _collect()))


def docstring_texts() -> Path:
    """Return a file of the same texts in the same order, one a line."""
    return made_once(f"{_NAME}.txt", _texts)


def package_texts(label: str) -> Path:
    """Return a file of those texts that are of one package, one a line."""
    return made_once(f"{_NAME}-{label}.txt", lambda: _texts(label))


def tokenizer() -> Path:
    """Return a ``tokenizer.json``: byte-level BPE trained on the corpus, 8,192 tokens, with a pad token of id 0."""
    return made_once(f"{_NAME}-tokenizer.json", lambda: [_train().to_str()])


def made_once(name: str, lines: Callable[[], Iterable[str]]) -> Path:
    """Return a file in the cache folder, and write it first if it is missing; it is renamed into place when it is complete."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "seqstream", name)
    if not path.exists():
        content = "".join(f"{line}\n" for line in lines())
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, delete=False) as unfinished:
            unfinished.write(content.encode())
        Path(unfinished.name).replace(path)
    return path


def _collect() -> list[dict[str, str]]:
    files = [(file, label) for label in LABELS for file in _sources(label)]
    shown = tqdm(files, desc="making the docstring corpus, once", unit=" files", mininterval=0.5)
    found = [(text, label) for file, label in shown for text in _docstrings_of(file)]
    labels = dict(reversed(found))  # each text once, with its first label
    return [{"text": text, "label": labels[text]} for text in random.Random(0).sample(list(labels), len(labels))]


def _sources(label: str) -> list[Path]:
    spec = None if label == "stdlib" else find_spec(label)
    root = Path(spec.origin).parent if spec and spec.origin else Path(sysconfig.get_path("stdlib"))
    return sorted(file for file in root.rglob("*.py") if _NOT_THE_LIBRARY.isdisjoint(file.relative_to(root).parts))


def _docstrings_of(file: Path) -> Iterator[str]:
    with warnings.catch_warnings(action="ignore"):  # about string escapes in the code of others
        try:
            module = ast.parse(file.read_bytes())
        except SyntaxError:  # a file for another version of Python
            return
    nodes: list[ast.AST] = [module]
    for node in nodes:  # expressions are most of a tree and have no docstrings
        nodes.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))
        if isinstance(node, _DOCUMENTED) and (text := " ".join((ast.get_docstring(node) or "").split())):
            yield text


def _texts(label: str | None = None) -> list[str]:
    records = map(json.loads, docstrings().read_text(encoding="utf-8").splitlines())
    return [record["text"] for record in records if label in (None, record["label"])]


def _train() -> Tokenizer:
    print("training a tokenizer of 8,192 tokens on the docstring corpus, once", flush=True)
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8_192, special_tokens=["<pad>"], initial_alphabet=letters, show_progress=False)
    model.train_from_iterator(_texts(), trainer)
    return model
