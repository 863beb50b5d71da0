"""What processes keep on disk: used where all of its key is the same, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from seqstream.tokenizing import disk_cache, engine_choice
from seqstream.tokenizing.engine_choice import EngineComparison
from seqstream.tokenizing.engines import EngineError
from seqstream.tokenizing.stage import Tokenize
from seqstream.tokenizing.tokenizer_reading import read_tokenizer
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec
from tests.helpers.forked import Program


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is used."""
    monkeypatch.setenv("SEQSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of each comparison of engines."""
    counts: list[int] = []
    find_difference = engine_choice.find_difference

    def counting(*arguments: object) -> str | None:
        counts.append(len(arguments[-1]))  # type: ignore[arg-type]
        return find_difference(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_choice, "find_difference", counting)
    return counts


def prove(tokenizer_spec: TokenizerSpec, name: str = "fastokens", texts: tuple[str, ...] = ("a text",)) -> EngineComparison:
    """Compare an engine as a new process would."""
    comparison = EngineComparison(tokenizer_spec, name)
    assert comparison.find_difference(list(texts)) is None
    return comparison


def files_of(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).iterdir()) if (folder / kind).exists() else []


PROCESS = """
    import json, sys
    import seqstream as ss

    tokenize = ss.Tokenize(sys.argv[1], max_length=64)
    loader = ss.Loader(ss.TextFiles(sys.argv[2]), tokenize, ss.Bucket(max_tokens=256), seed=3)
    ids = [batch.input_ids.tolist() for batch in loader]
    state = loader.state_dict()
    print(json.dumps([sorted({"tokenizers", "fastokens"} & sys.modules.keys()), ids, state]))
"""


def start_process(tokenizer: Path, text: Path, cache: str) -> Program:
    file = text.with_name("process.py")
    file.write_text(textwrap.dedent(PROCESS))
    return Program(file, (str(tokenizer), str(text)), cwd=text.parent, environment={"SEQSTREAM_CACHE": cache})


def output_of(program: Program) -> list[object]:
    with program:
        done = program.wait()
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_the_second_process_loads_no_reference(bpe_file: Path, texts: list[str], tmp_path: Path) -> None:
    """Two processes at once prove the engine; a later one imports no `tokenizers`; all have the batches and the state."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(texts[:300]), encoding="utf-8")
    cache = str(tmp_path / "cache")
    first, same_time, without = (start_process(bpe_file, text, each) for each in (cache, cache, "off"))
    expected = output_of(without)
    assert expected[0] == ["fastokens", "tokenizers"]
    at_once = [output_of(first), output_of(same_time)]  # the slower one may find what the other has stored
    assert expected in at_once
    assert at_once[0][1:] == at_once[1][1:] == expected[1:]
    later = output_of(start_process(bpe_file, text, cache))
    assert later == [["fastokens"], *expected[1:]]
    assert len(files_of(Path(cache), "tokenizers")) == 1
    assert len(files_of(Path(cache), "proofs")) == 2


def test_a_proof_is_found_again(bpe_tokenizer: Tokenizer, cache: Path, compared: list[int]) -> None:
    """The same tokenizer and texts are compared once; with other texts, these alone; what was proven builds no reference."""
    tokenizer_spec = read_tokenizer(bpe_tokenizer, special_tokens=True)
    prove(tokenizer_spec)
    assert prove(tokenizer_spec).reference._encode is None
    assert len(compared) == 1
    prove(tokenizer_spec, texts=("other", "texts"))
    assert compared[1:] == [2]
    again = prove(tokenizer_spec, texts=("other", "texts"))
    assert again.find_difference(["and", "three", "more"]) is None
    assert compared[1:] == [2, 3]


def _other_tokenizer(tokenizer_spec: TokenizerSpec) -> TokenizerSpec:
    changed = json.loads(tokenizer_spec.json)
    changed["model"]["merges"].pop()
    return dataclasses.replace(tokenizer_spec, source=json.dumps(changed))


SPECS: dict[str, Callable[[TokenizerSpec], TokenizerSpec]] = {
    "serialised form": _other_tokenizer,
    "special tokens": lambda spec: dataclasses.replace(spec, special_tokens=False),
    "special tokens in texts": lambda spec: dataclasses.replace(spec, split_special_tokens=True),
    "special tokens before": lambda spec: dataclasses.replace(spec, special_before=(0,)),
    "added tokens": lambda spec: dataclasses.replace(spec, added_tokens=()),
    "bare": lambda spec: spec.bare,
}


@pytest.mark.parametrize("change", SPECS)
def test_another_tokenizer_is_proven_anew(change: str, bpe_tokenizer: Tokenizer, cache: Path, compared: list[int]) -> None:
    """A proof is of one tokenizer with its options: every part of the spec but its name is in the key."""
    tokenizer_spec = read_tokenizer(bpe_tokenizer, special_tokens=True)
    prove(tokenizer_spec)
    prove(dataclasses.replace(tokenizer_spec, name="another name"))
    assert len(compared) == 1
    prove(SPECS[change](tokenizer_spec))
    assert len(compared) == 2


@pytest.mark.parametrize("change", ["engine", "reference", "file", "machine", "code", "setting", "texts"])
def test_other_circumstances_are_proven_anew(
    change: str, bpe_tokenizer: Tokenizer, cache: Path, compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version or file of the engine or the reference, another Python, our code, a setting, or texts: no proof yet."""
    tokenizer_spec = read_tokenizer(bpe_tokenizer, special_tokens=True)
    prove(tokenizer_spec)
    package = {"engine": "fastokens", "file": "fastokens", "reference": "tokenizers"}.get(change)
    if package:
        found = dict(disk_cache._package(package))  # type: ignore[arg-type]
        found |= {"files": found["files"][1:]} if change == "file" else {"version": "0.0"}  # type: ignore[index]
        real = disk_cache._package
        monkeypatch.setattr(disk_cache, "_package", lambda name: found if name == package else real(name))
    elif change == "machine":
        monkeypatch.setattr(sys, "version", "3.99")
    elif change == "code":
        monkeypatch.setattr(disk_cache, "own_code", lambda: "other code")
    elif change == "setting":
        monkeypatch.setenv("FASTOKENS_BPE_THREADS", "1")
    prove(tokenizer_spec, texts=("other",) if change == "texts" else ("a text",))
    assert len(compared) == 2


def test_a_named_engine_has_a_proof_of_its_own(wordpiece_tokenizer: Tokenizer, cache: Path, compared: list[int]) -> None:
    """The proof of one engine is none of another."""
    tokenizer_spec = read_tokenizer(wordpiece_tokenizer, special_tokens=True)
    prove(tokenizer_spec, "nanotoken")
    with pytest.raises(EngineError, match="engine fastokens cannot use tokenizer"):
        EngineComparison(tokenizer_spec, "fastokens").find_difference(["a text"])
    assert len(compared) == 2
    with pytest.raises(EngineError, match="engine fastokens cannot use tokenizer"):
        EngineComparison(tokenizer_spec, "fastokens").find_difference(["a text"])  # a failure is not stored
    assert len(compared) == 3


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-7],
    "one bit": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "longer": lambda data: data + b" ",
    "foreign": lambda _: b"\x80\x04 not ours",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_ignored(damage: str, bpe_file: Path, cache: Path, compared: list[int]) -> None:
    """A file that is not whole is as good as none, and is written again."""
    proven = prove(read_tokenizer(bpe_file, special_tokens=True)).engine.tokenizer_spec
    files = [*files_of(cache, "tokenizers"), *files_of(cache, "proofs")]
    whole = {file: file.read_bytes() for file in files}
    for file, data in whole.items():
        file.write_bytes(DAMAGES[damage](data))
    read = read_tokenizer(bpe_file, special_tokens=True)
    assert read == proven
    prove(read)
    assert len(compared) == 2
    assert {file: file.read_bytes() for file in files} == whole


def test_the_file_of_another_key_is_ignored(cache: Path) -> None:
    """A whole file under the name of another key is not its result."""
    for key in ("a", "b"):
        disk_cache.save("proofs", {"key": key}, key.encode())
    first, second = files_of(cache, "proofs")
    results = {key: disk_cache.load("proofs", {"key": key}) for key in ("a", "b")}
    assert results == {"a": b"a", "b": b"b"}
    second.write_bytes(first.read_bytes())
    assert sorted(map(str, (disk_cache.load("proofs", {"key": key}) for key in ("a", "b")))) in (
        ["None", "b'a'"],
        ["None", "b'b'"],
    )


@pytest.mark.parametrize("change", [None, "split", "file", "code"])
def test_a_tokenizer_is_read_once(change: str | None, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read from a file or an object is stored, with truncation and padding; it is read again if anything differs."""
    tokenizer = Tokenizer.from_file(str(data / "tokenizers" / "bert_uncased" / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=3, pad_type_id=1, direction="left")
    tokenizer.enable_truncation(5, direction="left")
    spec = read_tokenizer(tokenizer, special_tokens=True)
    assert (spec.pad_id, spec.pad_type, spec.padding_side, spec.truncation_side) == (3, 1, "left", "left")
    if change == "split":
        tokenizer.encode_special_tokens = True
    elif change == "file":
        tokenizer.no_padding()
    elif change == "code":
        monkeypatch.setattr(disk_cache, "own_code", lambda: "other code")
    again = read_tokenizer(tokenizer, special_tokens=True)
    assert len(files_of(cache, "tokenizers")) == (1 if change is None else 2)
    assert (again == spec) == (change in (None, "code"))
    monkeypatch.setenv("SEQSTREAM_CACHE", "off")
    assert read_tokenizer(tokenizer, special_tokens=True) == again
    assert read_tokenizer(tokenizer, special_tokens=False) != again


def test_the_attributes_of_a_transformers_tokenizer_are_not_stored(bpe_tokenizer: Tokenizer, cache: Path) -> None:
    """Two objects with one serialised form keep the padding and the sides that each of them has."""
    transformers = pytest.importorskip("transformers")
    kinds = [{"pad_token": "a", "padding_side": "left"}, {"pad_token": "b", "truncation_side": "left"}]
    for wanted in kinds:
        own = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe_tokenizer, **wanted)
        spec = read_tokenizer(own, special_tokens=True)
        assert spec.pad_id == own.pad_token_id
        assert (spec.padding_side, spec.truncation_side) == (own.padding_side, own.truncation_side)


def test_nothing_is_stored_where_nothing_can_be(
    bpe_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that cannot be made or written costs a line of the debug log, no error and no warning."""
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("SEQSTREAM_CACHE", str(tmp_path / "a_file"))
    with caplog.at_level(logging.DEBUG, "seqstream"):
        prove(read_tokenizer(bpe_tokenizer, special_tokens=True))
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert "cannot be written, so the next process computes it again" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_read(bpe_tokenizer: Tokenizer, cache: Path, compared: list[int]) -> None:
    """Of a folder that may not be written, the results are used."""
    tokenizer_spec = read_tokenizer(bpe_tokenizer, special_tokens=True)
    prove(tokenizer_spec)
    (cache / "proofs").chmod(0o555)
    try:
        prove(tokenizer_spec)
        assert len(compared) == 1
        prove(tokenizer_spec, texts=("other",))
    finally:
        (cache / "proofs").chmod(0o755)
    assert len(files_of(cache, "proofs")) == 2


@pytest.mark.parametrize("value", ["", "0", "off", "OFF"])
def test_it_can_be_switched_off(
    value: str, bpe_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: list[int]
) -> None:
    """Switched off, nothing is written to the folder of the user, and nothing read."""
    monkeypatch.setenv("SEQSTREAM_CACHE", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    for _ in range(2):
        prove(read_tokenizer(bpe_tokenizer, special_tokens=True))
    assert len(compared) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/seqstream"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/seqstream"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "home/Library/Caches/seqstream"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/seqstream"),
        ("win32", {}, "home/.cache/seqstream"),
        ("linux", {"SEQSTREAM_CACHE": "mine", "XDG_CACHE_HOME": "xdg"}, "mine"),
    ],
)
def test_the_folder(
    platform: str, variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is where programs of a system keep what can be made again, unless the variable names another."""
    for name in ("SEQSTREAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert disk_cache.cache_folder() == tmp_path / expected


def test_without_a_home_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder has no cache."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SEQSTREAM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert disk_cache.cache_folder() is None
    disk_cache.save("proofs", "key")
    assert disk_cache.load("proofs", "key") is None


def test_files_are_few(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many results those stored last remain; threads that store at once leave no temporary files."""
    monkeypatch.setitem(disk_cache.MOST_FILES, "proofs", 8)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda key: disk_cache.save("proofs", key % 20), range(80)))
    disk_cache.save("proofs", "last")
    assert 1 <= len(files_of(cache, "proofs")) <= 8
    assert disk_cache.load("proofs", "last") == b""
    assert not [file for file in files_of(cache, "proofs") if file.name.startswith("new-")]


def test_stages_choose_alike_with_and_without_a_proof(
    bpe_file: Path, cache: Path, compared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice, its digest and the fingerprint that ranks compare are the same whether a proof is stored or not."""
    monkeypatch.setattr(engine_choice, "comparison_of", EngineComparison)
    found = []
    for value in (str(cache), str(cache), "off"):
        monkeypatch.setenv("SEQSTREAM_CACHE", value)
        stage = Tokenize(str(bpe_file), max_length=16)
        found.append((stage.choose_engines(), stage.fingerprint(), stage.pad_values(), repr(stage)))
    assert found[0] == found[1] == found[2]
    assert len(compared) == 2
