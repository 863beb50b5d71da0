"""The ways that seqstream is compared with do the whole work: each row is in a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.harness import peers

WORDS = ["short", "a longer line of words", "words", "and the longest line of them all, with some words more", "é ü 漢字"]
TEXTS = [" ".join(WORDS[: 1 + number % 5]) + f" {number}" for number in range(500)]

Peer = Callable[..., Iterator[peers.TorchBatch]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("peers")
    text, tokenizer = folder / "texts.txt", folder / "tokenizer.json"
    text.write_text("".join(f"{line}\n" for line in TEXTS), encoding="utf-8")
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"], initial_alphabet=alphabet))
    model.save(str(tokenizer))
    return text, tokenizer


def ids_of(tokenizer: Path, max_length: int) -> list[list[int]]:
    return [encoding.ids[:max_length] for encoding in Tokenizer.from_file(str(tokenizer)).encode_batch(TEXTS)]


@pytest.mark.parametrize("max_length", [1024, 12])
@pytest.mark.parametrize("peer", [peers.hf_stream, peers.hf_length_grouped, peers.by_hand])
def test_every_row_comes_once(peer: Peer, max_length: int, corpus: tuple[Path, Path]) -> None:
    """Every line of the file is in exactly one batch, with the tokenizer's own ids, cut at ``max_length``."""
    text, tokenizer = corpus
    seen: Counter[tuple[int, ...]] = Counter()
    for batch in peer(text, tokenizer, max_length=max_length):
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
        seen.update(tuple(row[mask.bool()].tolist()) for row, mask in zip(*batch.values(), strict=True))
    assert seen == Counter(map(tuple, ids_of(tokenizer, max_length)))


def test_the_loop_by_hand_keeps_the_budget(corpus: tuple[Path, Path]) -> None:
    """Rows times padded length stays within ``max_tokens``, and a window of few rows is a window."""
    batches = list(peers.by_hand(*corpus, max_tokens=200, window=64))
    assert all(batch["input_ids"].numel() <= 200 for batch in batches)
    assert sum(len(batch["input_ids"]) for batch in batches) == len(TEXTS)


@pytest.mark.parametrize("engine", [peers.bare_fastokens, peers.bare_tokenizers])
def test_bare_engines_give_all_ids(
    engine: Callable[[Path], Callable[[list[str]], peers.Ids]], corpus: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of all texts are in order, for any number of calls."""
    monkeypatch.setattr(peers, "CALL_CHARACTERS", 1000)
    encode = engine(corpus[1])
    assert encode(TEXTS).tolist() == [token for ids in ids_of(corpus[1], 1024) for token in ids]
    assert encode([]).tolist() == []


@pytest.mark.parametrize(
    "plan",
    [
        lambda lengths: peers.random_batches(lengths, batch_size=7),
        lambda lengths: peers.length_grouped_batches(lengths, batch_size=7),
        lambda lengths: peers.greedy_batches(lengths, max_tokens=64, window=50),
        lambda lengths: peers.greedy_batches(lengths, max_tokens=64),
    ],
)
def test_planners_use_every_row_once(plan: Callable[[peers.Rows], list[peers.Rows]]) -> None:
    """A plan is a partition of the rows."""
    lengths = np.random.default_rng(0).integers(1, 60, 333)
    assert sorted(np.concatenate(plan(lengths)).tolist()) == list(range(333))


def test_greedy_filling_by_hand() -> None:
    """Windows of four, longest first, as many rows as the budget holds: worked out on paper."""
    lengths = np.array([1, 4, 2, 4, 9, 1, 1, 3])
    batches = peers.greedy_batches(lengths, max_tokens=8, window=4)
    assert [rows.tolist() for rows in batches] == [[1, 3], [2, 0], [4], [7, 5], [6]]
