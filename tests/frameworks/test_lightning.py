"""Loaders in Lightning, as the example gives them to it: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.frameworks.lightning_on_ranks import fit
from tests.frameworks.streams import ROOT, make_loader, torchrun, write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("lightning")
    write_corpus(folder, texts[:30], bpe_tokenizer)
    return folder


def without_epoch(seen: list[tuple[int, list[int], float]]) -> list[tuple[list[int], float]]:
    """Return rows and losses: under ``max_steps`` Lightning counts epochs anew from a checkpoint at the end of one."""
    return [step[1:] for step in seen]


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}, {"max_epochs": 3, "accumulate_grad_batches": 2}],
    ids=["epochs", "steps", "accumulated"],
)
def test_a_resumed_run_is_the_same(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """From a checkpoint of any step or epoch, the last step of an epoch too, the same batches and losses come."""
    whole = fit(folder, tmp_path, **options).seen
    loader = make_loader(folder)
    assert [row for _, row, _ in whole] == [batch.row_ids.tolist() for _ in range(4) for batch in loader][: len(whole)]
    lengths = []
    for checkpoint in tmp_path.glob("*.ckpt"):
        resumed = fit(folder, tmp_path / "again", checkpoint, **options).seen
        assert without_epoch(resumed) == without_epoch(whole[len(whole) - len(resumed) :]), checkpoint.name
        lengths.append(len(resumed))
    accumulated = options.get("accumulate_grad_batches", 1)
    assert len(set(lengths)) >= len(whole) // accumulated > 5  # one for each step, the last too, after which nothing comes


def test_two_ranks(folder: Path) -> None:
    """Ranks take each record once an epoch, in as many steps, and go on exactly."""
    torchrun(ROOT / "tests" / "frameworks" / "lightning_on_ranks.py", str(folder), ranks=2)
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert len(first["whole"]) == len(second["whole"]) > 3
    assert [(epoch, loss) for epoch, _, loss in first["whole"]] == [(epoch, loss) for epoch, _, loss in second["whole"]]
    for seen in (first, second):
        assert seen["resumed"] == seen["whole"][3:]
    once = sorted(row for batch in make_loader(folder) for row in batch.row_ids.tolist())
    for epoch in range(2):
        taken = [row for seen in (first, second) for number, batch, _ in seen["whole"] if number == epoch for row in batch]
        assert sorted(taken) == once
