"""Finding the largest budget: the search on simulated memory, steps that really run out of memory, and messages."""

from __future__ import annotations

import math
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

import seqstream as ss
from seqstream.tuning.budget_search import Memory, Probe, fit_memory, next_budget
from seqstream.tuning.max_tokens import fit_max_tokens
from tests.helpers.forked import run_code

few = settings(max_examples=200, deadline=None)
MAX_PROBES = 10
GIB = 1 << 30

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def loader(tmp_path: Path, bpe_file: Path) -> ss.Loader:
    """Rows of at most 64 tokens."""
    text = tmp_path / "text.txt"
    text.write_text("a line of words that are tokens\nand another\n" * 20, encoding="utf-8")
    return ss.Loader(ss.TextFiles(str(text)), ss.Tokenize(str(bpe_file), max_length=64), ss.Bucket(max_tokens=512))


def simulate(
    memory: Memory,
    *,
    low: int,
    high: int | None,
    limit: float,
    total: float,
    seen: bool,
    grain: int = 1,
    floor: float = 0,
    length: int | None = None,
) -> list[Probe]:
    """Try the budgets of `next_budget` on a device whose memory is known, until it returns ``None``.

    Args:
        memory: The memory of a step.
        low: Passed on.
        high: Passed on.
        limit: Bytes that a step may take.
        total: Bytes of the device.
        seen: Whether memory is measured.
        grain: Memory is taken in whole blocks of this many bytes.
        floor: The least memory of a step.
        length: Length of each row; ``None`` for one row that fills the budget.
    """
    probes: list[Probe] = []
    while len(probes) < MAX_PROBES:
        budget = next_budget(probes, low=low, high=high, limit=limit if seen else None, max_probes=MAX_PROBES)
        if budget is None:
            break
        rows, wide = (1, budget) if length is None else (budget // length, length)
        num_bytes = math.ceil(max(floor, memory.num_bytes(rows, wide)) / grain) * grain
        ran = num_bytes <= total
        probes.append(Probe(budget, rows, wide, ran, num_bytes if seen and ran and probes else None))
    return probes


def largest(probes: list[Probe], limit: float | None = None) -> int:
    return max(probe.max_tokens for probe in probes if probe.fits(limit))


def true_largest(memory: Memory, limit: float, length: int | None) -> int:
    """Return the largest budget by trying powers of two, then all bits below."""
    budget = 0
    for bit in range(40, -1, -1):
        rows, wide = (1, budget | 1 << bit) if length is None else ((budget | 1 << bit) // length, length)
        if memory.num_bytes(rows, wide) <= limit:
            budget |= 1 << bit
    return budget


memories = st.builds(Memory, st.floats(0, 4 * GIB), st.floats(10_000, 1_000_000), st.floats(0, 2_000))


@few
@example(Memory(0.5, 10_000.0, 0.0), None, 1e10, 1)  # a part of a byte takes a whole one
@given(memories, st.sampled_from([64, 128, 512, None]), st.floats(6 * GIB, 80 * GIB), st.sampled_from([1, 512, 2 << 20]))
def test_known_memory_leads_to_the_limit(memory: Memory, length: int | None, total: float, grain: int) -> None:
    """If memory is measured, a budget within 5 % of the largest is found and run in at most 10 tries, never one beyond."""
    limit = 0.9 * total
    low = 512
    most = true_largest(memory, limit - grain, length)
    assume(most >= 4 * low)
    probes = simulate(memory, low=low, high=None, limit=limit, total=total, seen=True, grain=grain, length=length)
    found = largest(probes, limit)
    rows, wide = (1, found) if length is None else (found // length, length)
    assert memory.num_bytes(rows, wide) <= limit
    assert len(probes) <= MAX_PROBES
    if length is None or most >= 40 * length:
        assert found >= 0.95 * most
    assert rows * wide >= 0.95 * (most // wide * wide) - (length or 0)


@few
@example(Memory(2840150017.0, 86400.0, 0.0), 2564637017.0, 64, 10 * GIB)  # a prediction one byte too large
@given(memories, st.floats(0, 3 * GIB), st.sampled_from([64, 128, 512]), st.floats(10 * GIB, 80 * GIB))
def test_memory_that_small_batches_do_not_show_is_found(memory: Memory, more: float, length: int, total: float) -> None:
    """If small batches take no more than the optimiser, the limit is found all the same, and not passed."""
    limit = 0.9 * total
    most = true_largest(memory, limit, length)
    assume(most >= 40 * length)
    probes = simulate(memory, low=512, high=None, limit=limit, total=total, seen=True, floor=memory.fixed + more, length=length)
    found = largest(probes, limit)
    assert 0.9 * most <= found
    assert memory.num_bytes(found // length, length) <= limit


@few
@given(memories, st.floats(5 * GIB, 80 * GIB), st.sampled_from([64, 512]))
def test_failures_alone_lead_to_the_limit(memory: Memory, total: float, length: int) -> None:
    """If memory is not measured, budgets grow until one fails, and the largest found is close below the first that fails."""
    most = true_largest(memory, total, length)
    low, high = 512, 1 << 22
    assume(most >= low)
    probes = simulate(memory, low=low, high=high, limit=total, total=total, seen=False, length=length)
    found = largest(probes)
    assert found <= min(most, high)
    assert found >= 0.8 * min(most, high)
    assert all(probe.max_tokens <= high for probe in probes)


@few
@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_tries_lie_between_what_ran_and_what_failed(low: int, more: int, up: int) -> None:
    """No try is below a budget that ran, or above one that failed; tries end where the two are close."""
    high, most = low + up, low + more
    probes: list[Probe] = []
    while (budget := next_budget(probes, low=low, high=high)) is not None:
        good = max((probe.max_tokens for probe in probes if probe.ran), default=low - 1)
        bad = min((probe.max_tokens for probe in probes if not probe.ran), default=high + 1)
        assert good < budget < bad
        probes.append(Probe(budget, budget, 1, budget <= most))
    found = largest(probes)
    assert found <= min(most, high)
    assert found >= min(most, high) * 0.98 - 1


def test_tries_by_hand() -> None:
    """Budgets double, then the middle by ratio is tried; with a limit, two tries of known memory predict the next."""
    ran = [Probe(100, 1, 100, True), Probe(200, 2, 100, True)]
    assert next_budget([], low=100, high=None) == 100
    assert next_budget(ran[:1], low=100, high=None) == 200
    assert next_budget(ran, low=100, high=None) == 400
    assert next_budget(ran, low=100, high=350) == 350
    assert next_budget(ran, low=100, high=200) is None
    assert next_budget(ran, low=100, high=102_400) == 800  # 1,024 times is five steps of 4 times
    assert next_budget([*ran, Probe(400, 4, 100, False)], low=100, high=None) == 282
    assert next_budget([*ran, Probe(204, 2, 102, False)], low=100, high=None) is None
    assert next_budget([Probe(100, 1, 100, False)], low=100, high=None) is None
    measured = [ran[0], Probe(200, 2, 100, True, 3_000), Probe(400, 4, 100, True, 5_000)]  # 1,000 and 10 a token
    assert next_budget(measured[:2], low=100, high=None, limit=9_000) == 400
    assert next_budget(measured, low=100, high=None, limit=9_000) == 800
    assert next_budget(measured, low=100, high=500, limit=9_000) == 500
    assert next_budget(measured, low=100, high=None, limit=5_050) is None
    exactly = Probe(800, 8, 100, True, 9_000)
    assert next_budget([*measured, exactly], low=100, high=None, limit=9_000) is None
    flat = [ran[0], Probe(200, 2, 100, True, 3_000), Probe(400, 4, 100, True, 3_000)]
    assert next_budget(flat, low=100, high=None, limit=9_000) == 6_400  # memory that does not grow is extrapolated only so far
    over = Probe(800, 8, 100, True, 9_900)
    assert next_budget([*measured, over], low=100, high=None, limit=9_899) == 792
    assert next_budget([*measured, Probe(700, 7, 100, False)], low=100, high=None, limit=9_000) == 529


def test_memory_by_hand() -> None:
    """Three shapes of one memory give back its three terms; terms that would be below 0 are 0."""
    shapes = [(1, 100), (2, 100), (2, 300), (4, 200)]
    truth = Memory(5_000.0, 7.0, 0.25)
    probes = [Probe(rows * length, rows, length, True, int(truth.num_bytes(rows, length))) for rows, length in shapes]
    assert truth.num_bytes(2, 100) == 5_000 + 1_400 + 5_000
    found = fit_memory(probes)
    assert (found.fixed, found.per_token, found.per_pair) == pytest.approx((5_000, 7, 0.25))
    of_one_length = fit_memory([Probe(1, rows, 100, True, 1_234_567 + 76_543 * rows) for rows in (3, 7, 9)])
    assert of_one_length.num_bytes(5, 100) == pytest.approx(1_234_567 + 76_543 * 5)
    assert of_one_length.num_bytes(1, 500) > 1_234_567 + 1.5 * 5 * 76_543  # the model that predicts the most for longer rows
    falling = fit_memory([Probe(100, 1, 100, True, 900), Probe(200, 2, 100, True, 300)])
    assert (falling.fixed, falling.per_token, falling.per_pair) == pytest.approx((600, 0, 0))
    with pytest.raises(ValueError, match=r"^num_bytes must be known for at least one probe, got none$"):
        fit_memory([Probe(100, 1, 100, True)])


@few
@given(memories, st.lists(st.tuples(st.integers(1, 500), st.integers(1, 4_096)), min_size=1, max_size=6))
def test_fitted_memory_is_that_of_the_tries(memory: Memory, shapes: list[tuple[int, int]]) -> None:
    """The model never has a term below 0, and it fits memory that follows a model."""
    probes = [Probe(1, rows, length, True, round(memory.num_bytes(rows, length))) for rows, length in shapes]
    most = max(probe.num_bytes or 0 for probe in probes)
    found = fit_memory(probes)
    assert min(found.fixed, found.per_token, found.per_pair) >= 0
    for probe in probes:
        assert found.num_bytes(probe.rows, probe.length) == pytest.approx(probe.num_bytes, abs=1e-3 * most)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000000 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
def test_steps_that_raise_at_a_limit_are_fitted(loader: ss.Loader, error: Exception) -> None:
    """For every kind of memory error the largest budget that runs is found, in at most 10 tries of different batches."""
    shapes = []

    def step(batch: ss.Batch) -> None:
        shapes.append(tuple(batch.input_ids.shape))
        if batch.num_slots > 3_000:
            raise error

    found = fit_max_tokens(step, loader, high=1_000_000)
    assert shapes[0] == (1, 64)
    assert len(shapes) == len(set(shapes)) <= MAX_PROBES
    assert 0.8 * 3_000 <= found < 3_000 + 64
    assert (found // 64, 64) in shapes


def test_all_may_run(loader: ss.Loader) -> None:
    """If nothing fails, ``high`` is tried and returned."""
    tried = []
    assert fit_max_tokens(lambda batch: tried.append(batch.num_slots), loader, low=100, high=1_000) == 1_000
    assert len(tried) == 5
    assert all(budget - 64 < slots <= budget for slots, budget in zip(tried, (100, 200, 400, 800, 1_000), strict=True))


def test_few_tries_are_kept_to(loader: ss.Loader) -> None:
    """There are at most ``max_probes`` tries, and the budget that is returned has run."""
    ran = []
    assert fit_max_tokens(lambda batch: ran.append(batch.num_slots), loader, high=1_000_000, max_probes=1) == 64
    assert ran == [64]
    assert fit_max_tokens(lambda batch: ran.append(batch.num_slots), loader, low=70, high=70) == 70
    assert len(ran) == 2


def test_budgets_that_change_nothing_end_the_search(bpe_file: Path, tmp_path: Path) -> None:
    """If the number of rows is limited as well, a larger budget gives the same batch, which is not tried again."""
    (tmp_path / "text.txt").write_text("words\n" * 9, encoding="utf-8")
    bucket = ss.Bucket(max_tokens=512, batch_size=3)
    loader = ss.Loader(ss.TextFiles(str(tmp_path / "text.txt")), ss.Tokenize(str(bpe_file), max_length=64), bucket)
    shapes: list[tuple[int, ...]] = []
    found = fit_max_tokens(lambda batch: shapes.append(tuple(batch.input_ids.shape)), loader, high=10**9)
    assert 3 * 64 <= found < 10**7
    assert shapes[-1] == (3, 64)
    assert len(shapes) == len(set(shapes))


def test_other_errors_pass_through(loader: ss.Loader) -> None:
    """Other errors are raised unchanged, with a note of the shape that was tried."""

    def step(batch: ss.Batch) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError) as caught:
        fit_max_tokens(step, loader, high=1_000)
    assert str(caught.value) == "shapes cannot be multiplied"
    assert caught.value.__notes__ == ["while trying a batch of shape (1, 64), max_tokens=64"]


def test_failed_tries_keep_nothing_alive(loader: ss.Loader) -> None:
    """Tensors of a failed step are released before the next step, even if its error and the cause of it are kept."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive = []
    kept = []

    def allocate(activations: torch.Tensor) -> None:
        if len(activations) > 500:
            raise RuntimeError("out of memory")

    def forward(size: int) -> None:
        activations = torch.zeros(size)
        held.append(weakref.ref(activations))
        try:
            allocate(activations)
        except RuntimeError as error:
            raise MemoryError from error

    def step(batch: ss.Batch) -> None:
        alive.append(sum(reference() is not None for reference in held))
        try:
            forward(batch.num_slots)
        except MemoryError as error:
            kept.append(error)
            raise

    fit_max_tokens(step, loader, high=10_000)
    assert len(kept) > 1
    assert alive == [0] * len(alive)


def test_tensors_that_are_too_large_are_fitted(loader: ss.Loader) -> None:
    """A tensor that is too large for any machine fails in torch, and the search goes on below."""

    def step(batch: ss.Batch) -> None:
        torch.empty(10**15 if batch.num_slots > 1_000 else batch.num_slots)

    assert 900 <= fit_max_tokens(step, loader, low=64, high=4_096) < 1_088


def test_memory_that_really_runs_out_is_fitted(tmp_path: Path, bpe_file: Path) -> None:
    """A model trains in a process with a limit of 256 MiB more, and the budget that is found is near that limit."""
    program = textwrap.dedent(
        f"""
        import pathlib, resource
        import torch
        import seqstream as ss

        pathlib.Path("text.txt").write_text("a line of words\\n" * 20)
        torch.set_num_threads(1)
        tokenize = ss.Tokenize({str(bpe_file)!r}, max_length=64, engine="tokenizers")
        loader = ss.Loader(ss.TextFiles("text.txt"), tokenize, ss.Bucket(max_tokens=512))
        weight = torch.ones(1 << 14, requires_grad=True)

        def step(batch):
            weight.grad = None
            (torch.ones(batch.num_slots, 1) * weight).relu().sum().backward()

        step(loader.worst_batch(max_tokens=64))
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), -1))
        print(ss.fit_max_tokens(step, loader, high=1_000_000))
        """
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not show how much memory a process has mapped")
    done = run_code(program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    most = (1 << 28) / (4 << 14)  # tokens, if a step held 64 KiB a token once; it holds them several times
    assert most / 8 < int(done.stdout) < most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^high must be given on cpu, where memory that runs out is swapped or ends the process; set it to the largest "),
        ({"low": 100, "high": 99}, r"^high must be at least low=100, got 99$"),
        ({"low": 0, "high": 99}, r"^low must be a positive whole number, got 0$"),
        ({"high": 99, "max_probes": 0}, r"^max_probes must be a positive whole number, got 0$"),
        ({"high": 99, "share": 1.5}, r"^share must be above 0 and at most 1, got 1.5$"),
        ({"high": 99, "share": 0.0}, r"^share must be above 0 and at most 1, got 0.0$"),
    ],
)
def test_bad_options_are_refused(loader: ss.Loader, options: dict[str, Any], message: str) -> None:
    """An option out of range is an error that names it, before a step runs."""

    def step(batch: ss.Batch) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        fit_max_tokens(step, loader, **options)


def test_the_smallest_budget_must_run(loader: ss.Loader) -> None:
    """If no budget runs, the error names the smallest one and what to change."""

    def step(batch: ss.Batch) -> None:
        raise MemoryError

    expected = r"^a step cannot run with low=64 padded tokens; lower low, max_length or the size of the model$"
    with pytest.raises(MemoryError, match=expected):
        fit_max_tokens(step, loader, high=1_000)


def test_the_smallest_budget_follows_from_the_loader(tmp_path: Path, bpe_file: Path) -> None:
    """It is the longest row, rounded up; if that is unknown, or a batch needs more, it is the budget of the loader."""
    (tmp_path / "text.txt").write_text("words\n" * 9, encoding="utf-8")
    source = ss.TextFiles(str(tmp_path / "text.txt"))
    tokenize = ss.Tokenize(str(bpe_file), max_length=60)

    def first_budget(*stages: Any) -> int:
        return fit_max_tokens(lambda _: None, ss.Loader(source, *stages), high=4_096, max_probes=1)

    assert first_budget(tokenize, ss.Bucket(max_tokens=512)) == 60
    assert first_budget(tokenize, ss.Bucket(max_tokens=512, multiple_of=8)) == 64
    assert first_budget(tokenize, ss.Bucket(batch_size=4)) == 60
    assert first_budget(tokenize, ss.Bucket(max_tokens=512, rows_multiple_of=4)) == 512
    assert first_budget(tokenize, ss.Bucket(max_tokens=512, cost="attention", hidden_size=8)) == 512
    with pytest.warns(UserWarning, match="^Tokenize has no max_length"):
        assert first_budget(ss.Tokenize(str(bpe_file)), ss.Bucket(max_tokens=512)) == 512
    with pytest.raises(
        ValueError, match=r"^low must be given where neither Tokenize\(max_length=...\) nor Bucket\(max_tokens="
    ):
        first_budget(ss.Tokenize(str(bpe_file)), ss.Bucket(batch_size=4))
    with pytest.raises(
        ValueError, match=r"^max_tokens cannot be found for Unbucketed\(batch_size=4.*; use Bucket\(max_tokens="
    ):
        first_budget(tokenize, ss.Unbucketed(4))


@needs_cuda
def test_a_device_is_filled_to_its_share(bpe_file: Path, tmp_path: Path) -> None:
    """On CUDA the training step takes at most its share of the memory, after few tries, and 10 % more would exceed it."""
    (tmp_path / "text.txt").write_text("words and words\n" * 9, encoding="utf-8")
    loader = ss.Loader(
        ss.TextFiles(str(tmp_path / "text.txt")),
        ss.Tokenize(str(bpe_file), max_length=512),
        ss.Bucket(max_tokens=512),
        device="cuda",
    )
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[0]
    share = 2 * GIB / total
    layer = nn.TransformerEncoderLayer(256, 4, batch_first=True)
    model = nn.Sequential(nn.Embedding(1_000, 256), layer).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    calls = []

    def step(batch: ss.Batch) -> None:
        calls.append(batch.num_slots)
        optimizer.zero_grad()
        model(batch.input_ids).square().mean().backward()
        optimizer.step()

    def peak(budget: int) -> int:
        torch.cuda.reset_peak_memory_stats()
        step(loader.worst_batch(max_tokens=budget))
        return torch.cuda.max_memory_allocated()

    found = fit_max_tokens(step, loader, share=share)
    assert len(calls) <= MAX_PROBES
    assert peak(found) <= 2.01 * GIB
    assert peak(round(1.1 * found)) > 1.98 * GIB


@needs_cuda
def test_running_out_on_a_device_is_caught(bpe_file: Path, tmp_path: Path) -> None:
    """A step whose memory grows all at once on CUDA fails, and a smaller budget is found that runs."""
    (tmp_path / "text.txt").write_text("words\n" * 9, encoding="utf-8")
    tokenize = ss.Tokenize(str(bpe_file), max_length=64)
    loader = ss.Loader(ss.TextFiles(str(tmp_path / "text.txt")), tokenize, ss.Bucket(max_tokens=512), device="cuda")

    def step(batch: ss.Batch) -> None:
        torch.empty(1 << 50 if batch.num_slots > 20_000 else 1 << 20, device="cuda")

    assert 16_000 < fit_max_tokens(step, loader, high=1_000_000) < 20_064
