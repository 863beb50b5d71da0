"""States: what they hold, how they go through JSON, and what is refused, entry by entry."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqstream.loading.state import Position, check_form, check_same, compact, differences, own_copy, write
from seqstream.windows.block_reader import Cursor, OpenShard
from seqstream.windows.settings import WindowStart

FINGERPRINT: dict[str, Any] = {
    "source": {"kind": "TextFiles", "files": ["a.txt"], "bytes": 100},
    "shuffle": True,
    "stage 1": {"kind": "Tokenize", "tokenizer": "gpt2", "max_length": None},
    "batches": {"kind": "Bucket", "max_tokens": 100},
}

REBUILD = "build the loader as it was, or start anew"
NOT_STRICT = "or load with strict=False to begin the window under way again with these stages"


def state_of(**others: Any) -> dict[str, Any]:
    """Make a complete state at the beginning of an epoch."""
    parts = {"fingerprint": write(FINGERPRINT), "seed": 1, "engine": {}, "shapes": None}
    return {**Position(0, 1, WindowStart()).to_json(**parts), **others}


open_shards = st.builds(OpenShard, st.integers(0), st.integers(0), st.none() | st.integers() | st.lists(st.text()))
places = st.builds(Cursor, st.integers(0), st.lists(open_shards, max_size=3).map(tuple))
starts = st.builds(WindowStart, places, *[st.integers(0)] * 5)


@settings(max_examples=100, deadline=None)
@given(st.builds(Position, st.integers(0), st.none() | st.integers(0), starts))
def test_a_position_comes_back_from_json(position: Position) -> None:
    """Whatever the open shards say of themselves."""
    assert Position.from_json(json.loads(json.dumps(position.to_json()))) == position


def test_a_state_by_hand() -> None:
    """Its keys and their meaning are fixed: states of today must be read tomorrow."""
    window = WindowStart(Cursor(7, (OpenShard(3, 40, {"next": 2}),)), blocks=5, skip=6, planned_world_size=1, served=2, step=3)
    assert Position(1, 4, window).to_json(fingerprint={}, seed=9, engine={"text": "tokenizers"}) == {
        "version": 2,
        "fingerprint": {},
        "seed": 9,
        "engine": {"text": "tokenizers"},
        "epoch": 1,
        "until": 4,
        "position": 7,
        "blocks": 5,
        "skip": 6,
        "group": 1,
        "served": 2,
        "step": 3,
        "source": [[3, 40, {"next": 2}]],
    }


def test_a_state_is_complete_as_saved() -> None:
    """What was saved is accepted, also with entries that nobody knows."""
    check_form(state_of())
    check_form(json.loads(json.dumps(state_of(note="mine"))))


@pytest.mark.parametrize("key", sorted(state_of()))
def test_a_state_without_an_entry_is_refused(key: str) -> None:
    """The message names it."""
    state = state_of()
    del state[key]
    with pytest.raises(ValueError, match=rf"^state must be what state_dict\(\) returned, got one without {key}$"):
        check_form(state)


def test_all_missing_entries_are_named() -> None:
    """A dict of something else altogether hears what a state has."""
    with pytest.raises(ValueError, match=r"got one without blocks, engine, epoch, fingerprint, group, position, seed,"):
        check_form({"model": 1})


def test_a_state_of_another_version_is_refused() -> None:
    """Before anything is said of its entries."""
    message = (
        "^state must be of version 2, got 1, which serves rows in another order; go on with the seqstream that saved it, or "
        "start the epoch anew$"
    )
    with pytest.raises(ValueError, match=message):
        check_form({"version": 1})


@pytest.mark.parametrize(("state", "name"), [(None, "NoneType"), ([1], "list"), ("{}", "str")])
def test_what_is_no_dict_is_refused(state: Any, name: str) -> None:
    """The message has the type."""
    with pytest.raises(TypeError, match=rf"^state must be the dict that state_dict\(\) returned, got {name}$"):
        check_form(state)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("skip", 1 << 31, "a whole number from 0 up, below 2,147,483,648"),
        ("skip", -1, "a whole number from 0 up, below 2,147,483,648"),
        ("served", 1.0, "a whole number from 0 up, below 2,147,483,648"),
        ("served", True, "a whole number from 0 up, below 2,147,483,648"),
        ("blocks", [], "a whole number from 0 up, below 2,147,483,648"),
        ("group", None, "a number of ranks, below 131,072"),
        ("group", 1 << 30, "a number of ranks, below 131,072"),
        ("step", "3", "a whole number from 0 up, below 2,147,483,648"),
        ("epoch", -1, "a whole number from 0 up"),
        ("position", None, "a whole number from 0 up"),
        ("until", 0, "a whole number from 1 up, or None"),
        ("seed", "1", "a whole number"),
        ("fingerprint", "", "the text that state_dict"),
        ("fingerprint", '{"source": {"kind"', "the text that state_dict"),
        ("fingerprint", "[1]", "the text that state_dict"),
        ("shapes", [[3, 0]], "pairs of rows and length, or None"),
        ("shapes", 3, "pairs of rows and length, or None"),
        ("engine", {"text": 1}, "a dict of engines by column"),
        ("source", [[0, -5, 1]], "shards that were begun: number, records and state of each"),
        ("source", [[0, 5, None]], "shards that were begun: number, records and state of each"),
        ("source", [[0, 5]], "shards that were begun: number, records and state of each"),
    ],
)
def test_an_entry_that_no_state_has_is_refused(key: str, value: Any, rule: str) -> None:
    """By its name, with what it must be and what it is."""
    shown = re.escape(f"{value!r}")
    with pytest.raises(ValueError, match=rf"^{key} of the state must be {rule}.*, got {shown}; load it as it was saved$"):
        check_form(state_of(**{key: value}))


def test_entries_that_do_not_go_together_are_refused() -> None:
    """An end before the beginning, and rows of a window that has no blocks."""
    with pytest.raises(ValueError, match=r"^until of the state must be after epoch 3, got 2; load it as it was saved$"):
        check_form(state_of(epoch=3, until=2))
    with pytest.raises(ValueError, match=r"^served of the state must be 0 in a window of group 0 and 1 blocks, got 5; load it"):
        check_form(state_of(served=5))


def test_a_copy_is_the_users_own() -> None:
    """Whatever is done to it, the state stays as it was."""
    state = state_of(source=[[3, 40, {"next": 2}]], engine={"text": "tokenizers"}, shapes=[[2, 3]])
    copied = own_copy(state)
    assert copied == state
    copied["source"][0][2]["next"] = 9
    copied["engine"].clear()
    copied["shapes"].append([1, 1])
    assert state == state_of(source=[[3, 40, {"next": 2}]], engine={"text": "tokenizers"}, shapes=[[2, 3]])


def test_the_same_fingerprint_is_accepted() -> None:
    """Also as it comes back from JSON."""
    assert check_same(json.loads(json.dumps(state_of())), write(FINGERPRINT), 1, strict=True)
    assert check_same(state_of(), write(FINGERPRINT), 1, strict=False)


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
        check_same(state_of(), write(fingerprint), seed, strict=True)
    assert str(caught.value) == message


def test_other_stages_are_accepted_unless_strict() -> None:
    """With ``strict=False`` source, seed and order must agree, and nothing else; the answer says whether all does."""
    assert not check_same(state_of(), write(changed("stage 1", max_length=9)), 1, strict=False)
    assert not check_same(state_of(), write(changed("batches", max_tokens=9)), 1, strict=False)
    for fingerprint, seed, entry in (
        (changed("source", bytes=1), 1, "source.bytes"),
        ({**FINGERPRINT, "shuffle": False}, 1, "shuffle"),
        (changed("batches", max_tokens=9), 7, "seed"),
    ):
        with pytest.raises(ValueError, match=f"^state was saved for {entry} [^;]*; build the loader as it was, or start anew$"):
            check_same(state_of(), write(fingerprint), seed, strict=False)


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
