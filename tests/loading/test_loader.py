"""The loader: epochs, threads that end under all circumstances, errors with their place, state."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from seqstream.loading.epoch_windows import _log_one_shard
from tests.helpers.own_source import JsonArrays, write_arrays

SPECS = [
    ss.Bucket(200, window_batches=4),
    ss.Bucket(batch_size=7, window_batches=3),
    ss.Bucket(96, batch_size=4, window_batches=5, multiple_of=8),
    ss.Unbucketed(5),
    ss.Unbucketed(4, drop_last=True),
]


@pytest.fixture
def source(tmp_path: Path) -> JsonArrays:
    """Twelve files of many blocks."""
    return write_arrays(tmp_path / "arrays")


def num_threads() -> int:
    """Count the threads that loaders have started."""
    return sum(thread.name.startswith("seqstream") for thread in threading.enumerate())


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_laws_hold_for_a_source_of_ones_own(source: JsonArrays, spec: Any, shuffle: bool) -> None:
    """Every law holds over every batch spec, shuffled or not."""
    for path in source.files[4:]:
        path.unlink()

    def make(**options: Any) -> ss.Loader:
        return ss.Loader(source, spec, **{"shuffle": shuffle, **options})

    testing.check_source(source)
    testing.check_loader(make)


def test_epochs_follow_the_position(source: JsonArrays) -> None:
    """``epoch`` rises when an iteration ends, and when a new one begins after batches were taken, not before."""
    loader = ss.Loader(source, ss.Bucket(200))
    assert loader.epoch == 0
    first = next(iter(loader))
    assert loader.epoch == 0
    iterator = iter(loader)
    assert loader.epoch == 1
    iterator = iter(loader)
    assert loader.epoch == 1  # nothing was taken from the iterator before
    assert not torch.equal(next(iterator).row_ids, first.row_ids)
    list(iterator)
    assert loader.epoch == 2
    loader.set_epoch(0)
    assert torch.equal(next(iter(loader)).row_ids, first.row_ids)


def test_an_older_iterator_raises(source: JsonArrays) -> None:
    """Two iterators of one loader would both move it, so the older one raises."""
    loader = ss.Loader(source, ss.Bucket(200))
    older = iter(loader)
    next(older)
    newer = iter(loader)
    next(newer)
    with pytest.raises(RuntimeError, match="a newer one has begun on this loader"):
        next(older)
    next(newer)


def test_endless_iteration_goes_over_epochs(source: JsonArrays) -> None:
    """With ``epochs=None`` one iteration gives epoch after epoch, each with every row."""
    loader = ss.Loader(source, ss.Bucket(200, window_batches=4), epochs=None)
    num_rows = sum(batch.num_rows for batch in ss.Loader(source, ss.Bucket(200)))
    seen = 0
    for batch in loader:
        seen += batch.num_rows
        if loader.epoch == 2:
            break
    assert 2 * num_rows < seen <= 2 * num_rows + batch.num_rows


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_leaving_early_ends_the_threads(source: JsonArrays, prefetch: int) -> None:
    """After ``break``, or when the iterator is dropped, no thread is left."""
    loader = ss.Loader(source, ss.Bucket(100, window_batches=2), prefetch=prefetch)
    for _batch in loader:
        break
    gc.collect()
    assert num_threads() == 0
    iterator = iter(loader)
    next(iterator)
    del iterator
    gc.collect()
    assert num_threads() == 0


def test_an_iterator_in_a_cycle_is_collected(source: JsonArrays) -> None:
    """Garbage collection of a cycle ends the threads as well."""
    iterator = iter(ss.Loader(source, ss.Bucket(100, window_batches=2)))
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)  # type: ignore[arg-type]
    del iterator, cycle
    gc.collect()
    assert num_threads() == 0


def failing(num_rows: int) -> Iterator[list[int]]:
    """Give some rows and then break."""
    for number in range(num_rows):
        yield [number + 1] * (number % 9 + 1)
    raise OSError("the network is gone")


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_the_source_comes_out_as_it_is(prefetch: int) -> None:
    """The user's own exception is raised where the batch was asked for, names the item, and leaves no thread."""
    loader = ss.Loader(ss.Generator(lambda: failing(3000)), ss.Bucket(50, window_batches=4), prefetch=prefetch)
    with pytest.raises(OSError, match="the network is gone") as caught:
        list(loader)
    assert any("item 3000" in note for note in caught.value.__notes__)
    assert 0 < loader.stats.rows < 3000
    assert num_threads() == 0


def test_the_state_survives_an_error() -> None:
    """What was served before an error is known, so that with a repaired source the next batch comes."""
    spec = ss.Bucket(50, window_batches=4)
    broken = ss.Loader(ss.Generator(lambda: failing(3000)), spec)
    served: list[ss.Batch] = []
    with pytest.raises(OSError, match="gone"):
        served.extend(broken)
    repaired = ss.Loader(ss.Generator(lambda: itertools.chain(itertools.islice(failing(9999), 3000), [[1, 2]])), spec)
    repaired.load_state_dict(broken.state_dict())
    rest = testing.rows_of(repaired)
    assert len(testing.rows_of(served)) + len(rest) == 3001
    assert not set(testing.rows_of(served)) & set(rest)


def test_on_batch_errors_are_raised(source: JsonArrays) -> None:
    """An ``on_batch`` that raises or returns something else is an error of the user's, not a hang."""
    with pytest.raises(ZeroDivisionError):
        list(ss.Loader(source, ss.Bucket(100), on_batch=lambda batch: 1 // 0))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"on_batch must return a Batch, got NoneType; end it with return batch\.with_columns"):
        list(ss.Loader(source, ss.Bucket(100), on_batch=lambda batch: None))  # type: ignore[arg-type,return-value]
    assert num_threads() == 0


def test_on_batch_has_the_same_randomness_at_every_resume(source: JsonArrays) -> None:
    """``batch.generator()`` depends on the batch alone, and differs between batches and epochs."""

    def noisy(batch: ss.Batch) -> ss.Batch:
        return batch.with_columns(noise=torch.rand(batch.num_rows, generator=batch.generator()))

    def make(**options: Any) -> ss.Loader:
        return ss.Loader(source, ss.Bucket(200, window_batches=4), on_batch=noisy, **options)

    testing.check_resume(make)
    loader = make()
    firsts = [batch.noise[0].item() for _ in range(2) for batch in loader]
    assert len(set(firsts)) == len(firsts)


def test_wrapping_in_a_dataloader_says_what_to_do(source: JsonArrays) -> None:
    """PyTorch's ``DataLoader`` around a loader is a mistake whose message names the remedy."""
    loader = ss.Loader(source, ss.Bucket(100))
    for options in ({}, {"batch_size": None}, {"shuffle": True}):
        with pytest.raises(TypeError, match=r"cannot be wrapped in torch.utils.data.DataLoader.*iterate over it directly"):
            list(torch.utils.data.DataLoader(loader, **options))  # type: ignore[arg-type]


def test_stats_count_what_was_handed_out(source: JsonArrays) -> None:
    """Rows, tokens and slots are those of the batches; what was left out is counted."""
    loader = ss.Loader(source, ss.Filter(lambda table: pa.array([i % 2 == 0 for i in range(len(table))])), ss.Bucket(150))
    batches = list(loader)
    stats = loader.stats
    assert stats.batches == len(batches)
    assert stats.rows == sum(batch.num_rows for batch in batches)
    assert stats.tokens == sum(int(batch.lengths.sum()) for batch in batches)
    assert stats.slots == sum(batch.mask.numel() for batch in batches)
    assert stats.padding == pytest.approx(1 - stats.tokens / stats.slots)
    assert stats.rows + stats.dropped == sum(30 + number for number in range(12))
    assert 0 < stats.seconds_waited <= stats.seconds
    assert "padding" in str(stats)
    assert "dropped" in str(stats)


def test_drop_last_is_counted(source: JsonArrays) -> None:
    """Rows that ``drop_last`` leaves out are counted as dropped, and every batch is full."""
    loader = ss.Loader(source, ss.Unbucketed(16, drop_last=True))
    assert {batch.num_rows for batch in loader} == {16}
    assert loader.stats.dropped == sum(30 + number for number in range(12)) % 16


def test_in_order_gives_full_batches_across_windows(source: JsonArrays) -> None:
    """A batch size holds over window borders: only the last batch of an epoch is smaller."""
    for spec in (ss.Unbucketed(16), ss.Bucket(batch_size=16, window_batches=2)):
        sizes = [batch.num_rows for batch in ss.Loader(source, spec, shuffle=False)]
        assert set(sizes[:-1]) == {16}


def test_estimate_steps_is_close(source: JsonArrays) -> None:
    """The estimate is exact where all blocks can be looked at, and near where not."""
    few = ss.Loader(JsonArrays(source.folder, rows_per_block=100), ss.Unbucketed(10))
    assert ss.Loader(ss.Generator(lambda: [[1]]), ss.Unbucketed(1)).estimate_steps() is None
    steps = few.estimate_steps()
    assert steps is not None
    assert steps == pytest.approx(len(list(few)), rel=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_side": "top"}, "padding_side must be one of None, 'right', 'left', got 'top'"),
        ({"epochs": 0}, "epochs must be a positive number or None for no end, got 0"),
        ({"prefetch": -1}, "prefetch must be 0 or more batches, got -1"),
    ],
)
def test_options_are_checked(source: JsonArrays, options: dict[str, Any], message: str) -> None:
    """An option out of range is refused where it is given."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ss.Loader(source, ss.Bucket(10), **options)


def test_stages_are_checked(source: JsonArrays, bpe_file: Path) -> None:
    """What is no source, no stage or not in order is refused with the remedy."""
    with pytest.raises(TypeError, match=r"source must be a path, .* or a source such as TextFiles\(\.\.\.\), got Bucket"):
        ss.Loader(ss.Bucket(10))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stages must end with Bucket, Pack or Unbucketed"):
        ss.Loader(source)
    with pytest.raises(TypeError, match="stages must be Map, Filter, ClassLabels or Tokenize before the last"):
        ss.Loader(source, lambda table: table, ss.Bucket(10))  # type: ignore[arg-type]
    tokenize = ss.Tokenize(bpe_file, max_length=10)
    with pytest.raises(ValueError, match="stages must have one Tokenize, got 2"):
        ss.Loader(source, tokenize, tokenize, ss.Bucket(10))


def test_a_budget_without_max_length_warns_at_once(source: JsonArrays, bpe_file: Path) -> None:
    """A record that cannot fit would stop the run at some hour; the loader warns when it is made."""
    with pytest.warns(UserWarning, match="Tokenize has no max_length.*max_tokens=4096.*set Tokenize"):
        ss.Loader(source, ss.Tokenize(bpe_file), ss.Bucket(4096))


def test_a_record_over_the_budget_is_named(source: JsonArrays) -> None:
    """A sequence that cannot fit raises with its length, the limit, the remedy and its place."""
    with pytest.raises(ValueError, match=r"sequence of \d+ tokens cannot fit max_tokens=20; raise max_tokens") as caught:
        list(ss.Loader(source, ss.Bucket(20)))
    assert any(note.startswith("while reading record ") for note in caught.value.__notes__)


def test_an_empty_source_says_so(tmp_path: Path) -> None:
    """No record, and no record that is left, are errors that say which."""
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="source must have at least one record, got none"):
        list(ss.Loader(JsonArrays(tmp_path), ss.Bucket(10)))
    (tmp_path / "none.json").write_text("[[], [], []]")
    with pytest.raises(ValueError, match="got none: 3 records were empty and 0 were dropped"):
        list(ss.Loader(JsonArrays(tmp_path), ss.Bucket(10)))


def test_other_stages_are_refused_by_name(source: JsonArrays) -> None:
    """A state is refused by entry: another budget, another source; with what to do about it."""
    loader = ss.Loader(source, ss.Bucket(200))
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(ValueError, match=r"state was saved for batches.max_tokens 200, this loader has 100; .*strict=False"):
        ss.Loader(source, ss.Bucket(100)).load_state_dict(state)
    other = JsonArrays(source.folder, rows_per_block=5)
    with pytest.raises(
        ValueError, match=r"source.rows_per_block 8, this loader has 5; build the loader as it was, or start anew"
    ):
        ss.Loader(other, ss.Bucket(200)).load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match="shuffle True, this loader has False"):
        ss.Loader(source, ss.Bucket(200), shuffle=False).load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([1], TypeError, "state must be the dict that state_dict"),
        ({"version": 99}, ValueError, "state must be of version 2, got 99"),
        ({"model": 1}, ValueError, "state must be what state_dict.. returned, got one without"),
    ],
)
def test_what_is_no_state_is_refused(source: JsonArrays, state: Any, error: type[Exception], message: str) -> None:
    """The error for something else than a state says what is expected."""
    with pytest.raises(error, match=message):
        ss.Loader(source, ss.Bucket(200)).load_state_dict(state)


def test_other_stages_on_the_same_source_go_on_if_asked_to(source: JsonArrays) -> None:
    """With ``strict=False`` the window under way begins again: nothing is lost, and what is repeated is counted."""
    old = ss.Loader(source, ss.Bucket(200, window_batches=8))
    iterator = iter(old)
    before = [next(iterator) for _ in range(12)]
    state = old.state_dict()
    new = ss.Loader(source, ss.Bucket(100, window_batches=4))
    new.load_state_dict(state, strict=False)
    after = testing.rows_of(new)
    served = testing.rows_of(before)
    everything = testing.rows_of(ss.Loader(source, ss.Bucket(200)))
    assert {*served, *after} == set(everything)
    repeated = set(served) & set(after)
    assert len(repeated) == new.stats.repeated_rows > 0


def test_the_state_is_small_json(source: JsonArrays) -> None:
    """A state is a few hundred bytes, whatever is in memory, and later batches do not change it."""
    loader = ss.Loader(source, ss.Bucket(200))
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    text = json.dumps(state)
    assert len(text) < 2000
    list(iterator)
    assert json.dumps(state) == text


def test_resuming_reads_at_most_one_window(tmp_path: Path, bpe_file: Path) -> None:
    """Going on late in an epoch tokenises no more than one window before the first batch."""
    texts = [f"record {number} " * (number % 30 + 1) for number in range(3000)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts))
    seen: list[int] = []

    def count(table: pa.Table) -> pa.Table:
        seen.append(len(table))
        return table

    def make() -> ss.Loader:
        source = ss.TextFiles(path, block_bytes=4096)
        return ss.Loader(
            source, ss.Map(count), ss.Tokenize(bpe_file, max_length=64), ss.Bucket(1024, window_batches=8), prefetch=0
        )

    loader = make()
    batches = list(loader)
    blocks = max(batch.state["position"]["window"]["blocks"] for batch in batches)
    for number in (0, len(batches) // 2, len(batches) - 2):
        resumed = make()
        resumed.load_state_dict(batches[number].state)
        seen.clear()
        next(iter(resumed))
        assert 0 < len(seen) <= blocks


def test_a_forked_child_begins_its_own_iterator(source: JsonArrays) -> None:
    """In a forked child the parent's iterator raises, and a new one gives the same batches."""
    loader = ss.Loader(source, ss.Bucket(200))
    iterator = iter(loader)
    next(iterator)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads: that is the test
        pid = os.fork()
    if pid == 0:
        try:
            next(iterator)
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        os.write(writer, f"|{len(list(ss.Loader(source, ss.Bucket(200))))}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    message, count = os.read(reader, 1000).decode().split("|")
    assert "cannot go on in a forked process; call iter(loader) there" in message
    assert int(count) == len(list(ss.Loader(source, ss.Bucket(200))))


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """An interrupt while the consumer waits for a slow source ends the process at once."""
    code = """
        import itertools, sys, time
        import seqstream as ss
        def slow():
            for number in itertools.count():
                print("item", flush=True)
                time.sleep(0.05)
                yield [1, 2, 3]
        for batch in ss.Loader(ss.Generator(slow), ss.Bucket(100)):
            pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert "KeyboardInterrupt" in err
    assert process.returncode != 0


def test_device_and_padding_options(source: JsonArrays) -> None:
    """Tensors go to the device, lengths stay on the CPU; padding goes where and what it was asked to be."""
    loader = ss.Loader(source, ss.Bucket(300), device="cpu", pad_values={"input_ids": -7}, padding_side="left", shuffle=False)
    for batch in loader:
        assert batch.lengths.device.type == batch.layout.device_lengths.device.type == "cpu"
        assert bool((batch.input_ids[~batch.mask] == -7).all())
        assert bool(batch.mask[:, -1].all())
        for ids, mask, length in zip(batch.input_ids, batch.mask, batch.lengths, strict=True):
            assert len(set(ids[mask].tolist())) == 1
            assert int(mask.sum()) == int(length)


def test_progress_shows_batches_and_waste(source: JsonArrays, capsys: pytest.CaptureFixture[str]) -> None:
    """The progress bar counts batches on stderr and shows the padding."""
    steps = len(list(ss.Loader(source, ss.Bucket(200), progress=True)))
    err = capsys.readouterr().err
    assert f"{steps}/{steps}" in err, "it ends full, whatever was estimated"
    assert "% padding" in err


def test_restored_order_is_the_source_order(source: JsonArrays) -> None:
    """Without shuffling, what was computed for each row comes back in the order of the source, each once."""
    loader = ss.Loader(source, ss.Bucket(200, window_batches=4), shuffle=False)
    restored = list(ss.restore_order((batch, batch.lengths) for batch in loader))
    rows = [row for row, _, _ in restored]
    assert rows == sorted(rows)
    expected = [len(row) for path in source.files for row in json.loads(path.read_text())]
    assert [int(length) for _, _, length in restored] == expected


def test_one_shard_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One shard cannot be shuffled beyond its windows; that is logged once, and not where records are read in random order."""
    _log_one_shard.cache_clear()
    rows = [[1] * 9] * 5000
    list(ss.Loader(ss.Generator(rows), ss.Bucket(90, window_batches=4)))
    assert not caplog.records
    for _ in range(2):
        list(ss.Loader(ss.Generator(lambda: rows), ss.Bucket(90, window_batches=4)))
    assert [record.levelname for record in caplog.records if "the source is one shard" in record.message] == ["WARNING"]


def test_printing_a_loader_shows_the_flow(source: JsonArrays) -> None:
    """A loader prints its source and stages in the order in which data meets them."""
    text = repr(ss.Loader(source, ss.Filter(len), ss.Bucket(200), seed=3))
    assert text.index("JsonArrays") < text.index("Filter") < text.index("Bucket") < text.index("seed=3")


def test_rows_kept_empty_have_a_step_in_every_column(wordpiece_tokenizer: Tokenizer) -> None:
    """A row that gives no token of its own gets a padding token, and a type beside it; where rows have labels it is dropped."""
    bare: dict[str, Any] = {"special_tokens": False, "empty": "keep", "max_length": 32}
    texts = [{"prompt": "", "text": ""}, {"prompt": "a log", "text": "record"}]
    prompted = ss.Tokenize(wordpiece_tokenizer, prompt="prompt", **bare)
    loader = ss.Loader(ss.Generator(texts), prompted, ss.Pack(32, rows=1, causal=False), pad_values={"input_ids": 9})
    assert [batch.row_ids.tolist() for batch in loader] == [[1]]
    assert loader.stats.rows_without_labels == 1
    paired = ss.Tokenize(wordpiece_tokenizer, field=("prompt", "text"), **bare)
    batch = next(iter(ss.Loader(ss.Generator(texts), paired, ss.Bucket(64))))
    assert batch.lengths[1] == 1
    assert torch.equal(batch.layout.column_lengths["token_type_ids"], batch.lengths)
