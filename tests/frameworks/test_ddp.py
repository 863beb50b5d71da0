"""DistributedDataParallel under torchrun: the examples, run as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import train_ddp

from tests.helpers.examples import keep_part, run, run_forking


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_part(tmp_path_factory.mktemp("cache"), 24_000)


def test_train_ddp_goes_on_exactly(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkpoint two ranks do the steps again that they did, and three take the records that are left, each once."""
    printed = run_forking(train_ddp, train_ddp.compare, cache, monkeypatch, capsys)
    trained = re.findall(
        r"^(\d) ranks trained for (\d+) steps; loss (\d\.\d+) at the first, (\d\.\d+) at the last$", printed, re.M
    )
    (two, epoch, first, last), (again, left, _, again_last), (three, _, _, _) = trained
    assert (two, again, three) == ("2", "2", "3")
    assert again_last == last < first
    resumed = re.findall(
        r"^from step (\d+) on 2 ranks: (\d+) of (\d+) steps have the same rows and the same loss", printed, re.M
    )
    assert resumed == [("3", left, left)]
    assert int(epoch) - 3 == int(left) > 1
    seen, different, records = re.findall(r"on 3 ranks: (\d+) records, (\d+) different ones, of (\d+)$", printed, re.M)[0]
    assert seen == different == records
    assert int(records) > 100


def test_ranks_change_no_gradient(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Gradients of 1, 2 and 4 ranks, of 1 and 4 batches each, are those of one process on the same rows; by own labels not."""
    cache = keep_part(tmp_path_factory.mktemp("few"), 10_000)
    printed = run("exact_gradients.py", cache=cache, cwd=tmp_path)
    pattern = r"^(\d) ranks x (\d) batches, (\d+) steps: gradients differ by at most (\S+)\n.* by up to (\S+)$"
    lines = re.findall(pattern, printed, re.M)
    assert [(int(ranks), int(batches)) for ranks, batches, *_ in lines] == [(1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4)]
    for batches in "14":
        steps = [int(number) for _, of, number, *_ in lines if of == batches]
        assert steps == sorted(steps, reverse=True)
    assert all(float(difference) < 1e-12 for *_, difference, _ in lines)
    assert all(float(usual) > 1e-3 for *_, usual in lines[1:])
    assert float(re.findall(r"add up to the same in all of them, but for (\S+)$", printed, re.M)[0]) < 1e-12
