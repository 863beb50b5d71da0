"""Loaders in accelerate: in one process, and on two ranks started by torchrun."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from tokenizers import Tokenizer

from seqstream.accelerate import StreamAccelerator
from tests.frameworks.accelerate_on_ranks import ACCUMULATED, STOPS, train, train_again
from tests.frameworks.steps_by_hand import LEARNING_RATE, loss_of_words, make_words, train_by_hand, weights
from tests.frameworks.streams import make_loader, write_corpus
from tests.helpers.examples import keep_part
from tests.helpers.forked import ROOT, run_ranks


@pytest.fixture
def folder(tmp_path: Path, texts: list[str], bpe_tokenizer: Tokenizer) -> Path:
    write_corpus(tmp_path, texts[:400], bpe_tokenizer)
    return tmp_path


def test_prepare_leaves_a_loader_alone(folder: Path) -> None:
    """What comes back is the loader itself."""
    loader = make_loader(folder)
    assert Accelerator(cpu=True).prepare(loader) is loader


def test_save_state_keeps_the_place(folder: Path) -> None:
    """A registered loader is saved with the rest, and a new one goes on with exactly the next batch."""
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(make_loader(folder))
    accelerator.register_for_checkpointing(loader)
    batches = iter(loader)
    for _ in itertools.islice(batches, 7):
        pass
    accelerator.save_state(str(folder / "state"))
    expected = list(batches)
    other = Accelerator(cpu=True)
    resumed = other.prepare(make_loader(folder))
    other.register_for_checkpointing(resumed)
    other.load_state(str(folder / "state"))
    got = list(resumed)
    assert len(got) == len(expected) > 7
    assert all(torch.equal(one.input_ids, another.input_ids) for one, another in zip(got, expected, strict=True))


def test_reading_ahead_does_not_shift_the_place(folder: Path) -> None:
    """Where a loop holds a batch that it has read ahead, the state of the batch in use goes on with the one that is held."""
    batches = iter(make_loader(folder))
    held = next(batches)
    for _ in range(5):
        batch, held = held, next(batches)
    resumed = make_loader(folder)
    resumed.load_state_dict(json.loads(json.dumps(batch.state)))
    assert torch.equal(next(iter(resumed)).row_ids, held.row_ids)


def test_a_batch_is_gathered_and_moved(folder: Path) -> None:
    """Functions of accelerate that take what they are given apart make a dict of a batch, and ``to`` keeps it a batch."""
    accelerator = Accelerator(cpu=True)
    batch = next(iter(make_loader(folder)))
    padded = accelerator.pad_across_processes(batch, dim=1)
    assert type(padded) is dict
    assert set(padded) == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(padded["input_ids"], batch.input_ids)
    moved = send_to_device(batch, accelerator.device)
    assert type(moved) is type(batch)
    assert moved.state == batch.state


def check_evaluated(folder: Path, seen: dict[str, Any]) -> None:
    """The loss is the mean over all labels, and predictions are those of each row, in the order of the source."""
    model = make_words()
    torch.nn.utils.vector_to_parameters(torch.tensor(seen["weights"], dtype=torch.double), model.parameters())
    with torch.inference_mode():
        losses = [
            (loss_of_words(model, batch.input_ids, batch.labels).item(), batch.num_label_tokens)
            for batch in make_loader(folder)
        ]
    assert seen["evaluated"] == pytest.approx(sum(loss for loss, _ in losses) / sum(count for _, count in losses), abs=1e-12)
    lengths = {
        row: length
        for batch in make_loader(folder)
        for row, length in zip(batch.row_ids.tolist(), batch.lengths.tolist(), strict=True)
    }
    assert list(map(tuple, seen["predicted"])) == sorted(lengths.items())


def check_trained(folder: Path, seen: dict[str, Any], steps: list[list[int]]) -> None:
    """The weights are those of one backward for each step over all its rows, and a run that went on has the same."""
    assert len(steps) == seen["num_steps"] > 4
    assert seen["weights"] == pytest.approx(train_by_hand(folder, make_words(), steps), abs=1e-12)
    check_evaluated(folder, seen)
    for stop, batches in STOPS.items():
        assert seen[stop]["losses"][1:] == pytest.approx(seen["losses"][batches // ACCUMULATED + 1 :], abs=1e-12)
        assert seen[stop]["weights"] == pytest.approx(seen["weights"], abs=1e-12)
        assert seen[stop]["steps"][1:] == seen["steps"][batches // ACCUMULATED + 1 :]


def test_steps_are_those_of_their_unions(folder: Path) -> None:
    """Each optimiser step is of all batches that were planned for it, also where a run goes on inside of one."""
    seen = train_again(folder)
    check_trained(folder, seen, seen["steps"])


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    """Batches that accelerate counts, and a loader without end to evaluate on."""
    accelerator, batch = StreamAccelerator(cpu=True, gradient_accumulation_steps=2), next(iter(make_loader(folder)))
    message = r"^gradient_accumulation_steps must be 1, got 2: .* write Loader\(accumulate=2\)$"
    with pytest.raises(ValueError, match=message), accelerator.accumulate(batch=batch):
        pass
    with pytest.raises(ValueError, match=r"^a loader to evaluate on must have epochs=1, got None"):
        accelerator.predict(len, make_loader(folder, epochs=None))


def test_without_a_batch_it_is_an_accelerator(folder: Path) -> None:
    """It counts batches and divides losses as accelerate does."""
    accelerator = StreamAccelerator(cpu=True, gradient_accumulation_steps=2)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    for expected in (False, True):
        with accelerator.accumulate(model):
            assert accelerator.backward(model(torch.ones(1, 1)).sum()) is None
            assert accelerator.sync_gradients == expected
    assert model.weight.grad.item() == 1


def test_accelerate_counts_to_the_same(folder: Path) -> None:
    """Where each step has as many batches, ``accumulate`` steps where one ends; it divides losses by their number."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model = make_words()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE))
    for batch in make_loader(folder, accumulate=ACCUMULATED):
        with accelerator.accumulate(model):
            loss = loss_of_words(model, batch.input_ids, batch.labels, batch.step_num_label_tokens)
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)
            assert accelerator.sync_gradients == batch.is_step_end
            optimizer.step()
            optimizer.zero_grad()
    assert weights(model) == pytest.approx(train(folder)["weights"], abs=1e-12)


def test_two_ranks(folder: Path, texts: list[str], bpe_tokenizer: Tokenizer) -> None:
    """Ranks gather each record once, in batches of one size, and the example goes on exactly on both.

    Where a rank has no row of its own in a step, the step is of those of the other.
    """
    (folder / "few").mkdir()
    write_corpus(folder / "few", texts[:9], bpe_tokenizer)
    cache = keep_part(folder, 4_000)
    script = ROOT / "tests" / "frameworks" / "accelerate_on_ranks.py"
    printed = run_ranks(script, str(folder), ranks=2, XDG_CACHE_HOME=str(cache))
    seen = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    steps = [one + other for one, other in zip(*(each["trained"]["steps"] for each in seen), strict=True)]
    for each in seen:
        check_trained(folder, each["trained"], steps)
    few = [one + other for one, other in zip(*(each["few"]["steps"] for each in seen), strict=True)]
    assert list(map(len, few)) == [8, 1]
    for each in seen:
        expected = train_by_hand(folder / "few", make_words(), few)
        assert each["few"]["weights"] == pytest.approx(expected, abs=1e-12)
    first, second = (each["epoch"] for each in seen)
    assert first == second
    rows = sorted(row for ids, _, _ in first for row in ids)
    assert rows == sorted(row for batch in make_loader(folder) for row in batch.row_ids.tolist())
    assert all(sum(tokens) == total and len(tokens) == 2 for _, tokens, total in first)
    assert re.search(r"^2 ranks: loss of step 1 \d\.\d+, of step 12 \d\.\d+$", printed, re.M)
    assert re.search(r"^resumed after step 5: 7 more steps have the same losses, to the last bit$", printed, re.M)
