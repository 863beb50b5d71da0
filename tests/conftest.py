"""Real tokenizers, small enough to be trained in a second, and the corpora that not every machine has."""

from __future__ import annotations

import argparse
import gc
import inspect
import logging
import multiprocessing
import os
import pathlib
import pydoc
import signal
import tarfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

gc.disable()  # until the tests are collected, since imports make many objects and no garbage
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes test at a time, and torch is not imported yet
os.environ["SEQSTREAM_CACHE"] = "off"  # no test depends on what another one has stored, nor on the files of the user
multiprocessing.set_forkserver_preload(["tests.helpers.preloaded"])

VOCAB_SIZE = 600

LONG = ("frameworks", "distributed", "test_workers.py")
"""Folders and files of tests that take long, and those that lie in no folder: they run first, so that no process runs alone."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long modules first, in the order in which they were shuffled."""
    own = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != own and not any(part in LONG for part in item.path.relative_to(own).parts))


def pytest_collection_finish() -> None:
    """Collect garbage again, but for what was imported."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heeded() -> None:
    """Give this process and its children Python's own handler of SIGINT, which a job in the background ignores."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Lines of English: the docstrings of a few modules that every Python has."""
    modules = (argparse, inspect, logging, os, pathlib, pydoc, tarfile)
    members = (member for module in modules for _, member in inspect.getmembers(module))
    docs = sorted({inspect.getdoc(member) or "" for member in members if inspect.isroutine(member) or inspect.isclass(member)})
    return [line for doc in docs for line in doc.splitlines() if line.strip()]


@pytest.fixture(scope="session")
def bpe_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE as GPT-2 has it: ``<|endoftext|>`` is known but put nowhere; no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def wordpiece_tokenizer(texts: list[str]) -> Tokenizer:
    """WordPiece as BERT has it: lower case, ``[CLS] ... [SEP]``, padded with ``[PAD]``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return tokenizer


@pytest.fixture(scope="session")
def unigram_tokenizer(texts: list[str]) -> Tokenizer:
    """Unigram as T5 has it: ``</s>`` at the end, padded with ``<pad>``; read from its serialised form, as anybody's is.

    Scores lose their last bit when they are first written or read, which breaks ties otherwise.
    """
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer.from_str(tokenizer.to_str())


@pytest.fixture(scope="session")
def bpe_file(bpe_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The byte-level BPE as a ``tokenizer.json``."""
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    bpe_tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real corpora and tokenizers."""
    folder = os.environ.get("SEQSTREAM_DATA")
    if not folder:
        pytest.skip("SEQSTREAM_DATA is not set: it names a folder of real corpora and tokenizers")
    return Path(folder)
