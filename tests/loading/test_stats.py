"""What a loader counts: differences, numbers for a logger, and counts that go on where a state is loaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

import seqstream as ss
from seqstream.planning.batch_spec import BatchSpec
from seqstream.testing.expectations import through_json
from seqstream.testing.rank_threads import Options, run_ranks

ROWS = [[1] * (1 + number % 13) for number in range(200)]


def make(spec: BatchSpec = ss.Bucket(60), **options: Any) -> ss.Loader:  # noqa: B008 - a spec never changes
    return ss.Loader(ss.Generator(ROWS), spec, **options)


def test_counts_since_an_earlier_time() -> None:
    """What an epoch counts is what all have counted without what was before it."""
    loader = make()
    list(loader)
    before = loader.stats
    batches = list(loader)
    epoch = loader.stats.since(before)
    assert (epoch.batches, epoch.rows, epoch.tokens) == (len(batches), 200, sum(map(len, ROWS)))
    assert epoch.slots == sum(batch.num_slots for batch in batches)
    assert epoch.rows_per_batch == 200 / len(batches)
    assert loader.stats.since(ss.Stats()) == loader.stats


def test_numbers_for_a_logger() -> None:
    """All fields, and the means and shares that follow from them, are numbers that JSON takes."""
    loader = make()
    assert set(loader.stats.to_dict().values()) == {0}
    list(loader)
    shown = loader.stats.to_dict()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["rows"] == 200
    assert shown["padding"] == loader.stats.padding
    assert shown["tokens_per_second"] == loader.stats.tokens_per_second
    assert {name for name in shown if not hasattr(loader.stats, name)} == set()


def test_counts_go_on_where_a_state_is_loaded() -> None:
    """They are kept if asked for, add few bytes, and end as those of a run without a break; else they begin at 0."""
    whole = make()
    list(whole)
    loader = make()
    iterator = iter(loader)
    for _ in range(7):
        next(iterator)
    plain, state = loader.state_dict(), through_json(loader.state_dict(stats=True))
    assert plain.keys() == state.keys() - {"stats"}
    assert len(json.dumps(state["stats"])) < 200
    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.stats.rows == loader.stats.rows > 0
    list(resumed)
    counted = {name for name in whole.stats.to_dict() if "second" not in name}
    assert {name: resumed.stats.to_dict()[name] for name in counted} == {name: whole.stats.to_dict()[name] for name in counted}
    fresh = make()
    fresh.load_state_dict(plain)
    assert fresh.stats == ss.Stats()


@pytest.mark.parametrize("stats", [3, {"rows": "many"}, {"rows": -1}])
def test_counts_that_are_none(stats: Any) -> None:
    """They are refused by what they hold; those of a later version, of other names, are passed over."""
    loader = make()
    with pytest.raises(ValueError, match="stats of a state must be counts by name, got"):
        loader.load_state_dict({**loader.state_dict(), "stats": stats})
    loader.load_state_dict({**loader.state_dict(), "stats": {"rows": 3, "later": 4}})
    assert loader.stats.rows == 3


FULL: list[BatchSpec] = [
    ss.Bucket(batch_size=7, drop_last=True, window_batches=4),
    ss.Pack(16, rows=2, drop_last=True, window_batches=4),
    ss.Unbucketed(7, drop_last=True),
]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("spec", FULL, ids=repr)
def test_the_last_short_batches_are_left_out_and_counted(spec: BatchSpec, world_size: int) -> None:
    """Every step is whole on all ranks, an epoch leaves out less than one step, windows leave out none, resuming is exact."""

    def job(options: Options) -> tuple[list[ss.Batch], ss.Stats, list[list[int]]]:
        loader = make(spec, accumulate=2, epochs=2, **options)
        batches = list(loader)
        resumed = make(spec, accumulate=2, epochs=2, **options)
        resumed.load_state_dict(through_json(batches[5].state))
        return batches, loader.stats, [batch.row_ids.tolist() for batch in resumed]

    found = run_ranks(world_size, job)
    rows = dropped = 0
    for batches, stats, resumed in found:
        assert resumed == [batch.row_ids.tolist() for batch in batches[6:]]
        assert len(batches) == 2 * stats.steps
        assert not stats.made_up_rows
        if not isinstance(spec, ss.Pack):
            assert {batch.num_rows for batch in batches} == {7}
        rows, dropped = rows + stats.rows, dropped + stats.dropped
    assert rows + dropped == 400
    if isinstance(spec, ss.Pack):
        assert 0 < dropped < 100
    else:
        assert dropped == 2 * (200 % (7 * 2 * world_size))


def test_where_no_batch_is_short() -> None:
    """Under a budget or with shapes rows are shared out, so there is no last batch to leave out, and the option is refused."""
    for options in ({"max_tokens": 90}, {"max_tokens": 90, "batch_size": 7}, {"shapes": [(4, 16)]}):
        with pytest.raises(
            ValueError, match=r"^drop_last needs batches of one number of rows, Bucket\(batch_size=\.\.\.\) alone"
        ):
            ss.Bucket(**options, drop_last=True)
    assert "drop_last" not in ss.Bucket(90).fingerprint()
    assert ss.Bucket(batch_size=9, drop_last=True).fingerprint()["drop_last"] is True


def test_a_loader_has_no_dataset() -> None:
    """The error for code that would skip batches to resume, as Trainer does, names what resumes at once."""
    assert not hasattr(make(), "dataset")
    with pytest.raises(AttributeError, match=r"load_state_dict\(batch\.state\) goes on at once.* ignore_data_skip=True"):
        make().dataset  # noqa: B018 - it raises


def test_numbers_of_a_batch_and_of_a_window() -> None:
    """Those of batches add up to those of the loader, and ``window_stats`` to those of the batches of the window under way."""
    loader = make(ss.Bucket(60, window_batches=4))
    batches = []
    for batch in loader:
        batches.append(batch)
        own = [each.stats() for each in batches if each.window == batch.window]
        shown = loader.window_stats.to_dict()
        assert shown["batches"] == len(own)
        for name in ("rows", "tokens", "slots"):
            assert shown[name] == sum(each[name] for each in own)
    assert len({batch.window for batch in batches}) > 1
    for name in ("rows", "tokens", "slots"):
        assert loader.stats.to_dict()[name] == sum(batch.stats()[name] for batch in batches)
    first = batches[0].stats()
    assert json.loads(json.dumps(first)) == first
    assert (first["longest"], first["shortest"]) == (batches[0].lengths.max(), batches[0].lengths.min())
    assert first["padding"] == 1 - first["tokens"] / first["slots"]


def test_a_window_begins_where_a_state_is_loaded() -> None:
    """What was counted before is not part of the window under way."""
    loader = make(ss.Bucket(60, window_batches=4))
    iterator = iter(loader)
    for _ in range(7):
        next(iterator)
    resumed = make(ss.Bucket(60, window_batches=4))
    resumed.load_state_dict(loader.state_dict(stats=True))
    assert resumed.window_stats == ss.Stats()
    batch = next(iter(resumed))
    assert resumed.window_stats.rows == batch.stats()["rows"] < resumed.stats.rows


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("on_batch", [ss.CausalLabels(), None], ids=["labels", "tokens"])
def test_shares_of_a_step_add_up(accumulate: int, on_batch: ss.CausalLabels | None) -> None:
    """The shares of the batches of a step are those of their labels, or of their tokens, and add up to 1."""
    total = 0.0
    for batch in make(accumulate=accumulate, on_batch=on_batch):
        own, step = (
            (batch.num_label_tokens, batch.step_num_label_tokens) if on_batch else (batch.num_tokens, batch.step_num_tokens)
        )
        assert batch.step_share == pytest.approx(own / step)
        total += batch.step_share
        if batch.is_step_end:
            assert total == pytest.approx(1)
            total = 0.0
