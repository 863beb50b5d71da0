"""Loaders in Lightning, as the example gives them to it: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.frameworks.lightning_on_ranks import fit
from tests.frameworks.steps_by_hand import make_words, train_by_hand, weights
from tests.frameworks.streams import ROOT, make_loader, run_ranks, write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("lightning")
    write_corpus(folder, texts[:60], bpe_tokenizer)
    return folder


def without_epoch(seen: list[tuple[int, list[int], float]]) -> list[tuple[list[int], float]]:
    """Return rows and losses: under ``max_steps`` Lightning counts epochs anew from a checkpoint at the end of one."""
    return [step[1:] for step in seen]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": -1, "max_steps": 12},
        {"max_epochs": 3, "accumulate": 2},
        {"max_epochs": 3, "accumulate": 2, "accumulate_grad_batches": 2},
    ],
    ids=["epochs", "steps", "accumulated", "counted"],
)
def test_a_resumed_run_is_the_same(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """From a checkpoint of any step or epoch, or inside of a step, the same batches come, and the same losses and weights.

    They are those of one backward for each step over all its rows.
    """
    accumulated = options.get("accumulate", 1)
    module = fit(folder, tmp_path, **options)
    assert weights(module) == pytest.approx(train_by_hand(folder, make_words(), module.steps[:-1]), abs=1e-12)
    whole = module.seen
    loader = make_loader(folder, accumulate=accumulated)
    assert [row for _, row, _ in whole] == [batch.row_ids.tolist() for _ in range(4) for batch in loader][: len(whole)]
    lengths = []
    for checkpoint in tmp_path.glob("*.ckpt"):
        module_again = fit(folder, tmp_path / "again", checkpoint, **options)
        resumed = module_again.seen
        assert without_epoch(resumed) == without_epoch(whole[len(whole) - len(resumed) :]), checkpoint.name
        assert weights(module_again) == weights(module), checkpoint.name
        lengths.append(len(resumed))
    assert bool(list(tmp_path.glob("inside-*"))) == (accumulated > 1 and "accumulate_grad_batches" not in options)
    assert len(set(lengths)) >= len(whole) // accumulated > 5  # one for each step, the last too, after which nothing comes


def test_two_ranks(folder: Path) -> None:
    """Ranks take each record once an epoch, in as many steps, and go on exactly, inside of a step from its first batch."""
    run_ranks(ROOT / "tests" / "frameworks" / "lightning_on_ranks.py", str(folder), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert len(first["whole"]) == len(second["whole"]) > 3
    assert [(epoch, loss) for epoch, _, loss in first["whole"]] == [(epoch, loss) for epoch, _, loss in second["whole"]]
    steps = [one + other for one, other in zip(first["steps"], second["steps"], strict=True)]
    expected = train_by_hand(folder, make_words(), steps[:-1])
    for seen in (first, second):
        assert seen["weights"] == pytest.approx(expected, abs=1e-12)
        for name in ("step-01", "inside-0-02"):  # a step of two batches, and one batch more
            assert seen[name] == [seen["whole"][2:], seen["weights"]]
    once = sorted(row for batch in make_loader(folder) for row in batch.row_ids.tolist())
    for epoch in range(2):
        taken = [row for seen in (first, second) for number, batch, _ in seen["whole"] if number == epoch for row in batch]
        assert sorted(taken) == once
