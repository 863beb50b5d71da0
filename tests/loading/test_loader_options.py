"""Options of a loader: of what kind they must be, what becomes of numbers of NumPy, and what a state keeps of them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seqstream as ss
from tests.helpers.rank_corpora import letters
from tests.helpers.states import with_entry


def loader_of(**options: Any) -> ss.Loader:
    """Make a loader of a few rows."""
    return ss.Loader(ss.Generator([[1], [2, 3], [4]]), ss.Unbucketed(1), **options)


@pytest.mark.parametrize(
    ("name", "value", "kind", "rule"),
    [
        ("seed", [1], TypeError, "a whole number"),
        ("seed", (1, 2), TypeError, "a whole number"),
        ("seed", 1.0, TypeError, "a whole number"),
        ("seed", True, TypeError, "a whole number"),
        ("seed", None, TypeError, "a whole number"),
        ("epochs", {}, TypeError, "a positive number or None for no end"),
        ("epochs", 1.5, TypeError, "a positive number or None for no end"),
        ("epochs", np.int64(0), ValueError, "a positive number or None for no end"),
        ("accumulate", "2", TypeError, "a positive whole number"),
        ("accumulate", 0, ValueError, "a positive whole number"),
        ("num_workers", "2", TypeError, "0 or more processes"),
        ("workers", "2", TypeError, "0 or more processes"),
        ("workers", -1, ValueError, "0 or more processes"),
        ("prefetch", "2", TypeError, "0 or more batches"),
        ("prefetch", np.float64(2), TypeError, "0 or more batches"),
        ("shuffle", "yes", TypeError, "True or False"),
        ("shuffle", 1, TypeError, "True or False"),
        ("progress", "no", TypeError, "True or False"),
        ("pin_memory", 1, TypeError, "True or False"),
        ("on_batch", 3, TypeError, "a function"),
        ("all_gather", [], TypeError, "a function"),
        ("pad_values", [1], TypeError, "a dict such as"),
        ("pad_values", {"input_ids": "0"}, TypeError, "numbers by the names of columns"),
        ("padding_side", 1, ValueError, "one of None, 'right', 'left'"),
        ("layout", ["padded"], ValueError, "one of 'padded', 'jagged'"),
        ("uneven", None, ValueError, "one of 'repeat', 'drop'"),
        ("device", "gpu", ValueError, "a torch.device or its name"),
        ("device", [0], ValueError, "a torch.device or its name"),
    ],
)
def test_an_option_of_another_kind_is_named(name: str, value: Any, kind: type[Exception], rule: str) -> None:
    """When the loader is made, with what it must be and what it is."""
    with pytest.raises(kind, match=rf"^{name} must be {rule}.*, got "):
        loader_of(**{name: value})


def test_ranks_are_numbers() -> None:
    """Also those given by hand."""
    with pytest.raises(TypeError, match=r"^rank must be a whole number, got '0'$"):
        loader_of(rank="0", world_size=1)
    assert len(list(loader_of(rank=np.int64(0), world_size=np.int32(1)))) == 3


def test_numbers_of_numpy_are_ints_in_a_state(tmp_path: Path) -> None:
    """JSON takes the state, and ``torch.load`` the checkpoint that it is in."""
    loader = loader_of(
        seed=np.int64(7), epochs=np.int32(2), accumulate=np.uint8(1), prefetch=np.int64(1), shuffle=np.bool_(True)
    )
    loader.set_epoch(np.int64(3))
    next(iter(loader))
    state = loader.state_dict()
    numbers = state["seed"], state["position"]["epoch"], state["position"]["until"]
    assert numbers == (7, 3, 5)
    assert {type(number) for number in numbers} == {int}
    assert json.loads(json.dumps(state)) == state
    torch.save(state, tmp_path / "step.pt")
    other = loader_of(seed=7, epochs=2)
    other.load_state_dict(torch.load(tmp_path / "step.pt"))
    for epoch in (-1, 1.0, True, "1"):
        with pytest.raises((TypeError, ValueError), match=rf"^epoch must be 0 or more, got {epoch!r}$"):
            loader.set_epoch(epoch)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_state_is_the_loaders_own(prefetch: int) -> None:
    """What a function or the user does to the state of a batch is nothing to the loader, nor to the batches that follow."""

    def spoil(batch: ss.Batch) -> ss.Batch:
        batch.state["position"]["window"]["cursor"]["source"].append("spoiled")
        batch.state.clear()
        return batch

    expected = [batch.state for batch in loader_of(prefetch=prefetch)]
    loader = loader_of(prefetch=prefetch, on_batch=spoil)
    for batch, state in zip(loader, expected, strict=True):
        assert batch.state == {}
        assert loader.state_dict() == state
        loader.state_dict()["position"]["window"]["cursor"]["source"].append("spoiled")
        assert loader.state_dict() == state


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "position.window.cursor.position",
            10**6,
            r"position\.window\.cursor\.position of the state must be at most the \d+ shards, got 1,000,000",
        ),
        (
            "position.window.cursor.source",
            [[10**6, 5, 1]],
            r"position\.window\.cursor\.source of the state must be different shards of \d+, got \[1000000\]",
        ),
        (
            "position.window.cursor.source",
            [[0, 5, 1]],
            r"position\.window\.cursor\.source of the state must be shards of several blocks, which are begun, got \[0\]",
        ),
        (
            "calibration.engines",
            {"nope": "x"},
            r"calibration\.engines of the state must name one of each of \['input_ids'\], got \{'nope': 'x'\}",
        ),
        (
            "calibration.engines",
            {"input_ids": "x"},
            r"calibration\.engines of the state must name one of each of \['input_ids'\]",
        ),
        (
            "calibration.shapes",
            [[3, 40]],
            r"calibration\.shapes of the state must be None for Bucket\(max_tokens=500, window_bat.*\), got \[\[3, 40\]\]",
        ),
    ],
)
def test_a_state_that_this_loader_cannot_have(name: str, value: Any, message: str, tmp_path: Path) -> None:
    """Is refused when it is loaded, by the entry."""
    (tmp_path / "a.txt").write_text("\n".join(f"line {number}" for number in range(400)))
    source = ss.TextFiles(tmp_path / "a.txt", block_bytes=400)
    loader = ss.Loader(source, ss.Tokenize(letters, max_length=60), ss.Bucket(500, window_batches=4))
    state = next(iter(loader)).state
    with pytest.raises(ValueError, match=f"^{message}"):
        loader.load_state_dict(with_entry(state, name, value))


@pytest.mark.parametrize("name", ["served", "skip"])
def test_more_rows_than_there_are(name: str) -> None:
    """A state that counts more rows than a window has is refused as soon as that is known."""
    make = [[1, 2, 3]] * 60
    loader = ss.Loader(ss.Generator(make, block_bytes=64), ss.Bucket(batch_size=4, window_batches=4))
    state = next(iter(loader)).state
    loader.load_state_dict(with_entry(state, f"position.window.{name}", 10**6))
    with pytest.raises(ValueError, match=r"^source must still have the 1,000,000 rows .*; the data has changed$"):
        list(loader)


@pytest.mark.parametrize("name", ["weights", "lengths", "mask", "layout", "state", "window", "flat", "num_tokens"])
def test_a_column_called_as_a_part_of_a_batch(name: str) -> None:
    """Is warned of, once, and is had as an item; the attribute is the batch's own."""
    rows = [{"input_ids": [1] * (1 + number % 3), name: 0.25} for number in range(6)]
    loader = ss.Loader(ss.Generator(rows), ss.Unbucketed(2), shuffle=False)
    with pytest.warns(UserWarning, match=rf"^column '{name}' is batch\['{name}'\] only, batch\.{name} is what every") as caught:
        batches = list(loader)
    assert len(caught) == 1
    for batch in batches:
        assert batch[name].tolist() == [0.25, 0.25]
        assert batch.mask.dtype == torch.bool
        assert batch["attention_mask"].sum(1).tolist() == batch.lengths.tolist()
        assert batch.weights.tolist() == [1.0, 1.0]


OPTIONS: dict[str, Any] = {
    "source": ss.Generator([[1]]),
    "stages": (),
    "seed": 3,
    "shuffle": False,
    "epochs": None,
    "accumulate": 2,
    "num_workers": 1,
    "multiprocessing_context": "spawn",
    "executor": None,
    "cache": "cache",
    "cache_bytes": 1,
    "prefetch": 0,
    "device": "cpu",
    "pin_memory": True,
    "on_batch": None,
    "pad_values": {},
    "padding_side": "left",
    "layout": "jagged",
    "progress": True,
    "rank": 0,
    "world_size": 1,
    "all_gather": None,
    "uneven": "drop",
}


def test_options_cannot_be_changed() -> None:
    """A state must name the options that made the batches, so those of a loader stay; the error says what to do."""
    loader = loader_of()
    expected = [batch.row_ids.tolist() for batch in loader_of()]
    state = loader.state_dict()
    for name, value in OPTIONS.items():
        before = getattr(loader, name)
        with pytest.raises(
            AttributeError, match=rf"^{name} of a Loader cannot be changed; make a new Loader\({name}=\.\.\.\)$"
        ):
            setattr(loader, name, value)
        with pytest.raises(AttributeError, match=rf"^{name} of a Loader cannot be deleted"):
            delattr(loader, name)
        assert getattr(loader, name) is before
    assert {*OPTIONS} == {*inspect.signature(ss.Loader).parameters} - {"workers"}
    assert loader.state_dict() == state
    assert [batch.row_ids.tolist() for batch in loader] == expected


def test_options_can_be_read() -> None:
    """As they are used, whatever they were given as."""
    loader = loader_of(seed=np.int64(3), workers=1, device="cpu", shuffle=np.bool_(False), pad_values={"x": 1})
    assert (loader.seed, loader.num_workers, loader.shuffle) == (3, 1, False)
    assert loader.device == torch.device("cpu")
    assert loader.pad_values == {"x": 1}
    assert loader.stages == (ss.Unbucketed(1),)
    assert loader.world_size is None
