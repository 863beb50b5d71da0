"""Results of a function come in source order, once for each record, whatever the batches, and go on after a kill."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import runpy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor

import seqstream as ss
from seqstream.testing.rank_threads import Options, run_ranks
from tests.helpers.forked import Program

ROWS = [[number + 1] * (number * 7 % 13 + 1) for number in range(60)]
SPECS = {
    "bucket": ss.Bucket(40, window_batches=3),
    "batch size": ss.Bucket(batch_size=7, window_batches=2),
    "fixed shapes": ss.Bucket(max_tokens=40, shapes=[(5, 8), (3, 13)], window_batches=3),
    "unbucketed": ss.Unbucketed(8, window_batches=2),
    "pack": ss.Pack(16, rows=3, window_batches=2, causal=False),
}


def loader_of(spec: Any = SPECS["bucket"], rows: Any = ROWS, **options: Any) -> ss.Loader:
    """Make a loader of small blocks, so that there are several windows."""
    return ss.Loader(ss.Generator(rows, block_bytes=256), spec, shuffle=False, **options)


def lengths_of(batch: ss.Batch) -> Tensor:
    """Return one value for each row, or for each sequence of packed rows."""
    return batch.lengths if batch.layout.packing is None else batch.layout.packing.lengths


def tripled(batch: ss.Batch) -> Tensor:
    """Return a value for each token."""
    return batch.input_ids * 3


def order_of(record: dict[str, Any]) -> tuple[int, int]:
    return record["row_id"], record["piece"]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_results_are_in_source_order(spec: Any) -> None:
    """Each record once, with its own result, of rows and of tokens."""
    found = list(ss.predict(lengths_of, loader_of(spec)))
    assert [record for record, _ in found] == [{"row_id": number, "piece": 0} for number in range(len(ROWS))]
    assert [int(length) for _, length in found] == [len(row) for row in ROWS]
    tokens = [result.tolist() for _, result in ss.predict(tripled, loader_of(spec), per_token=True)]
    assert tokens == [[3 * token for token in row] for row in ROWS]


@pytest.mark.parametrize("options", [{"padding_side": "left"}, {"layout": "jagged"}, {"prefetch": 0}], ids=str)
def test_tokens_have_no_padding(options: Any) -> None:
    """Whatever the side of padding, and for flat results as for padded ones."""
    flat = ss.predict(lambda batch: batch.flat() * 3, loader_of(**options), per_token=True)
    padded = ss.predict(tripled, loader_of(**options), per_token=True)
    for row, (_, one), (_, other) in zip(ROWS, flat, padded, strict=True):
        assert one.tolist() == other.tolist() == [3 * token for token in row]


def test_results_keep_their_form() -> None:
    """Dicts, tuples, arrays, lists and parts of them; only those that are named are cut."""

    def function(batch: ss.Batch) -> dict[str, Any]:
        ids = batch.input_ids
        return {
            "states": ids,
            "sums": (batch.lengths, batch.lengths.numpy() * 2),
            "names": [str(row) for row in ids[:, 0].tolist()],
        }

    for number, (_, result) in enumerate(ss.predict(function, loader_of(), per_token=["states"])):
        assert list(result) == ["states", "sums", "names"]
        assert result["states"].tolist() == ROWS[number]
        assert [int(each) for each in result["sums"]] == [len(ROWS[number]), 2 * len(ROWS[number])]
        assert result["names"] == str(number + 1)
    pairs = ss.predict(lambda batch: (batch.lengths, batch.input_ids), loader_of(), per_token=[1])
    assert [(int(length), len(ids)) for _, (length, ids) in pairs] == [(len(row), len(row)) for row in ROWS]


def test_records_have_the_columns_of_a_value(bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    """Columns beside the text, as Python values where they are single; long records come in pieces, each with its number."""
    rows = [{"text": text, "name": f"n{number}", "label": number % 3} for number, text in enumerate(texts[:300])]
    stages = ss.Tokenize(bpe_tokenizer, max_length=8, overflow="split"), ss.Bucket(128, window_batches=2)
    loader = ss.Loader(ss.Generator(rows), *stages, shuffle=False)
    found = list(ss.predict(tripled, loader, per_token=True))
    assert [order_of(record) for record, _ in found] == sorted({order_of(record) for record, _ in found})
    for number, group in itertools.groupby(found, key=lambda pair: pair[0]["row_id"]):
        pieces = list(group)
        assert [record["piece"] for record, _ in pieces] == list(range(len(pieces)))
        assert {(record["name"], record["label"]) for record, _ in pieces} == {(f"n{number}", number % 3)}
        assert [token // 3 for _, ids in pieces for token in ids.tolist()] == bpe_tokenizer.encode(texts[number]).ids
        assert loader.source.record(number)["text"] == texts[number]


def test_results_are_ordinary_tensors_with_memory_of_their_own() -> None:
    """No gradient is recorded in the function, a result can be learned from, and no part of a larger tensor is kept."""
    states: list[weakref.ref[Tensor]] = []

    def first_states(batch: ss.Batch) -> Tensor:
        assert torch.is_inference_mode_enabled()
        whole = torch.ones(*batch.input_ids.shape, 64)
        states.append(weakref.ref(whole))
        return whole[:, 0]

    weight = torch.ones(64, requires_grad=True)
    predictions = iter(ss.predict(first_states, loader_of()))
    (weight * next(predictions)[1]).sum().backward()
    assert not torch.is_inference_mode_enabled()
    gc.collect()
    assert len(states) > 2
    assert all(state() is None for state in states[:-1])
    assert next(predictions)[1].untyped_storage().nbytes() < 64 * 4 * len(ROWS) / 2


def test_one_window_is_held_at_a_time() -> None:
    """The function has run for no more than one window and a batch when the first result is there."""
    windows: list[int] = []
    held: list[weakref.ref[Tensor]] = []

    def function(batch: ss.Batch) -> Tensor:
        windows.append(batch.window)
        held.append(weakref.ref(batch.lengths))
        return batch.lengths

    rows = iter(ss.predict(function, loader_of(prefetch=0)))
    next(rows)
    assert len(set(windows)) == 1
    assert sum(1 for _ in rows) == len(ROWS) - 1
    assert len(set(windows)) > 3


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(SPECS)), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_resuming_after_any_record(spec: str, stops: list[int]) -> None:
    """Stopped after some records, again and again, in new loaders: together each record once, with the same result."""
    found: list[Any] = []
    state: Any = None
    for stop in [*stops, None]:
        predictions = ss.predict(tripled, loader_of(SPECS[spec]), per_token=True)
        if state is not None:
            predictions.load_state_dict(state)
        assert stop is None or through_json(predictions.state_dict()) is not None
        for record, result in itertools.islice(predictions, stop):
            found.append((record["row_id"], result.tolist()))
        state = through_json(predictions.state_dict())
    assert found == [(number, [3 * token for token in row]) for number, row in enumerate(ROWS)]


def test_batches_are_the_same_after_resuming() -> None:
    """A result may depend on the other rows of its batch; batches of which all was yielded are not computed again."""
    calls: list[tuple[int, ...]] = []

    def function(batch: ss.Batch) -> list[tuple[int, ...]]:
        calls.append(tuple(batch.row_ids.tolist()))
        return [calls[-1]] * batch.num_rows

    whole = list(ss.predict(function, loader_of()))
    for stop in range(1, len(ROWS) + 1, 7):
        predictions = ss.predict(function, loader_of())
        first = list(itertools.islice(predictions, stop))
        other = ss.predict(function, loader_of())
        other.load_state_dict(through_json(predictions.state_dict()))
        calls.clear()
        assert first + list(other) == whole
        assert all(max(call) >= stop for call in calls)


def test_the_end_is_kept_and_iterating_again_begins_anew() -> None:
    """After the last record a state resumes to nothing, and calls no function; the same object gives all of them again."""
    predictions = ss.predict(lengths_of, loader_of())
    assert [len(list(predictions)), len(list(predictions))] == [len(ROWS)] * 2
    other = ss.predict(lambda _: pytest.fail("it was called"), loader_of())
    other.load_state_dict(predictions.state_dict())
    assert list(other) == []
    halfway = ss.predict(lengths_of, loader_of())
    assert len(list(itertools.islice(halfway, 20))) == 20
    assert len(list(halfway)) == len(ROWS)


def test_an_older_iterator_does_not_move_the_position() -> None:
    """It raises where a newer one has begun or a state was loaded, also in the middle of a window."""
    predictions = ss.predict(lengths_of, loader_of())
    older = iter(predictions)
    next(older)
    state = predictions.state_dict()
    next(older)
    predictions.load_state_dict(state)
    with pytest.raises(RuntimeError, match="this iterator cannot go on, a newer one has begun or a state was loaded since"):
        next(older)
    assert [record["row_id"] for record, _ in predictions] == list(range(1, len(ROWS)))


KILLED = """
import json, os, pathlib, signal, sys
import seqstream as ss
import torch
folder, stop = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
embedding = torch.nn.EmbeddingBag(1000, 16)
loader = ss.Loader(folder + "/texts.txt", ss.Tokenize(folder + "/tokenizer.json", max_length=32),
                   ss.Bucket(256, window_batches=3), shuffle=False)
predictions = ss.predict(lambda batch: embedding(batch.input_ids), loader)
saved = folder + "/state.json"
if os.path.exists(saved):
    predictions.load_state_dict(json.loads(pathlib.Path(saved).read_text()))
with open(folder + "/out", "a") as out:
    for number, (record, result) in enumerate(predictions):
        out.write(json.dumps([record["row_id"], result.tolist()]) + "\\n")
        out.flush()
        with open(saved + ".part", "w") as part:
            json.dump(predictions.state_dict(), part)
        os.replace(saved + ".part", saved)
        if number == stop:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_goes_on(
    tmp_path: Path, bpe_tokenizer: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, it has written what one run writes that is left alone, to the last bit."""
    program = tmp_path / "predict.py"
    program.write_text(KILLED)
    written = []
    for name in ("killed", "alone"):
        folder = tmp_path / name
        folder.mkdir()
        bpe_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts[:400]))
        for stop in (30, 157) if name == "killed" else ():
            with Program(program, [str(folder), str(stop)], cwd=folder) as process:
                assert process.wait().returncode == -9
        monkeypatch.setattr("sys.argv", [str(program), str(folder), "-1"])
        runpy.run_path(str(program), run_name="__main__")
        written.append((folder / "out").read_text())
    assert written[0] == written[1]
    assert written[0].count("\n") == 400


def on_ranks(
    world_size: int, take: Callable[[int], int | None], states: list[Any] | None = None
) -> list[tuple[list[Any], Any]]:
    """Predict on ranks, each of which takes some records; return these, and the state of each."""

    def job(options: Options) -> tuple[list[Any], Any]:
        predictions = ss.predict(tripled, loader_of(ss.Bucket(40, window_batches=1), **options), per_token=True)
        rank = options["rank"]
        if states is not None:
            predictions.load_state_dict(through_json(states[rank]))
        rows: list[Any] = []
        number, state = take(rank), predictions.state_dict()
        for record, result in predictions:
            if number is None or len(rows) < number:
                rows.append((record["row_id"], result.tolist()))
                state = predictions.state_dict()
        return rows, state

    return run_ranks(world_size, job)


def test_ranks_yield_their_own_records_in_order() -> None:
    """Each has its part in source order, together they have each record once; killed a window apart, they go on."""
    whole = [rows for rows, _ in on_ranks(3, lambda _: None)]
    assert all(rows == sorted(rows) for rows in whole)
    assert sorted(itertools.chain(*whole)) == [(number, [3 * token for token in row]) for number, row in enumerate(ROWS)]
    taken = {0: 0, 1: 4, 2: 9}
    first = on_ranks(3, taken.__getitem__)
    rest = on_ranks(3, lambda _: None, [state for _, state in first])
    assert [one + other for (one, _), (other, _) in zip(first, rest, strict=True)] == whole
    assert first[1][1]["loader"]["position"] != first[2][1]["loader"]["position"]
    swapped = [state for _, state in reversed(first)]
    with pytest.raises(
        ValueError, match="state was saved by rank 2 of 3, and is loaded by rank 0 of 3; load on each rank the state"
    ):
        on_ranks(3, lambda _: None, swapped)


@pytest.mark.parametrize(
    ("function", "per_token", "error", "message"),
    [
        (
            lambda _: None,
            False,
            TypeError,
            "a list of one value for each row, or a dict or tuple of these, got NoneType for result$",
        ),
        (lambda batch: batch.lengths.sum(), False, TypeError, "got Tensor for result$"),
        (lambda _: "word", False, TypeError, "got str for result$"),
        (lambda _: {"a": torch.ones(1, 2)}, False, ValueError, r"each of the \d+ rows, got shape \(1, 2\) for result\['a'\]$"),
        (lambda _: [1], False, ValueError, r"^function must return one value for each of the \d+ rows, got 1 for result$"),
        (
            tripled,
            False,
            ValueError,
            r"^result of function must have one value for each row, got one for each token: its second",
        ),
        (tripled, ["a"], ValueError, r"^per_token must be True or False for one result, got \['a'\] for a Tensor$"),
        (lambda batch: {"b": batch.lengths}, ["a"], ValueError, "^per_token must name results of 'b', got 'a'$"),
        (lambda batch: batch.lengths, True, ValueError, r"^input_ids must be padded \(\d+, \d+\) or flat"),
    ],
)
def test_results_without_rows_are_refused(function: Any, per_token: Any, error: Any, message: str) -> None:
    """What does not have one value for each row is an error that has the shapes and the remedy."""
    with pytest.raises(error, match=message):
        list(ss.predict(function, loader_of(), per_token=per_token))


def test_a_loader_that_shuffles_is_refused() -> None:
    """So is one of several epochs, of a mixture, or something else; and a state of something else."""
    source = ss.Generator(ROWS)
    loader = ss.Loader(source, SPECS["bucket"])
    with pytest.raises(ValueError, match="loader must have shuffle=False, so that its windows are in source order"):
        ss.predict(lengths_of, loader)
    with pytest.raises(ValueError, match="loader must have epochs=1, so that each record has one result, got epochs=2"):
        ss.predict(lengths_of, loader_of(epochs=2))
    mixture = ss.Mixture({"a": source, "b": ss.Generator(list(ROWS))}, weights={"a": 1, "b": 1})
    with pytest.raises(ValueError, match="loader must not have a Mixture"):
        ss.predict(lengths_of, ss.Loader(mixture, SPECS["bucket"], shuffle=False))
    with pytest.raises(TypeError, match=r"loader must be a seqstream.Loader, got list; pass predict\(function, Loader"):
        ss.predict(lengths_of, ROWS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="function must be a function of a batch, got Loader"):
        ss.predict(loader, lengths_of)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="per_token must be True, False or a list of names of results, got 'logits'"):
        ss.predict(lengths_of, loader_of(), per_token="logits")
    predictions = ss.predict(lengths_of, loader_of())
    with pytest.raises(ValueError, match=r"^state must be what state_dict\(\) of predict returned, got one without after"):
        predictions.load_state_dict(loader.state_dict())
    with pytest.raises(TypeError, match="state must be the dict"):
        predictions.load_state_dict([])  # type: ignore[arg-type]
    state = predictions.state_dict()
    with pytest.raises(ValueError, match="state must be of version 1, got 2"):
        predictions.load_state_dict({**state, "version": 2})
    other = ss.predict(lengths_of, loader_of(ss.Bucket(50)))
    with pytest.raises(ValueError, match="state was saved for batches"):
        other.load_state_dict(copy.deepcopy(state))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_results_on_a_device_are_copied_to_the_cpu() -> None:
    """They are those of the CPU, whole when the first is yielded, of rows and of tokens, columns of numbers too."""
    rows = [{"input_ids": row, "label": number % 3} for number, row in enumerate(ROWS)]

    def function(batch: ss.Batch) -> dict[str, Tensor]:
        states = torch.nn.functional.one_hot(batch.input_ids, 64).cumsum(1)
        return {"states": states, "last": states[:, -1]}

    for spec in (SPECS["bucket"], SPECS["unbucketed"]):
        one, other = (
            ss.predict(function, loader_of(spec, rows, device=device), per_token=["states"]) for device in ("cuda", "cpu")
        )
        for (record, result), (same_record, expected) in zip(one, other, strict=True):
            assert record == same_record
            assert all(result[name].is_cpu and torch.equal(result[name], expected[name]) for name in expected)


def test_numpy_results_are_copied() -> None:
    """An array that the function fills again and again does not change what was yielded."""
    buffer = np.zeros(64)

    def function(batch: ss.Batch) -> Any:
        buffer[: batch.num_rows] = batch.lengths
        return buffer[: batch.num_rows]

    assert [int(length) for _, length in ss.predict(function, loader_of())] == [len(row) for row in ROWS]
