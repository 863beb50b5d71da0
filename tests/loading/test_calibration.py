"""What a loader learns from its data: when, and that threads that learn at the same time do not disturb each other."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

import seqstream as ss
from seqstream.loading import prefetch
from seqstream.loading.calibration import Calibration
from seqstream.testing.expectations import through_json
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.rank_corpora import letters
from tests.helpers.states import with_entry

LINES = [f"line {number} " + "word " * (number * 7 % 23) for number in range(800)]
SHAPED = ss.Bucket(600, shapes=3, window_batches=80)


def make(spec: Any = SHAPED, **options: Any) -> ss.Loader:
    """Make a loader of lines whose letters are ids."""
    return ss.Loader(ss.Generator(LINES, block_bytes=600), ss.Tokenize(letters, max_length=200), spec, **options)


def rows_of(loader: ss.Loader) -> list[list[int]]:
    """Return the row ids of each batch."""
    return [batch.row_ids.tolist() for batch in loader]


class Held:
    """A method in which the thread that builds windows waits until it may go on; other threads run it at once."""

    def __init__(self, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_waiting = threading.Event()
        self.may_go_on = threading.Event()
        method = getattr(owner, name)

        def run(*args: Any, **options: Any) -> Any:
            if threading.current_thread().name == "seqstream-windows":
                self.is_waiting.set()
                assert self.may_go_on.wait(60)
            return method(*args, **options)

        monkeypatch.setattr(owner, name, run)


LEARNING = {"engines": (ss.Tokenize, "choose_engines"), "shapes": (ss.Bucket, "fitted")}
"""What the thread that builds windows learns, and where it does."""

QUESTIONS: dict[str, Callable[[ss.Loader], Any]] = {
    "estimate_steps": lambda loader: loader.estimate_steps(),
    "count_steps": lambda loader: loader.count_steps(),
    "shapes": lambda loader: loader.shapes(),
    "worst_batch": lambda loader: tuple(loader.worst_batch().input_ids.shape),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("learned", LEARNING)
def test_questions_while_a_thread_learns(learned: str, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is that of an idle loader, and changes nothing: neither the state nor the batches that follow."""
    expected, answer = rows_of(make()), QUESTIONS[question](make())
    held = Held(*LEARNING[learned], monkeypatch)
    loader = make()
    batches = iter(loader)
    assert held.is_waiting.wait(60)
    before = loader.state_dict()
    assert QUESTIONS[question](loader) == answer
    assert loader.state_dict() == before
    held.may_go_on.set()
    assert [batch.row_ids.tolist() for batch in batches] == expected


def test_a_progress_bar_while_an_older_thread_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new iteration does not depend on the thread of the one before, which is still at work."""
    monkeypatch.setattr(prefetch, "JOIN_SECONDS", 0.01)
    whole = make()
    expected = rows_of(whole)
    held = Held(*LEARNING["shapes"], monkeypatch)
    loader = make(progress=True)
    older = iter(loader)
    assert held.is_waiting.wait(60)
    newer = iter(loader)  # estimates the steps, while the thread of the older one waits
    held.may_go_on.set()
    assert [batch.row_ids.tolist() for batch in newer] == expected
    assert loader.state_dict() == whole.state_dict()
    with pytest.raises(RuntimeError, match="a newer one has begun on this loader"):
        next(older)


def test_what_the_first_window_decides_is_in_every_state() -> None:
    """Engines, shapes and the size of a full window are there from the first batch on, and stay."""
    loader = make(epochs=2)
    assert loader.state_dict()["calibration"] == {"engines": {}, "shapes": None, "full_bytes": None, "world_size": 0}
    first, *others = loader
    found = first.state["calibration"]
    assert found["engines"] == {"input_ids": "function"}
    assert len(found["shapes"]) == 3
    assert found["full_bytes"] > 0
    assert found["world_size"] == 1
    assert all(batch.state["calibration"] == found for batch in others)
    assert loader.state_dict()["calibration"] == found


@pytest.mark.parametrize("spec", [SHAPED, ss.Bucket(600, window_batches=4)], ids=repr)
def test_a_later_epoch_is_the_same_with_what_a_state_knows(spec: Any) -> None:
    """Whether the size of a full window is in the state, or is learned again."""
    batches = list(make(spec, epochs=2))
    state = next(batch.state for batch in batches[len(batches) // 3 :])
    for changed in (state, with_entry(state, "calibration.full_bytes", None)):
        loader = make(spec, epochs=2)
        loader.load_state_dict(through_json(changed))
        found = rows_of(loader)
        assert found == [batch.row_ids.tolist() for batch in batches][-len(found) :]


def test_other_ranks_learn_their_own_window_size() -> None:
    """A full window of two ranks holds more than that of one, so its size in a state of one rank is not used."""
    spec = ss.Bucket(600, window_batches=4)
    state = next(iter(make(spec, epochs=2))).state

    def go_on(options: Options, state: dict[str, Any]) -> list[list[int]]:
        loader = make(spec, epochs=2, **options)
        loader.load_state_dict(state)
        return rows_of(loader)

    known = run_ranks(2, lambda options: go_on(options, state))
    unknown = run_ranks(2, lambda options: go_on(options, with_entry(state, "calibration.full_bytes", None)))
    assert known == unknown


def test_a_calibration_never_changes() -> None:
    """What a state knows gives a new one; what it does not know stays."""
    own = Calibration({"input_ids": "tokenizers"}, ((2, 3),), 100, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        own.full_bytes = 3  # type: ignore[misc]
    assert own.updated(Calibration()) == own
    saved = Calibration({"input_ids": "gigatoken"}, None, 300, 4)
    assert own.updated(saved) == Calibration({"input_ids": "gigatoken"}, ((2, 3),), 300, 4)
    assert (own.full_bytes_on(1), own.full_bytes_on(2)) == (100, None)


def test_a_spec_is_fitted_by_shapes_alone() -> None:
    """Specs without shapes stay as they are; given shapes are known from the beginning."""
    assert Calibration.of(ss.Bucket(shapes=[(2, 9), (1, 20)])).shapes == ((2, 9), (1, 20))
    for spec in (ss.Bucket(100), ss.Bucket(100, shapes=2), ss.Pack(10, rows=2), ss.Unbucketed(3)):
        assert Calibration.of(spec).shapes is None
        assert Calibration().fit(spec) is spec
    assert Calibration(shapes=((1, 5),)).fit(ss.Bucket(100, shapes=2)) == ss.Bucket(100, shapes=[(1, 5)])
