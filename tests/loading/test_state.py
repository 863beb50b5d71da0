"""States: what they hold, how they go through JSON, and what is refused, entry by entry."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.loading.calibration import Calibration
from seqstream.loading.fingerprints import check_same, compact, differences, to_text
from seqstream.loading.state import Position, SavedState, read_state, write_state
from seqstream.loading.stats import Stats
from seqstream.windows.block_reader import Cursor, OpenShard
from seqstream.windows.settings import WindowStart
from tests.helpers.states import with_entry

FINGERPRINT: dict[str, Any] = {
    "source": {"kind": "TextFiles", "files": ["a.txt"], "bytes": 100},
    "shuffle": True,
    "stage 1": {"kind": "Tokenize", "tokenizer": "gpt2", "max_length": None},
    "batches": {"kind": "Bucket", "max_tokens": 100},
}

REBUILD = "build the loader as it was, or start anew"
NOT_STRICT = "or load with strict=False to begin the window under way again with these stages"


ENTRIES = (
    "version",
    "position.epoch",
    "position.until",
    "position.window.cursor.position",
    "position.window.cursor.source",
    "position.window.blocks",
    "position.window.skip",
    "position.window.planned_world_size",
    "position.window.served",
    "position.window.step",
    "calibration.engines",
    "calibration.shapes",
    "calibration.full_bytes",
    "calibration.world_size",
    "seed",
    "fingerprint",
)


def state_of(**others: Any) -> dict[str, Any]:
    """Make a complete state at the beginning of an epoch, with other entries at its top."""
    return {**write_state(SavedState(Position(0, 1, WindowStart()), Calibration(), 1, to_text(FINGERPRINT))), **others}


numbers = st.integers(0, (1 << 31) - 1)
ranks = st.integers(0, (1 << 17) - 1)
open_shards = st.builds(OpenShard, numbers, numbers, st.integers() | st.lists(st.text()))
cursors = st.builds(Cursor, numbers, st.lists(open_shards, max_size=3).map(tuple))
starts = st.builds(
    WindowStart, cursors, st.integers(1, (1 << 31) - 1), numbers, st.integers(1, (1 << 17) - 1), numbers, numbers
)
positions = st.builds(
    lambda epoch, more, start: Position(epoch, more and epoch + more, start), numbers, st.none() | ranks, starts
)
shapes = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=3).map(tuple)
calibrations = st.builds(
    Calibration,
    st.none() | st.dictionaries(st.text(), st.text(), min_size=1),
    st.none() | shapes,
    st.none() | st.integers(1, 1 << 40),
    ranks,
)
stats = st.none() | st.builds(Stats, st.integers(0, 99), st.integers(0, 99))


@settings(max_examples=100, deadline=None)
@given(st.builds(SavedState, positions, calibrations, st.integers(), st.just(to_text(FINGERPRINT)), stats))
def test_a_state_is_read_as_it_was_written(saved: SavedState) -> None:
    """Through JSON, whatever the open shards hold."""
    position = saved.position
    if position.until == 0:
        saved = dataclasses.replace(saved, position=dataclasses.replace(position, until=None))
    assert read_state(json.loads(json.dumps(write_state(saved)))) == saved


def test_a_state_by_hand() -> None:
    """Its entries and their meaning are fixed: states of today must be read tomorrow."""
    window = WindowStart(Cursor(7, (OpenShard(3, 40, {"next": 2}),)), blocks=5, skip=6, planned_world_size=1, served=2, step=3)
    calibration = Calibration({"text": "tokenizers"}, ((2, 30), (1, 60)), 4_000, 2)
    assert write_state(SavedState(Position(1, 4, window), calibration, 9, "{}", Stats(rows=3))) == {
        "version": 2,
        "position": {
            "epoch": 1,
            "until": 4,
            "window": {
                "cursor": {"position": 7, "source": [[3, 40, {"next": 2}]]},
                "blocks": 5,
                "skip": 6,
                "planned_world_size": 1,
                "served": 2,
                "step": 3,
            },
        },
        "calibration": {
            "engines": {"text": "tokenizers"},
            "shapes": [[2, 30], [1, 60]],
            "full_bytes": 4_000,
            "world_size": 2,
        },
        "seed": 9,
        "fingerprint": "{}",
        "stats": {"rows": 3},
    }


def test_a_state_with_entries_of_the_user_is_read() -> None:
    """They are passed over."""
    assert read_state(state_of(note="mine")) == read_state(json.loads(json.dumps(state_of())))


@pytest.mark.parametrize("name", ENTRIES)
def test_a_state_without_an_entry_is_refused(name: str) -> None:
    """The message names it."""
    state = state_of()
    *parents, last = name.split(".")
    found = state
    for parent in parents:
        found = found[parent]
    del found[last]
    with pytest.raises(ValueError, match=rf"^state must be what state_dict\(\) returned, got one without {re.escape(name)}$"):
        read_state(state)


def test_all_missing_entries_are_named() -> None:
    """The error for a dict of something else altogether lists what a state has."""
    message = (
        r"got one without calibration\.engines, calibration\.full_bytes, calibration\.shapes, calibration\.world_size, fing"
    )
    with pytest.raises(ValueError, match=message):
        read_state({"model": 1})


@pytest.mark.parametrize("name", ["position", "position.window", "position.window.cursor", "calibration"])
@pytest.mark.parametrize("value", [None, 3, [1]])
def test_what_is_no_dict_inside_of_a_state_is_refused(name: str, value: Any) -> None:
    """The message names it."""
    message = rf"^{re.escape(name)} of the state must be a dict, got {re.escape(repr(value))}; load it as it was saved$"
    with pytest.raises(ValueError, match=message):
        read_state(with_entry(state_of(), name, value))


def test_a_state_of_an_earlier_version_is_refused() -> None:
    """Before its entries are checked; the error says what to do."""
    message = (
        "^state is of version 1, saved by an earlier version of seqstream, and cannot be read: rows come in another order "
        r"since; start the epoch anew with set_epoch\(\), or finish the run with the earlier version$"
    )
    with pytest.raises(ValueError, match=message):
        read_state({"version": 1})


@pytest.mark.parametrize("version", [0, 3, "2", None, []])
def test_a_state_of_no_known_version_is_refused(version: Any) -> None:
    """The message has both versions."""
    shown = re.escape(repr(version))
    with pytest.raises(
        ValueError, match=rf"^state must be of version 2, got {shown}; load it with the seqstream that saved it$"
    ):
        read_state(state_of(version=version))


@pytest.mark.parametrize(("state", "name"), [(None, "NoneType"), ([1], "list"), ("{}", "str")])
def test_what_is_no_dict_is_refused(state: Any, name: str) -> None:
    """The message has the type."""
    with pytest.raises(TypeError, match=rf"^state must be the dict that state_dict\(\) returned, got {name}$"):
        read_state(state)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("position.window.skip", 1 << 31, "a whole number from 0 up, below 2,147,483,648"),
        ("position.window.skip", -1, "a whole number from 0 up, below 2,147,483,648"),
        ("position.window.served", 1.0, "a whole number from 0 up, below 2,147,483,648"),
        ("position.window.served", True, "a whole number from 0 up, below 2,147,483,648"),
        ("position.window.blocks", [], "a whole number from 0 up, below 2,147,483,648"),
        ("position.window.planned_world_size", None, "a number of ranks, below 131,072"),
        ("position.window.planned_world_size", 1 << 30, "a number of ranks, below 131,072"),
        ("position.window.step", "3", "a whole number from 0 up, below 2,147,483,648"),
        ("position.epoch", -1, "a whole number from 0 up"),
        ("position.window.cursor.position", None, "a whole number from 0 up"),
        ("position.until", 0, "a whole number from 1 up, or None"),
        ("calibration.full_bytes", 0, "a whole number of bytes, or None"),
        ("calibration.full_bytes", 1.5, "a whole number of bytes, or None"),
        ("calibration.world_size", -1, "a number of ranks, below 131,072"),
        ("seed", "1", "a whole number"),
        ("fingerprint", "", "the text that state_dict"),
        ("fingerprint", '{"source": {"kind"', "the text that state_dict"),
        ("fingerprint", "[1]", "the text that state_dict"),
        ("calibration.shapes", [[3, 0]], "pairs of rows and length, or None"),
        ("calibration.shapes", 3, "pairs of rows and length, or None"),
        ("calibration.engines", {"text": 1}, "a dict of engines by column"),
        ("position.window.cursor.source", [[0, -5, 1]], "shards that were begun: number, records and state of each"),
        ("position.window.cursor.source", [[0, 5, None]], "shards that were begun: number, records and state of each"),
        ("position.window.cursor.source", [[0, 5]], "shards that were begun: number, records and state of each"),
    ],
)
def test_an_entry_that_no_state_has_is_refused(name: str, value: Any, rule: str) -> None:
    """By its name, with what it must be and what it is."""
    shown = re.escape(f"{value!r}")
    message = rf"^{re.escape(name)} of the state must be {rule}.*, got {shown}; load it as it was saved$"
    with pytest.raises(ValueError, match=message):
        read_state(with_entry(state_of(), name, value))


def test_entries_that_do_not_go_together_are_refused() -> None:
    """An end before the beginning, and rows of a window that has no blocks."""
    state = with_entry(with_entry(state_of(), "position.epoch", 3), "position.until", 2)
    with pytest.raises(
        ValueError, match=r"^position\.until of the state must be after epoch 3, got 2; load it as it was saved$"
    ):
        read_state(state)
    message = (
        r"^position\.window\.served of the state must be 0 in a window of planned_world_size 0 and 1 blocks, got 5; load it"
    )
    with pytest.raises(ValueError, match=message):
        read_state(with_entry(state_of(), "position.window.served", 5))


def test_a_state_is_the_users_own() -> None:
    """Whatever is done to it, the records that it was written from, and those that were read from it, stay as they were."""
    window = WindowStart(Cursor(7, (OpenShard(3, 40, {"next": 2}),)))
    saved = SavedState(Position(0, 1, window), Calibration({"text": "tokenizers"}, ((2, 3),)), 1, to_text(FINGERPRINT))
    state = write_state(saved)
    found = read_state(state)
    state["position"]["window"]["cursor"]["source"][0][2]["next"] = 9
    state["calibration"]["engines"].clear()
    state["calibration"]["shapes"].append([1, 1])
    assert found == saved
    assert write_state(saved) == write_state(found) != state


SAVED: dict[str, Any] = {"seed": 1, **FINGERPRINT}


def test_the_same_fingerprint_is_accepted() -> None:
    """Also as it is after a round trip through JSON."""
    identity = read_state(json.loads(json.dumps(state_of()))).identity
    assert identity == SAVED
    assert check_same(identity, SAVED, strict=True) == set()
    assert check_same(SAVED, SAVED, strict=False) == set()


def changed(entry: str, **values: Any) -> dict[str, Any]:
    return {**FINGERPRINT, entry: {**FINGERPRINT[entry], **values}}


@pytest.mark.parametrize(
    ("fingerprint", "seed", "message"),
    [
        (
            FINGERPRINT,
            2,
            f"state was saved for seed 1, this loader has 2; {REBUILD}",
        ),
        (
            changed("source", bytes=101),
            1,
            f"state was saved for source.bytes 100, this loader has 101; {REBUILD}",
        ),
        (
            {**FINGERPRINT, "shuffle": False},
            1,
            f"state was saved for shuffle True, this loader has False; {REBUILD}",
        ),
        (
            changed("stage 1", max_length=9),
            1,
            f"state was saved for stage 1.max_length nothing, this loader has 9; {REBUILD}, {NOT_STRICT}",
        ),
        (
            {**FINGERPRINT, "shuffle": 0},
            2,
            f"state was saved for seed 1, this loader has 2; state was saved for shuffle True, this loader has 0; {REBUILD}",
        ),
        (
            {key: value for key, value in FINGERPRINT.items() if key != "stage 1"},
            1,
            f"state was saved for stage 1 {FINGERPRINT['stage 1']}, this loader has nothing; {REBUILD}, {NOT_STRICT}",
        ),
    ],
)
def test_each_entry_that_differs_is_named(fingerprint: Any, seed: int, message: str) -> None:
    """With both values, and what to do; ``strict=False`` is offered only where it helps."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        check_same(SAVED, {"seed": seed, **fingerprint}, strict=True)
    assert str(caught.value) == message


def test_other_stages_are_accepted_unless_strict() -> None:
    """With ``strict=False`` source, seed and order must agree, and nothing else; the result names what differs."""
    assert check_same(SAVED, {"seed": 1, **changed("stage 1", max_length=9)}, strict=False) == {"stage 1"}
    assert check_same(SAVED, {"seed": 1, **changed("batches", max_tokens=9)}, strict=False) == {"batches"}
    for fingerprint, seed, entry in (
        (changed("source", bytes=1), 1, "source.bytes"),
        ({**FINGERPRINT, "shuffle": False}, 1, "shuffle"),
        (changed("batches", max_tokens=9), 7, "seed"),
    ):
        with pytest.raises(ValueError, match=f"^state was saved for {entry} [^;]*; build the loader as it was, or start anew$"):
            check_same(SAVED, {"seed": seed, **fingerprint}, strict=False)


def test_differences_go_into_nested_entries() -> None:
    """Entries of one side only count as missing on the other."""
    saved = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]}
    own = {"a": 1, "b": {"c": 4, "f": 5}, "e": [1, 3]}
    assert list(differences(saved, own)) == [("b.c", 2, 4), ("b.d", 3, None), ("b.f", None, 5), ("e", [1, 2], [1, 3])]
    assert list(differences(saved, saved)) == []


def test_fingerprints_stay_small() -> None:
    """A long entry is shown by its beginning and a hash of all of it; short ones are kept; nesting is kept."""
    files = [f"part-{number}.txt" for number in range(1000)]
    fingerprint = compact({"source": {"files": files, "seed": 3, "none": None, "pair": (1, 2)}, 5: "x"})
    assert fingerprint["source"]["files"].startswith('["part-0.txt", "part-1.t… (')
    assert len(fingerprint["source"]["files"]) < 50
    assert {**fingerprint["source"], "files": 0} == {"files": 0, "seed": 3, "none": None, "pair": [1, 2]}
    assert fingerprint["5"] == "x"
    assert compact(files) == compact(list(files))
    assert compact(files) != compact([*files[:-1], "other"])
    assert compact(fingerprint) == json.loads(json.dumps(fingerprint)) == fingerprint


def test_entries_are_kept_up_to_their_limit() -> None:
    """160 characters of JSON stay as they are, one more does not."""
    assert compact("x" * 158) == "x" * 158
    assert compact("x" * 159).endswith(")")
