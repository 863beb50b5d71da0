"""A mixture on real ranks, with files, a compressed file and a generator; and after a process was killed."""

from __future__ import annotations

import functools
import json
import signal
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqstream as ss
from seqstream import testing
from seqstream.testing.expectations import through_json
from seqstream.testing.mixture_laws import records_in_order
from tests.helpers import rank_jobs
from tests.helpers.forked import Program
from tests.helpers.rank_processes import Pool

WEIGHTS = {"plain": 0.5, "zipped": 0.3, "made": 0.2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of three corpora."""
    rank_jobs.write_mixture(tmp_path)
    return tmp_path


def records_of(batches: list[ss.Batch]) -> list[tuple[int, int]]:
    """Source and row id of each row, without copies of rows that another rank has."""
    return [
        (source, row_id)
        for batch in batches
        for source, row_id, weight in zip(batch["source"].tolist(), batch.row_ids.tolist(), batch.weights.tolist(), strict=True)
        if weight
    ]


def expect_prefixes(served: list[tuple[int, int]], loader: ss.Loader) -> None:
    """Expect the first records of each source, each as often as its passes have it; empty ones are dropped."""
    mixture: ss.Mixture = loader.source  # type: ignore[assignment]
    for number, member in enumerate(mixture.members):
        own = Counter(row_id for source, row_id in served if source == number)
        order = (row_id for row_id in records_in_order(loader, member) if mixture.record(row_id)["text"])
        assert own == Counter(islice(order, own.total())), member.name


def test_processes_serve_a_mixture_as_one_does(pool: Pool, folder: Path) -> None:
    """Two gloo ranks take batches of the windows of both, which are the same for threads, and keep the shares."""
    make = functools.partial(rank_jobs.mixture_of, str(folder), tokens=4_000)
    processes = [each[0] for each in pool.run(2, rank_jobs.epochs, make)]
    threads = testing.run_ranks(2, lambda options: rank_jobs.epochs(functools.partial(make, **options))[0])
    for one, other in zip(processes, threads, strict=True):
        assert [records_of([batch]) for batch in one.batches] == [records_of([batch]) for batch in other.batches]
    given = np.zeros(3)
    for each in processes:
        for batch in each.batches:
            weights = batch.lengths.numpy() * (batch.weights > 0).numpy()
            given += np.bincount(batch["source"].numpy(), weights=weights, minlength=3)
    assert np.abs(given - given.sum() * np.array([*WEIGHTS.values()])).max() <= 60
    expect_prefixes([record for each in processes for record in records_of(each.batches)], make())


def test_one_rank_then_four_then_two(pool: Pool, folder: Path) -> None:
    """A window that one process began is finished by four, then two: no record is lost or served twice."""
    make = functools.partial(rank_jobs.mixture_of, str(folder), tokens=20_000)
    state: Any = None
    served: list[tuple[int, int]] = []
    for world_size, num_steps in ((1, 5), (4, 2), (2, 3), (1, None)):
        taken = [each[0] for each in pool.run(world_size, rank_jobs.epochs, make, 1, state, num_steps)]
        served += [record for each in taken for record in records_of(each.batches)]
        state = through_json(taken[0].state)
    expect_prefixes(served, make())


def test_ranks_with_other_weights(pool: Pool, folder: Path) -> None:
    """Ranks whose mixtures differ do not begin."""
    with pytest.raises(Exception, match=r"mixture\.weights"):
        pool.run(2, rank_jobs.different_mixtures, str(folder))


KILLED = """
import json, os, sys
from pathlib import Path
from tests.helpers import rank_jobs
folder, log, state = sys.argv[1:]
if __name__ == "__main__":
    loader = rank_jobs.mixture_of(folder, tokens=6_000, num_workers=int("workers" in log))
    if os.path.exists(state):
        loader.load_state_dict(json.loads(Path(state).read_text()))
    with open(log, "a") as file:
        for batch in loader:
            rows = [batch["source"].tolist(), batch.row_ids.tolist()]
            # Both files change at once, or neither does.
            Path(state + ".new").write_text(json.dumps(batch.state))
            file.write(json.dumps(rows) + "\\n"); file.flush()
            os.replace(state + ".new", state)
    print("ended")
"""


@pytest.mark.parametrize("log", ["alone", "workers"])
def test_a_killed_process_goes_on(folder: Path, log: str) -> None:
    """A process that is killed with SIGKILL again and again serves what one serves that is not."""
    expected = [
        [*map(list, zip(*records_of([batch]), strict=True))] for batch in rank_jobs.mixture_of(str(folder), tokens=6_000)
    ]
    path, state = folder.parent / f"{log}.log", folder.parent / f"{log}.json"
    (program := folder.parent / "program.py").write_text(KILLED)
    for attempt in range(3):
        before = path.stat().st_size if path.exists() else 0
        with Program(program, map(str, (folder, path, state)), cwd=folder) as running:
            while attempt < 2 and running.process.is_alive() and (not path.exists() or path.stat().st_size < before + 900):
                time.sleep(0.005)
            if attempt < 2:
                running.process.kill()
            done = running.wait()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        # A batch whose state was not kept is served again.
        lines = path.read_text().splitlines() if path.exists() else []
        kept = json.loads(state.read_text())["position"] if state.exists() else None
        if lines and kept is not None:
            path.write_text("".join(line + "\n" for line in lines[: _number_of(kept, expected, folder)]))
    assert done.stdout.strip() == "ended"
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected


def _number_of(position: Any, expected: list[Any], folder: Path) -> int:
    """Return how many batches were served at a position."""
    for number, batch in enumerate(rank_jobs.mixture_of(str(folder), tokens=6_000), 1):
        window = batch.state["position"]["window"]
        at = (window["served"], window["step"], window.get("mixture", {}).get("tokens"), batch.state["position"]["epoch"])
        own = position["window"]
        if at == (own["served"], own["step"], own.get("mixture", {}).get("tokens"), position["epoch"]):
            return number
    raise AssertionError(f"no batch of {len(expected)} has this position: {position}")
