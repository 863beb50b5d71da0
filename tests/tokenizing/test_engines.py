"""Engines: the fastest one is chosen only when its ids are the tokenizer's own."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from seqstream.tokenizing import engine_choice
from seqstream.tokenizing.engine_choice import EngineComparison, choose_engine, comparison_of, find_difference
from seqstream.tokenizing.engines import Engine, EngineError, EngineWarning, is_installed
from seqstream.tokenizing.probes import MAX_CHARS, MAX_TEXTS, first_texts, hostile_texts
from seqstream.tokenizing.stage import Tokenize
from seqstream.tokenizing.token_rows import TokenRows
from seqstream.tokenizing.tokenizer_reading import read_tokenizer
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec
from tests.helpers.forked import run_code


def spec_of(tokenizer: Tokenizer) -> TokenizerSpec:
    return read_tokenizer(tokenizer, special_tokens=True)


def rows_of(rows: TokenRows) -> list[list[int]]:
    ends = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return [rows.ids[begin:end].tolist() for begin, end in ends]


def without_json(tokenizer_spec: TokenizerSpec, **changes: Any) -> TokenizerSpec:
    """Return a spec that is equal but for its serialised form: the tokenizer of an engine with a fault."""
    source = json.loads(tokenizer_spec.json)
    return dataclasses.replace(tokenizer_spec, source=json.dumps({**source, **changes}))


class Faulty(Engine):
    """A real engine of a slightly changed tokenizer, which returns other ids for some texts."""

    def __init__(self, tokenizer_spec: TokenizerSpec, name: str) -> None:
        faulty = without_json(tokenizer_spec, normalizer={"type": "Lowercase"}) if name == "fastokens" else tokenizer_spec
        super().__init__(faulty, name)


@pytest.mark.parametrize(("fixture", "name"), [("bpe", "fastokens"), ("wordpiece", "nanotoken"), ("unigram", "tokenizers")])
def test_auto_takes_the_fastest_for_the_model(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    """BPE goes to fastokens, WordPiece to nanotoken, the rest to tokenizers; the ids are the same."""
    tokenizer: Tokenizer = request.getfixturevalue(f"{fixture}_tokenizer")
    engine = choose_engine(spec_of(tokenizer), "auto", ["a text"])
    assert engine.name == name
    texts = hostile_texts(["[SEP]"])
    assert rows_of(engine(texts)) == [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert rows_of(engine([])) == []


@pytest.mark.parametrize("name", ["tokenizers", "fastokens"])
def test_rows_are_flat_int32(bpe_tokenizer: Tokenizer, name: str) -> None:
    """Every engine returns one buffer of int32 and offsets of int64 from 0, also without any ids."""
    engine = Engine(spec_of(bpe_tokenizer), name)
    for texts in (["a b", "", "c"], ["", ""], []):
        rows = engine(texts)
        assert (rows.ids.dtype, rows.offsets.dtype) == (np.dtype(np.int32), np.dtype(np.int64))
        assert len(rows) == len(texts)
        assert rows.offsets[0] == 0
        assert rows.offsets[-1] == len(rows.ids)


def test_a_difference_falls_back_with_a_warning(bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the fast engine gives other ids, the warning shows the text and both lists, and tokenizers is used."""
    monkeypatch.setattr(engine_choice, "Engine", Faulty)
    monkeypatch.setattr(engine_choice, "comparison_of", EngineComparison)
    message = (
        r"^engine fastokens gives other ids than tokenizers for '.+': from id \d+ on \[.*\] where tokenizers gives \[.*\]; "
    )
    with pytest.warns(EngineWarning, match=message + r"tokenizers is used, which is slower and exact$") as caught:
        engine = choose_engine(spec_of(bpe_tokenizer), "auto", [])
    assert engine.name == "tokenizers"
    assert len(caught) == 1


def test_a_difference_of_a_named_engine_is_an_error(bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named engine is neither replaced in silence nor used."""
    monkeypatch.setattr(engine_choice, "Engine", Faulty)
    monkeypatch.setattr(engine_choice, "comparison_of", EngineComparison)
    with pytest.raises(
        EngineError, match=r"^engine fastokens gives other ids than tokenizers .*; use engine='tokenizers' or 'auto'$"
    ):
        choose_engine(spec_of(bpe_tokenizer), "fastokens", [])


def test_the_sample_is_compared(bpe_tokenizer: Tokenizer) -> None:
    """Texts of the data are compared too: a difference in one of them alone is found, and shown where it is."""
    tokenizer_spec = spec_of(bpe_tokenizer)
    odd = {"id": 600, "content": "oddity", "normalized": False, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    added = [*json.loads(tokenizer_spec.json)["added_tokens"], odd | flags]
    faulty, reference = (
        Engine(without_json(tokenizer_spec, added_tokens=added), "fastokens"),
        Engine(tokenizer_spec, "tokenizers"),
    )
    assert find_difference(faulty, reference, hostile_texts(tokenizer_spec.added_tokens)) is None
    difference = find_difference(faulty, reference, ["fine", "x" * 100 + " an oddity here " + "y" * 100])
    assert difference is not None
    assert "oddity here" in difference
    assert "on [221, 600, 221, " in difference
    assert len(difference) < 300


def test_an_engine_that_cannot_take_the_tokenizer(
    unigram_tokenizer: Tokenizer, bpe_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """If it was named that is an error; else a line in the log, since only speed is lost."""
    with pytest.raises(
        EngineError, match=r"^engine nanotoken cannot use tokenizer Unigram .*; use engine='tokenizers' or 'auto'$"
    ):
        choose_engine(spec_of(unigram_tokenizer), "nanotoken", [])
    normalized = Tokenizer.from_str(bpe_tokenizer.to_str())
    normalized.normalizer = normalizers.BertNormalizer()
    with caplog.at_level(logging.WARNING, "seqstream"):
        assert choose_engine(spec_of(normalized), "auto", []).name == "tokenizers"
    assert caplog.messages[0].startswith(
        "tokenizers is used, which is slower: engine fastokens cannot use tokenizer BPE (600, "
    )


def test_an_engine_that_is_not_installed(
    bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it was named the constructor raises; else one line in the log of each process says what to install."""
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert not is_installed("fastokens")
    message = r"^engine fastokens is not installed; pip install 'seqstream\[fast\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        Tokenize(bpe_tokenizer, engine="fastokens")
    with pytest.raises(ModuleNotFoundError, match=message):
        Engine(spec_of(bpe_tokenizer), "fastokens")(["a"])
    engine_choice._advise_install.cache_clear()
    with caplog.at_level(logging.WARNING, "seqstream"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert choose_engine(spec_of(bpe_tokenizer), "auto", []).name == "tokenizers"
    assert caplog.messages == ["tokenising is 8 to 47 times faster with engine fastokens: pip install 'seqstream[fast]'"]


def test_an_engine_of_a_function_cannot_be_another(bpe_tokenizer: Tokenizer) -> None:
    """The engines of a saved state fit the kind of tokenizer, or are refused."""
    with pytest.raises(
        ValueError, match=r"^engine function cannot be used for tokenizer BPE \(600, .*\); choose engines anew$"
    ):
        Tokenize(bpe_tokenizer).open({"input_ids": "function"})


def test_the_sample_is_bounded() -> None:
    """However long the sample and its texts are, few of them are compared."""
    taken = list(first_texts(["x" * 10**6, None, *["y" * 100] * 10**4]))
    assert sum(map(len, taken)) <= MAX_CHARS
    assert len(list(first_texts(["z"] * 10**5))) == MAX_TEXTS


def test_the_comparison_is_quick(bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    """The slowest engine encodes hostile texts and the first of the data in less than a second."""
    reference = Engine(spec_of(bpe_tokenizer), "tokenizers")
    compared = [*hostile_texts(["<|endoftext|>"] * 50), *first_texts(texts * 20)]
    reference(["a"])
    begin = time.perf_counter()
    reference(compared)
    assert time.perf_counter() - begin < 1.0  # 0.06 s on an idle core; a busy machine is slower


FORK = """
    import os, signal, sys, warnings
    import pyarrow as pa
    from seqstream import Tokenize

    warnings.simplefilter("error")

    path, engine = sys.argv[1:]
    stage = Tokenize(path, engine=engine)
    opened = stage.open(stage.choose_engines())
    texts = pa.table({"text": [f"the text of row {row}, long enough" for row in range(5000)]})
    expected, _ = opened([texts])
    for generation in range(2):
        if child := os.fork():
            status = os.waitpid(child, 0)[1]
            if generation == 0:
                assert "TOKENIZERS_PARALLELISM" not in os.environ
                sys.exit(os.waitstatus_to_exitcode(status))
            os._exit(os.waitstatus_to_exitcode(status))
        signal.alarm(30)
        if opened([texts])[0] != expected:
            os._exit(2)
    os._exit(0)
"""


@pytest.fixture(params=["tokenizers", "fastokens", "nanotoken"])
def forked(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    kind = "wordpiece" if request.param == "nanotoken" else "bpe"
    tokenizer: Tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return [str(tmp_path / "tokenizer.json"), request.param]


def test_a_forked_child_encodes(forked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children and grandchildren of a process that has encoded give the same ids and neither hang nor warn."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    done = run_code(FORK, *forked, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def lines_of(data: Path) -> Iterator[str]:
    """Texts of every script and kind: the beginning of every third language and of some of the other corpora."""
    for name, field, step in (("udhr/udhr", "text", 3), ("peps/peps", "text", 20), ("humaneval/HumanEval", "prompt", 7)):
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in itertools.islice(file, 0, 400, step):
                text = json.loads(line)[field]
                yield text[:400]
                yield from text[400:800].split("\n")


NAMES = ["bert_uncased", "bert_uncased_minilm", "gpt2", "cl100k_base", "mistral_v1_spm", "spm_unigram_1k"]
CHANGED = ["bert_uncased", "gpt2", "mistral_v1_spm"]


@pytest.mark.parametrize(("name", "changed"), [*((name, False) for name in NAMES), *((name, True) for name in CHANGED)])
def test_ids_of_real_tokenizers(data: Path, name: str, changed: bool) -> None:
    """On real corpora in hundreds of languages every chosen engine gives the ids of tokenizers, cut where transformers cuts."""
    path = data / "tokenizers" / name / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if changed:
        tokenizer.add_special_tokens([AddedToken("the", lstrip=True), AddedToken("of", rstrip=True, single_word=True)])
        tokenizer.add_tokens([AddedToken("and", normalized=True), AddedToken("de", normalized=False, single_word=True)])
    texts = list(lines_of(data))
    records = pa.table({"text": texts, "row_id": np.arange(len(texts))})
    stage = Tokenize(tokenizer if changed else path, empty="keep")
    chosen = stage.choose_engines(records)
    ((made,), _) = stage.open(chosen)([records])
    expected = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    assert made["input_ids"].to_pylist() == expected
    tokenizer.enable_truncation(20)
    ((cut,), _) = Tokenize(stage.tokenizer, empty="keep", max_length=20).open(chosen)([records])
    assert cut["input_ids"].to_pylist() == [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def test_a_tokenizer_without_a_fast_engine_is_never_compared() -> None:
    """For other types of models tokenizers is the engine, without a comparison."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert choose_engine(spec_of(tokenizer), "auto", ["a b"]).name == "tokenizers"


def letters(special: list[AddedToken], ordinary: list[AddedToken]) -> Tokenizer:
    """Byte-level BPE of letters alone, with added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(ordinary)
    return tokenizer


@pytest.mark.filterwarnings("ignore::seqstream.tokenizing.engines.EngineWarning")
@pytest.mark.parametrize(
    ("special", "ordinary", "text"),
    [
        ([AddedToken("GENE"), AddedToken("<sep>")], [AddedToken("rs123", single_word=True)], "GENErs123 is common"),
        ([AddedToken("GENE"), AddedToken("<sep>")], [AddedToken("rs123", single_word=True)], "the rs123GENE"),
        ([AddedToken("中", lstrip=True)], [AddedToken("_x", single_word=True, rstrip=True)], "a中_x b"),
        ([AddedToken("Ａ", rstrip=True)], [AddedToken("ab", single_word=True, lstrip=True)], "² abＡb"),
        ([AddedToken("[M]", single_word=True), AddedToken("GENE")], [], "GENE[M] a"),
        ([AddedToken("\n", single_word=True), AddedToken("é")], [AddedToken("1", lstrip=True)], "é\n 1\né"),
    ],
)
def test_added_tokens_next_to_each_other(special: list[AddedToken], ordinary: list[AddedToken], text: str) -> None:
    """Next to an added token another one may begin a word: an engine that is chosen returns the tokenizer's ids."""
    tokenizer = letters(special, ordinary)
    engine = choose_engine(spec_of(tokenizer), "auto", ["plain text"])
    assert rows_of(engine([text])) == [tokenizer.encode(text).ids]


def test_pairs_are_compared_among_hundreds_of_added_tokens() -> None:
    """Tokens of each class are first, so that a pair at the end of hundreds is compared, and texts are few."""
    many = [AddedToken(f"<extra_{number}>") for number in range(900)]
    tokenizer = letters([*many, AddedToken("GENE")], [AddedToken("rs123", single_word=True)])
    tokenizer_spec = spec_of(tokenizer)
    assert {"GENE", "rs123"} <= set(tokenizer_spec.added_tokens[:3])
    texts = hostile_texts(tokenizer_spec.added_tokens)
    assert {"GENErs123", "rs123GENE"} <= set(texts)
    assert {f"<extra_{number}>" for number in range(900)} <= set(texts)
    assert len(texts) < 6_000
    with pytest.warns(EngineWarning, match="fastokens gives other ids than tokenizers"):
        assert choose_engine(tokenizer_spec, "auto", []).name == "tokenizers"


def test_a_comparison_is_kept(bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokenizer and first texts are not compared again; other texts are, without the hostile ones."""
    comparison_of.cache_clear()
    compared: list[int] = []

    def counting(engine: Engine, reference: Engine, texts: list[str]) -> str | None:
        compared.append(len(texts))
        return find_difference(engine, reference, texts)

    monkeypatch.setattr(engine_choice, "find_difference", counting)
    first = choose_engine(spec_of(bpe_tokenizer), "auto", ["a text"])
    again = choose_engine(spec_of(Tokenizer.from_str(bpe_tokenizer.to_str())), "auto", ["a text"])
    assert first is again
    choose_engine(spec_of(bpe_tokenizer), "auto", ["another", "text"])
    hostile = hostile_texts(spec_of(bpe_tokenizer).added_tokens)
    assert compared == [len(hostile) + 1, 2]


def test_a_difference_is_kept(bpe_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that returned other ids once is not used for other data."""
    comparison = EngineComparison(spec_of(bpe_tokenizer), "fastokens")
    results = iter(["other ids", None])
    monkeypatch.setattr(engine_choice, "find_difference", lambda *_: next(results))
    assert [comparison.find_difference([text]) for text in ("a", "b")] == ["other ids", "other ids"]
