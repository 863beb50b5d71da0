"""Optimiser steps of several batches in a loop of PyTorch alone: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.frameworks.loop_on_ranks import STOPS, Run, watch
from tests.frameworks.steps_by_hand import make_words, train_by_hand, weights
from tests.frameworks.streams import ROOT, make_loader, torchrun, write_corpus

ACCUMULATED = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    write_corpus(folder, texts[:400], bpe_tokenizer)
    return folder


def test_steps_are_those_of_their_unions(folder: Path) -> None:
    """The weights are those of one backward for each step over all its rows, also where a run went on inside of a step."""
    seen = watch(folder, ACCUMULATED)
    steps = seen["steps"][:-1]
    assert seen["steps"][-1] == [], "an epoch ends with a step"
    assert len(steps) == seen["num_steps"] > 6
    assert seen["weights"] == pytest.approx(train_by_hand(folder, make_words(), steps), abs=1e-12)
    for stop in STOPS:
        assert seen[stop] == {"steps": seen["steps"], "weights": seen["weights"]}


def test_two_ranks(folder: Path) -> None:
    """So they are on ranks, and one rank goes on inside of a step that two had begun: with the rest of its rows."""
    torchrun(ROOT / "tests" / "frameworks" / "loop_on_ranks.py", str(folder), str(ACCUMULATED), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"]
    steps = [one + other for one, other in zip(first["steps"], second["steps"], strict=True)]
    assert steps.pop() == []
    assert len(steps) == first["num_steps"] == second["num_steps"] > 4
    assert first["weights"] == pytest.approx(train_by_hand(folder, make_words(), steps), abs=1e-12)
    for stop in STOPS:
        for seen in (first, second):
            assert seen[stop]["steps"] == seen["steps"]
            assert seen[stop]["weights"] == pytest.approx(seen["weights"], abs=1e-12)
        saved, other = (torch.load(folder / f"{stop}-{rank}.pt") for rank in range(2))
        saved["steps"] = [one + another for one, another in zip(saved["steps"], other["steps"], strict=True)]
        alone = Run(folder, ACCUMULATED, saved).train()
        begun = STOPS[stop] // ACCUMULATED + (stop == "inside")
        assert list(map(sorted, alone.steps[:begun])) == list(map(sorted, steps[:begun]))
        assert sorted(row for rows in alone.steps for row in rows) == sorted(row for rows in steps for row in rows)
        assert weights(alone.model) == pytest.approx(train_by_hand(folder, make_words(), alone.steps[:-1]), abs=1e-12)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_ends_when_its_last_batch_came(folder: Path, accumulate: int) -> None:
    """Labels and tokens told by the first batch of a step are those that its batches add up to."""
    loader = make_loader(folder, accumulate=accumulate)
    labels = tokens = 0
    for batch in loader:
        labels, tokens = labels + batch.num_label_tokens, tokens + batch.num_tokens
        told = batch.step_num_label_tokens, batch.step_num_tokens
        if batch.is_step_end:
            assert (labels, tokens) == told
            labels = tokens = 0
    assert labels == tokens == 0
