"""Bad records, other data, other states and incomplete options of a rank are named on every rank, before rows are paired."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import seqstream as ss
from seqstream.testing.rank_threads import Options, try_ranks
from tests.helpers.rank_corpora import SPECS, make_ids, make_loader

MEET = r"ranks must take the same steps, got rank \d at epoch \d, position \d+ and rank \d at epoch \d, position \d+"


def assert_matches(pattern: str, message: object) -> None:
    """Assert that a message matches a pattern."""
    with pytest.raises(RuntimeError, match=pattern):
        raise RuntimeError(str(message))


def test_the_first_record_is_bad() -> None:
    """If no engine can be chosen, rank 0 raises the error, and the others name rank 0."""

    def bad(texts: list[str]) -> list[list[int]]:
        raise ArithmeticError("no text is good")

    def job(options: Options) -> None:
        list(ss.Loader(ss.Generator(["a", "b"] * 9), ss.Tokenize(bad, max_length=9), ss.Bucket(20), **options))

    for outcome in try_ranks(3, job):
        assert "no text is good" in str(outcome)


def test_a_missing_value() -> None:
    """The rank with a missing value names its location; the others name the rank."""
    rows = [{"input_ids": [1, 2], "score": None if number == 11 else 1.0} for number in range(12)]
    import pyarrow as pa

    class Rows(ss.Source):
        num_shards = 1

        def read(self, shard: int, state: Any = None) -> Any:
            for number in range(int(state or 0), 12, 4):
                table = pa.Table.from_pylist(rows[number : number + 4], schema=SCHEMA)
                yield table, None if number == 8 else number + 4

        def fingerprint(self) -> Any:
            return {}

        def locate(self, row_id: int) -> str:
            return f"row {row_id}"

    schema = [("input_ids", pa.list_(pa.int32())), ("score", pa.float32())]
    SCHEMA = pa.schema(schema)  # noqa: N806

    outcomes = try_ranks(3, lambda options: list(ss.Loader(Rows(), ss.Unbucketed(4), shuffle=False, prefetch=0, **options)))
    named = [outcome for outcome in outcomes if "cannot go on" not in str(outcome)]
    assert len(named) == 1
    assert "row 11" in "".join([str(named[0]), *getattr(named[0], "__notes__", ())])


def test_other_data_on_a_rank() -> None:
    """If a rank has another source, all ranks raise before they exchange rows."""

    def job(options: Options) -> None:
        rows = [[1, 2, 3]] * (60 if options["rank"] else 20)
        list(make_ids(rows, ss.Bucket(batch_size=4, window_batches=4), 40, prefetch=0, **options))

    for outcome in try_ranks(2, job):
        assert isinstance(outcome, RuntimeError)
        assert_matches(
            "ranks must have the same data and options, got source.records.items 20 on rank 0, 60 on rank 1", outcome
        )


def test_other_states_on_ranks() -> None:
    """If a rank has loaded another state, all ranks raise."""
    make = functools.partial(make_ids, [[1, 2, 3]] * 60, ss.Bucket(batch_size=4, window_batches=4), 40)
    states = [batch.state for batch in make()]

    def job(number: int, options: Options) -> None:
        loader = make(**options)
        loader.load_state_dict(states[number * options["rank"]])
        list(loader)

    for number, match in ((1, "ranks must have the same data and state, got"), (len(states) - 3, MEET)):
        for outcome in try_ranks(2, functools.partial(job, number)):
            assert isinstance(outcome, RuntimeError)
            assert_matches(match, outcome)


def test_rank_options_are_complete() -> None:
    """``rank``, ``world_size`` and ``all_gather`` must be given together."""
    for options, match in (
        ({"rank": 0}, "rank and world_size must be given together, got rank=0 and world_size=None"),
        ({"rank": 2, "world_size": 2}, r"rank must be in range\(world_size\), got rank=2 and world_size=2"),
        ({"rank": 0, "world_size": 2}, "all_gather must be given with world_size=2, a function that returns to every rank"),
        ({"uneven": "pad"}, "uneven must be one of 'repeat', 'drop', got 'pad'"),
    ):
        with pytest.raises(ValueError, match=match):
            make_loader(ss.Generator(["a"]), SPECS["tokens"], **options)
