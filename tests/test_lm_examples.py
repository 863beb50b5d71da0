"""The examples of language models: what they print, and that all forms of a batch have the same loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import seqstream as ss
from examples.shared import transformer
from examples.shared.transformer import Form, Transformer
from tests.helpers.examples import keep_part, run

Spec = ss.Unbucketed | ss.Bucket | ss.Pack
NUM_DOCSTRINGS = 8_000
UNTRAINED = np.log(8_192)  # loss per token of an untrained model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_part(tmp_path_factory.mktemp("cache"), NUM_DOCSTRINGS)


def loss_and_gradient(model: Transformer, forms: Iterable[Form]) -> tuple[float, Tensor]:
    """Return the sum of the losses of all label tokens and its gradient, of all parameters one after the other."""
    loss = torch.stack([model(form) for form in forms]).sum()
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.nn.utils.parameters_to_vector(gradient)


def alone(sequence: list[int]) -> Form:
    """Return a sequence in a row of its own, all of it real."""
    ids = torch.tensor([sequence])
    labels = torch.tensor([[-100, *sequence[1:]]])
    return Form(ids, torch.arange(len(sequence))[None], labels, transformer.attend_in_rows)


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    """Sequences of 1 to 64 ids: some have no label, and most end inside a packed row."""
    generator = np.random.default_rng(0)
    return [generator.integers(1, 50, size).tolist() for size in (1, 60, 1, 2, 64, *generator.integers(1, 60, 15))]


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps so small wait for threads, not for sums
    torch.manual_seed(0)
    yield Transformer(vocabulary=50, num_blocks=2)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (ss.Unbucketed(5), transformer.padded),
        (ss.Bucket(256), transformer.padded),
        (ss.Pack(64, rows=4), transformer.packed),
        (ss.Bucket(256), transformer.varlen),
        (ss.Unbucketed(5), transformer.varlen),
    ],
    ids=["random-padded", "similar-padded", "packed", "similar-varlen", "random-varlen"],
)
def test_forms_are_worth_the_same(
    model: Transformer, sequences: list[list[int]], spec: Spec, form: Callable[[ss.Batch], Form]
) -> None:
    """Loss and gradient of every form are those of the same sequences one at a time, so no token sees another sequence."""
    layout = "jagged" if form is transformer.varlen else "padded"
    batches = list(ss.Loader(ss.Generator(sequences), spec, layout=layout, on_batch=ss.CausalLabels()))
    assert sum(batch.num_label_tokens for batch in batches) == sum(len(sequence) - 1 for sequence in sequences)
    loss, gradient = loss_and_gradient(model, map(form, batches))
    expected_loss, expected_gradient = loss_and_gradient(model, map(alone, sequences))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_train_lm_accumulates_the_gradient_of_one_batch(cache: Path, tmp_path: Path) -> None:
    """The sum over all label tokens has the gradient of one large batch, a mean of means has not; the model learns."""
    printed = run("train_lm.py", "--tokens", "8000", cache=cache, cwd=tmp_path)
    counts = re.findall(r"\d+", re.findall(r"^batches of (.*) label tokens", printed, re.MULTILINE)[0])
    assert len(counts) == 4
    assert len(set(counts)) > 1, "batches of one size could not tell the two apart"
    differences = re.findall(r"^    (\w.*\w) +differs by (\d\.\de[-+]\d+)$", printed, re.MULTILINE)
    (right, right_difference), (wrong, wrong_difference) = differences
    assert (right, wrong) == ("sum of losses / all label tokens", "mean of mean losses")
    assert float(right_difference) < 1e-5
    assert 1e-2 < float(wrong_difference) < 0.5  # wrong weights, not a wrong scale
    before, after = (float(number.replace(",", "")) for number in re.findall(r"^held-out .*: ([\d,]+)$", printed, re.MULTILINE))
    assert before == pytest.approx(8_192, rel=0.1)
    assert after < 0.8 * before


def test_train_transformer_compares_four_ways(cache: Path, tmp_path: Path) -> None:
    """Packed and varlen waste next to nothing, take more real tokens a second, and learn as much from as many tokens."""
    printed = run("train_transformer.py", "--tokens", "3000", cache=cache, cwd=tmp_path)
    rows = re.findall(r"^(\w[\w ]+\w) +([\d,]+) +(\d+\.\d)% +(\d\.\d+) +([\d,]+)$", printed, re.MULTILINE)
    table = {name: tuple(float(number.replace(",", "")) for number in numbers) for name, *numbers in rows}
    assert list(table) == ["random padded", "similar lengths", "packed", "varlen"]
    speed, waste, loss, tokens = ({name: row[column] for name, row in table.items()} for column in range(4))
    assert waste["random padded"] > 60
    assert waste["similar lengths"] < 10
    assert waste["packed"] < 3
    assert waste["varlen"] == 0
    assert all(3_000 <= count < 5_000 for count in tokens.values())
    assert all(value < UNTRAINED for value in loss.values())
    assert max(loss.values()) - min(loss.values()) < 0.4
    assert loss["varlen"] == pytest.approx(loss["similar lengths"], abs=0.01)  # the same batches
    gains = {name: float(gain) for name, gain in re.findall(r"(packed|varlen) (\d+\.\d+) times", printed)}
    for name, gain in gains.items():
        assert gain == pytest.approx(speed[name] / speed["random padded"], rel=0.02)
        assert gain > 1.3  # on a busy machine; about 2.2 on a quiet one
    assert list(gains) == ["packed", "varlen"]


def test_mixture_gives_each_source_its_share(cache: Path, tmp_path: Path) -> None:
    """Shares follow the weights before and after they change; tokens found in packed rows are those that the loader counts."""
    printed = run("mixture.py", "--tokens", "30000", "--change", "16000", cache=cache, cwd=tmp_path)
    (titles,) = re.findall(r"^tokens +(\w+) +(\w+) +(\w+)$", printed, re.MULTILINE)
    table = {
        name: int(tokens.replace(",", "")) for name, tokens in re.findall(r"^(\w+) +[\d,]+ +([\d,]+) ", printed, re.MULTILINE)
    }
    assert [*table] == [*titles] == ["stdlib", "numpy", "torch"]
    given = np.zeros(3)
    parts = re.findall(r"^([\d,]+) to ([\d,]+) +(asked .*)$", printed, re.MULTILINE)
    for (begin, end, shares), weights in zip(parts, ((70, 10, 20), (10, 40, 50)), strict=True):
        first, last = (int(number.replace(",", "")) for number in (begin, end))
        pairs = np.array(re.findall(r"asked ([\d.]+)%, given ([\d.]+)%", shares), dtype=float)
        assert pairs[:, 0] == pytest.approx(weights, abs=6)  # a window may begin a little before the change
        assert np.abs(pairs[:, 0] - pairs[:, 1]).max() <= 100 * 2 * transformer.MAX_LENGTH / (last - first)
        given += pairs[:, 1] / 100 * (last - first)
    assert last == sum(table.values()) == pytest.approx(30_000, abs=transformer.MAX_LENGTH)
    assert given == pytest.approx([*table.values()], abs=3)  # percentages have two decimals
    losses = np.array([re.findall(r"loss (\d+\.\d+)", line) for line in printed.splitlines() if " loss " in line], dtype=float)
    assert (losses[-1] < losses[0]).all()
    assert re.search(r"^at the end of each of \d+ windows, every source has given what was asked for", printed, re.MULTILINE)
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
