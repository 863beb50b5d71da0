"""`Tokenize`: texts of tables to ids, exactly the tokenizer's own."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    NormalizedString,
    PreTokenizedString,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from seqstream.records import RecordError
from seqstream.tokenizing.stage import Tokenize
from tests.helpers.tokenizers import run

TEXTS = ["import os", "", "a much longer line of text, which has more tokens than the others", " ", "héllo wörld 👋 [SEP]"]


def table(texts: list[str], first: int = 0, **columns: Any) -> pa.Table:
    rows = range(first, first + len(texts))
    return pa.table({"text": pa.array(texts, pa.string()), **columns, "row_id": pa.array(rows, pa.int64())})


def ids_of(stage: Tokenize, texts: list[str]) -> list[list[int]]:
    ((made,), _) = run(stage, table(texts))
    ids: list[list[int]] = made["input_ids"].to_pylist()
    return ids


def transformers_of(tokenizer: Tokenizer, **kwargs: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kwargs)


@pytest.fixture(scope="session", params=["bpe", "wordpiece", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    return found


def test_ids_are_the_tokenizers_own(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Ids are those of encode_batch, special tokens included, in blocks as they were given."""
    stage = Tokenize(tokenizer, empty="keep")
    tables, counts = run(stage, table(texts[:100]), table([], 100), table(texts[100:], 100))
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert [len(made) for made in tables] == [100, 0, len(texts) - 100]
    assert [ids for made in tables for ids in made["input_ids"].to_pylist()] == expected
    assert tables[0].schema == pa.schema({"row_id": pa.int64(), "input_ids": pa.list_(pa.int32())}) == tables[1].schema
    assert counts == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=8), st.booleans())
def test_ids_of_any_text(tokenizer: Tokenizer, texts: list[str], special: bool) -> None:
    """Whatever is in the text, with special tokens or without, the ids are the tokenizer's own."""
    stage = Tokenize(tokenizer, empty="keep", special_tokens=special)
    assert ids_of(stage, texts) == [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=special)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("abc de\n[SEP]é", max_size=60), min_size=1, max_size=8),
    st.integers(3, 20),
    st.sampled_from(["left", "right"]),
)
def test_truncation_is_that_of_transformers(tokenizer: Tokenizer, texts: list[str], limit: int, side: str) -> None:
    """With max_length the ids are those of transformers with truncation=True, on either side."""
    theirs = transformers_of(tokenizer, truncation_side=side)
    expected = theirs(texts, truncation=True, max_length=limit)["input_ids"]
    assert ids_of(Tokenize(theirs, max_length=limit, empty="keep"), texts) == expected


def test_truncation_is_counted(bpe_tokenizer: Tokenizer) -> None:
    """Records that were shortened are counted, and only those."""
    _, counts = run(Tokenize(bpe_tokenizer, max_length=10, empty="keep"), table(TEXTS))
    assert counts == {"truncated": sum(len(bpe_tokenizer.encode(text)) > 10 for text in TEXTS)}


def test_a_raw_tokenizer_truncates_where_its_own_setting_says(wordpiece_tokenizer: Tokenizer) -> None:
    """The direction is read from the tokenizer's own truncation; its length is not."""
    copy = Tokenizer.from_str(wordpiece_tokenizer.to_str())
    copy.enable_truncation(8, direction="left")
    expected = [encoding.ids for encoding in copy.encode_batch(TEXTS)]
    copy.enable_truncation(4, direction="left")
    assert ids_of(Tokenize(copy, max_length=8, empty="keep"), TEXTS) == expected


def ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Special tokens before and after a text."""
    whole, own = tokenizer.encode("import").ids, tokenizer.encode("import", add_special_tokens=False).ids
    before = next(at for at in range(len(whole)) if whole[at : at + len(own)] == own)
    return whole[:before], whole[before + len(own) :]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abc de\n[SEP]é", max_size=60), min_size=1, max_size=8), st.integers(3, 20))
def test_split_keeps_every_token(tokenizer: Tokenizer, texts: list[str], limit: int) -> None:
    """Every token is in one piece, in order; all pieces but the last are full, and all have the special tokens around them."""
    ((made,), counts) = run(Tokenize(tokenizer, max_length=limit, overflow="split", empty="keep"), table(texts))
    before, after = ends(tokenizer)
    room = limit - len(before) - len(after)
    expected = [
        {"row_id": row, "input_ids": before + own[begin : begin + room] + after, "piece": begin // room}
        for row, own in enumerate(encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
        for begin in range(0, max(1, len(own)), room)
    ]
    assert made.to_pylist() == expected
    split = sum(piece["piece"] == 1 for piece in expected)
    assert counts == ({"split": split} if split else {})
    assert made["piece"].type == pa.int32()


def test_split_repeats_the_other_columns(bpe_tokenizer: Tokenizer) -> None:
    """Scalars of a record are those of each of its pieces, and each block gets its own pieces."""
    stage = Tokenize(bpe_tokenizer, max_length=4, overflow="split")
    long, short = "aaaa bbbb cccc dddd", "a"
    tables, _ = run(stage, table([short], label=[5]), table([long, "", short], 1, label=[6, 7, 8]))
    assert tables[0].drop_columns("input_ids").to_pydict() == {"label": [5], "row_id": [0], "piece": [0]}
    pieces = -(-len(bpe_tokenizer.encode(long)) // 4)
    assert tables[1]["label"].to_pylist() == [6] * pieces + [8]
    assert tables[1]["piece"].to_pylist() == [*range(pieces), 0]


def test_overflow_drop_counts_what_it_drops(wordpiece_tokenizer: Tokenizer) -> None:
    """Long records are dropped and counted; empty ones are counted as empty."""
    ((made,), counts) = run(Tokenize(wordpiece_tokenizer, max_length=12, overflow="drop"), table(["a", "", "b c " * 20, "d"]))
    assert made["row_id"].to_pylist() == [0, 3]
    assert made["input_ids"].to_pylist() == [wordpiece_tokenizer.encode(text).ids for text in "ad"]
    assert counts == {"empty": 1, "dropped": 1}


def test_overflow_error_says_which_record(bpe_tokenizer: Tokenizer) -> None:
    """The first record that is too long is named, with its length and the limit."""
    stage = Tokenize(bpe_tokenizer, max_length=3, overflow="error")
    with pytest.raises(RecordError, match=r"^sequence of 12 tokens cannot fit max_length=3; raise it or set Tok") as caught:
        run(stage, table(["a"], 4), table(["b", "c" * 12], 7))
    assert caught.value.row_id == 8


def test_empty_records_are_dropped_and_counted(tokenizer: Tokenizer) -> None:
    """A record without tokens of its own is dropped, with special tokens or without, unless empty="keep"."""
    own = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS, add_special_tokens=False)]
    kept = [row for row, ids in enumerate(own) if ids]
    ((made,), counts) = run(Tokenize(tokenizer), table(TEXTS))
    assert made["row_id"].to_pylist() == kept
    assert made["input_ids"].to_pylist() == [tokenizer.encode(TEXTS[row]).ids for row in kept]
    assert counts == {"empty": len(TEXTS) - len(kept)}
    ((made,), counts) = run(Tokenize(tokenizer, empty="keep"), table(TEXTS))
    assert (len(made), counts) == (len(TEXTS), {})


def test_several_fields_stay_aligned(bpe_tokenizer: Tokenizer, wordpiece_tokenizer: Tokenizer) -> None:
    """A dict gives a column for each field; a record is dropped if one of them is empty, and truncated in each."""
    records = pa.table({"en": ["a b c", "", "d"], "fr": ["e", "f", "g h " * 9], "n": [1, 2, 3], "row_id": [0, 1, 2]})
    stage = Tokenize({"en": bpe_tokenizer, "fr": wordpiece_tokenizer}, max_length=6)
    ((made,), counts) = run(stage, records)
    assert stage.columns == ("en_ids", "fr_ids")
    assert made.column_names == ["n", "row_id", "en_ids", "fr_ids"]
    assert made["n"].to_pylist() == [1, 3]
    assert made["en_ids"].to_pylist() == [bpe_tokenizer.encode(text).ids for text in ("a b c", "d")]
    assert [len(ids) for ids in made["fr_ids"].to_pylist()] == [3, 6]
    assert counts == {"empty": 1, "truncated": 1}
    assert stage.pad_values() == {"fr_ids": wordpiece_tokenizer.token_to_id("[PAD]")}


def test_ids_are_not_copied(bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    """Without a row to drop or cut, the columns of all blocks are slices of the one buffer that the engine returned."""
    tables, _ = run(Tokenize(bpe_tokenizer), table(texts[:50]), table(texts[50:90], 50))
    addresses = {made["input_ids"].chunk(0).values.buffers()[1].address for made in tables}
    assert len(addresses) == 1


def test_the_users_tokenizer_is_never_changed(wordpiece_tokenizer: Tokenizer) -> None:
    """Padding and truncation switched on in a tokenizer have no effect, and are still on afterwards."""
    copy = Tokenizer.from_str(wordpiece_tokenizer.to_str())
    copy.enable_truncation(5)
    copy.enable_padding(length=9)
    before = copy.to_str()
    stage = Tokenize(copy, empty="keep")
    assert ids_of(stage, TEXTS) == [encoding.ids for encoding in wordpiece_tokenizer.encode_batch(TEXTS)]
    assert copy.to_str() == before
    assert stage.fingerprint() == Tokenize(wordpiece_tokenizer, empty="keep").fingerprint()


def test_a_call_of_transformers_leaves_the_fingerprint(wordpiece_tokenizer: Tokenizer) -> None:
    """A padded or truncated call changes the tokenizer's serialised form, and not its fingerprint."""
    theirs = transformers_of(wordpiece_tokenizer, pad_token="[PAD]")
    before = Tokenize(theirs).fingerprint()
    theirs(["a b c", "d"], padding=True, truncation=True, max_length=4, split_special_tokens=True)
    assert Tokenize(theirs).fingerprint() == before


def test_split_special_tokens_is_kept(bpe_tokenizer: Tokenizer) -> None:
    """A tokenizer that encodes special tokens in a text as ordinary text does so here."""
    texts = ["a<|endoftext|>b"]
    theirs = transformers_of(bpe_tokenizer, split_special_tokens=True)
    assert ids_of(Tokenize(theirs), texts) == theirs(texts)["input_ids"] != Tokenize(bpe_tokenizer)
    assert ids_of(Tokenize(bpe_tokenizer), texts) != theirs(texts)["input_ids"]


def test_fingerprint_is_what_decides_the_ids(bpe_tokenizer: Tokenizer, bpe_file: Path) -> None:
    """A file, its directory, the object and a transformers tokenizer around it are one tokenizer; the engine has no part."""
    sources = (bpe_tokenizer, bpe_file, str(bpe_file), bpe_file.parent, transformers_of(bpe_tokenizer))
    prints = [Tokenize(source).fingerprint() for source in sources]
    prints.append(Tokenize(bpe_file, engine="tokenizers").fingerprint())
    assert all(each == prints[0] for each in prints)
    assert prints[0]["tokenizers"]["text"]["vocab_size"] == 600
    for other in ({"max_length": 9}, {"special_tokens": False}, {"empty": "keep"}, {"field": "body"}):
        assert Tokenize(bpe_file, **other).fingerprint() != prints[0]


def test_representation_is_short(bpe_file: Path) -> None:
    """A stage prints its tokenizer by name, size and hash, and what was set."""
    stage = Tokenize(bpe_file, max_length=64, overflow="drop")
    digest = stage.fingerprint()["tokenizers"]["text"]["sha256"]
    assert repr(stage) == f"Tokenize({bpe_file.parent.name} (600, {digest[:4]}…), max_length=64, overflow='drop')"


def test_pad_values(bpe_tokenizer: Tokenizer, unigram_tokenizer: Tokenizer) -> None:
    """The padding token is transformers', that of the tokenizer's padding, or one known by its name; or none."""
    assert Tokenize(bpe_tokenizer).pad_values() == {}
    assert Tokenize(unigram_tokenizer).pad_values() == {"input_ids": 0}
    assert Tokenize(transformers_of(bpe_tokenizer, pad_token="<|endoftext|>")).pad_values() == {"input_ids": 0}
    copy = Tokenizer.from_str(bpe_tokenizer.to_str())
    copy.enable_padding(pad_id=7)
    assert Tokenize(copy).pad_values() == {"input_ids": 7}


def test_stages_can_be_pickled(bpe_tokenizer: Tokenizer) -> None:
    """A stage, also one that has encoded, and an opened stage work in another process."""
    stage = Tokenize(bpe_tokenizer)
    opened = stage.open(stage.choose_engines())
    expected, _ = opened([table(TEXTS)])
    again: Tokenize = pickle.loads(pickle.dumps(stage))
    assert run(again, table(TEXTS))[0] == expected
    assert pickle.loads(pickle.dumps(opened))([table(TEXTS)])[0] == expected


def words(texts: list[str]) -> list[list[int]]:
    return [[len(word) for word in text.split()] for text in texts]


def test_a_function_is_a_tokenizer() -> None:
    """A function from texts to lists of ids is a tokenizer; its ids are cut like others."""
    stage = Tokenize(words, max_length=3)
    ((made,), counts) = run(stage, table(["a bb ccc dddd", "", "ee"]))
    assert made["input_ids"].to_pylist() == [[1, 2, 3], [2]]
    assert counts == {"empty": 1, "truncated": 1}
    assert stage.choose_engines() == {"input_ids": "function"}
    assert stage.fingerprint()["tokenizers"]["text"]["kind"] == f"{__name__}.words"
    assert stage.pad_values() == {}


@pytest.mark.parametrize("dtype", [np.int64, np.uint16])
def test_a_function_may_return_arrays(dtype: type) -> None:
    """Rows of ids may be numpy arrays of any whole numbers."""
    stage = Tokenize(lambda texts: [np.array(ids, dtype) for ids in words(texts)])
    assert ids_of(stage, ["a bb", "ccc"]) == [[1, 2], [3]]


NONSENSE: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "none": (lambda _: None, r"must return a list with the ids of each text, got NoneType$"),
    "dict": (lambda texts: {"input_ids": words(texts)}, r"must return a list with the ids of each text, got dict$"),
    "short": (lambda texts: words(texts)[1:], r"must return the ids of each of 4 texts, got 3 rows$"),
    "flat": (lambda texts: [1] * len(texts), r"must return whole numbers below 2\*\*31 as ids, got 1$"),
    "strings": (
        lambda texts: [text.split() for text in texts],
        r"must return whole numbers below 2\*\*31 as ids, got \['a'\]$",
    ),
    "floats": (lambda texts: [np.ones(2) for _ in texts], r"must return whole numbers below 2\*\*31 as ids, got array"),
    "negative": (lambda texts: [[1, -1] for _ in texts], r"must return ids from 0 up, got \[1, -1\]$"),
    "huge": (lambda texts: [[2**31] for _ in texts], r"must return whole numbers below 2\*\*31 as ids, got \[2147483648\]$"),
}


@pytest.mark.parametrize(("function", "message"), NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_from_a_function_is_refused_at_once(function: Any, message: str) -> None:
    """The constructor calls the function, so that the traceback points at the user's line."""
    with pytest.raises((TypeError, ValueError), match=message):
        Tokenize(function)


def test_nonsense_in_mid_stream_names_the_record() -> None:
    """A function that fails for one text later on: the record is named."""
    stage = Tokenize(lambda texts: [[-1] if text == "bad" else [1] for text in texts])
    with pytest.raises(RecordError, match=r"must return ids from 0 up, got \[-1\]$") as caught:
        stage.open({"input_ids": "function"})([table(["a", "b"], 5), table(["c", "bad"], 7)])
    assert caught.value.row_id == 8


def test_a_function_that_raises_is_named() -> None:
    """Its own exception is raised, with a note of its name; the call of the constructor does not raise."""

    def strict(texts: list[str]) -> list[list[int]]:
        return [[{"a": 1}[text]] for text in texts]

    stage = Tokenize(strict)
    with pytest.raises(KeyError) as caught:
        run(stage, table(["b"]))
    assert caught.value.__notes__ == [f"in the tokenizer {__name__}.{strict.__qualname__}"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            {"body": ["a"], "n": [1]},
            r"^Tokenize cannot find the field 'text' among the columns body \(string\), n \(int64\); set",
        ),
        ({"text": [1]}, r"^field 'text' must hold text, got int64 among the columns text \(int64\); set Tokenize\(field="),
        ({"text": [b"a"]}, r"^field 'text' must hold text, got binary among"),
        (
            {"text": ["a"], "input_ids": [1]},
            r"^Tokenize cannot add the column 'input_ids', which the table has already; rename",
        ),
    ],
)
def test_columns_that_do_not_fit(bpe_tokenizer: Tokenizer, records: dict[str, Any], message: str) -> None:
    """A field that is missing or holds no text is named, with the columns there are."""
    with pytest.raises(ValueError, match=message):
        run(Tokenize(bpe_tokenizer), pa.table({**records, "row_id": [0]}))


def test_a_missing_text_is_an_error(bpe_tokenizer: Tokenizer) -> None:
    """A null is no text: the record is named."""
    records = [table(["a"], 2), pa.table({"text": ["b", None], "row_id": [3, 4]})]
    stage = Tokenize(bpe_tokenizer)
    with pytest.raises(RecordError, match=r"^field 'text' must not be null; drop such records with Filter before$") as caught:
        stage.open(stage.choose_engines(records[0]))(records)
    assert caught.value.row_id == 4


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_kind_of_text_is_taken(bpe_tokenizer: Tokenizer, kind: pa.DataType) -> None:
    """Large, viewed and dictionary-encoded strings are strings."""
    records = pa.table({"text": pa.array(["a b", "c"]).cast(kind), "row_id": [0, 1]})
    ((made,), _) = run(Tokenize(bpe_tokenizer), records)
    assert made["input_ids"].to_pylist() == [bpe_tokenizer.encode(text).ids for text in ("a b", "c")]


def test_a_table_without_rows_may_lack_the_field(bpe_tokenizer: Tokenizer) -> None:
    """A block without rows has no columns to check."""
    ((made,), counts) = run(Tokenize(bpe_tokenizer), pa.table({"row_id": pa.array([], pa.int64())}))
    assert (made.column_names, len(made), counts) == (["row_id", "input_ids"], 0, {})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"overflow": "cut"}, ValueError, r"^overflow must be one of 'truncate', 'split', 'drop', 'error', got 'cut'$"),
        ({"empty": True}, ValueError, r"^empty must be one of 'drop', 'keep', got True$"),
        (
            {"engine": "gigatoken"},
            ValueError,
            r"^engine must be one of 'auto', 'tokenizers', 'fastokens', 'nanotoken', got 'gigat",
        ),
        (
            {"max_length": 2},
            ValueError,
            r"^max_length must be more than the 2 special tokens of tokenizer WordPiece \(600, .*, got 2$",
        ),
        ({"max_length": 2.5}, TypeError, r"^max_length must be a whole number, got 2.5$"),
        ({"overflow": "split"}, ValueError, r"^overflow='split' needs a max_length, got None; set Tokenize\(max_length=...\)$"),
    ],
)
def test_settings_are_checked_at_once(wordpiece_tokenizer: Tokenizer, wrong: Any, error: type[Exception], message: str) -> None:
    """A setting out of range is refused by the constructor."""
    with pytest.raises(error, match=message):
        Tokenize(wordpiece_tokenizer, **wrong)


def test_dicts_of_fields_are_checked(bpe_tokenizer: Tokenizer) -> None:
    """A dict names the fields, at least one, and several cannot be split."""
    both = {"a": bpe_tokenizer, "b": bpe_tokenizer}
    with pytest.raises(ValueError, match=r"^field='c' cannot be given with a dict of tokenizers, whose keys are the fields$"):
        Tokenize(both, field="c")
    with pytest.raises(ValueError, match=r"^tokenizer must name at least one field, got an empty dict$"):
        Tokenize({})
    with pytest.raises(ValueError, match=r"^overflow='split' cannot cut several columns \(a, b\): their pieces would not"):
        Tokenize(both, max_length=5, overflow="split")


def test_tokenizers_that_cannot_be_used(tmp_path: Path, bpe_tokenizer: Tokenizer) -> None:
    """An object that is not a tokenizer, and a tokenizer whose ids are random, are refused with a remedy."""
    with pytest.raises(
        TypeError, match=r"^tokenizer must be a tokenizers.Tokenizer, .* or a function of a list of texts, got int$"
    ):
        Tokenize(3)
    with pytest.raises(FileNotFoundError, match=r"got gpt2; to use one by its name on the Hub, pass AutoTokenizer"):
        Tokenize("gpt2")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^tokenizer must be a tokenizer.json, got .*: Model missing"):
        Tokenize(tmp_path)
    random = Tokenizer.from_str(bpe_tokenizer.to_str())
    random.model.dropout = 0.1
    with pytest.raises(
        ValueError, match=r"^tokenizer cannot have dropout, got 0.1: no two runs would agree; set model.dropout = None$"
    ):
        Tokenize(random)
    with pytest.raises(
        ValueError, match=r"^special_tokens=False cannot apply to the function .*words; let it return ids without"
    ):
        Tokenize(words, special_tokens=False)
    with pytest.raises(
        ValueError, match=r"^engine must be 'auto' for the tokenizer .*words written in Python, got 'fastokens'$"
    ):
        Tokenize(words, engine="fastokens")


def test_a_post_processor_must_add_two_constant_ends(bpe_tokenizer: Tokenizer) -> None:
    """One that repeats the text cannot be cut, with special tokens or without, and is refused."""
    copy = Tokenizer.from_str(bpe_tokenizer.to_str())
    copy.post_processor = processors.TemplateProcessing(single="$A <|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    message = (
        r"^post-processor of the tokenizer must add to a text no more than a beginning and an end .*, got \[0, 1, 0\] \(1 where"
    )
    with pytest.raises(ValueError, match=message):
        Tokenize(copy)
    with pytest.raises(ValueError, match=r"^post-processor of the tokenizer must add"):
        Tokenize(copy, special_tokens=False)


def test_tokenizers_written_in_python_are_taken() -> None:
    """A transformers tokenizer that is not a fast one is called with padding and truncation off."""
    from transformers import PreTrainedTokenizer

    class Letters(PreTrainedTokenizer):
        def __init__(self, **kwargs: Any) -> None:
            self.letters = {letter: index for index, letter in enumerate("abcdefgh ?^$")}
            super().__init__(bos_token="^", eos_token="$", pad_token="?", unk_token="?", **kwargs)

        @property
        def vocab_size(self) -> int:
            return len(self.letters)

        def get_vocab(self) -> dict[str, int]:
            return dict(self.letters)

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return self.letters.get(token, 9)

        def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
            return [10, *token_ids_0, 11]

    slow = Letters()
    texts = ["abc", "hhh abc", "d"]
    assert ids_of(Tokenize(slow), texts) == slow(texts)["input_ids"]
    assert ids_of(Tokenize(slow, special_tokens=False), texts) == slow(texts, add_special_tokens=False)["input_ids"]
    assert ids_of(Tokenize(slow, max_length=5), texts) == slow(texts, truncation=True, max_length=5)["input_ids"]
    assert Tokenize(slow).pad_values() == {"input_ids": 9}


def test_added_tokens_that_strip(bpe_tokenizer: Tokenizer) -> None:
    """Added tokens that swallow the spaces around them do so here."""
    copy = Tokenizer.from_str(bpe_tokenizer.to_str())
    copy.add_special_tokens(
        [AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("WORD", single_word=True, normalized=True)]
    )
    texts = ["a  <mask>  b", "aWORD WORD", "<mask>WORD<mask>"]
    assert ids_of(Tokenize(copy), texts) == [encoding.ids for encoding in copy.encode_batch(texts)]


def test_nothing_warns_for_a_tokenizer_without_a_fast_engine() -> None:
    """A type of model that only tokenizers knows is no reason to warn."""
    copy = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    copy.pre_tokenizer = pre_tokenizers.Whitespace()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids_of(Tokenize(copy), ["a b c"]) == [[0, 1, 2]]


def test_special_tokens_around_a_small_vocabulary() -> None:
    """Special tokens stay where they are also for a vocabulary that raises for any word but its own."""
    copy = Tokenizer(models.WordLevel({"<": 0, ">": 1, "zork": 2, "quux": 3}, unk_token="?"))
    copy.pre_tokenizer = pre_tokenizers.Whitespace()
    copy.post_processor = processors.TemplateProcessing(single="< $A >", special_tokens=[("<", 0), (">", 1)])
    assert ids_of(Tokenize(copy, max_length=3), ["zork quux"]) == [[0, 2, 1]]


@pytest.mark.parametrize("limit", [10**30, 1e30, float("inf"), np.float64(1e30), 2**31, None])
def test_a_limit_that_is_none(bpe_tokenizer: Tokenizer, limit: Any) -> None:
    """A model_max_length that stands for no limit cuts nothing, and is not enough for the other values of overflow."""
    stage = Tokenize(bpe_tokenizer, max_length=limit)
    assert stage.max_length is None
    long = "a text " * 3000
    assert ids_of(stage, [long]) == [bpe_tokenizer.encode(long).ids]
    with pytest.raises(ValueError, match=r"^overflow='split' needs a max_length, got .*; set Tokenize\(max_length=...\)$"):
        Tokenize(bpe_tokenizer, max_length=limit, overflow="split")


def test_a_limit_of_numpy(bpe_tokenizer: Tokenizer) -> None:
    """A whole number of NumPy is one, in the fingerprint as well; others are refused."""
    stage = Tokenize(bpe_tokenizer, max_length=np.int64(7))  # type: ignore[arg-type]
    assert (type(stage.max_length), stage.max_length) == (int, 7)
    assert stage.fingerprint() == Tokenize(bpe_tokenizer, max_length=7).fingerprint()
    for wrong in (7.0, True, float("nan"), "7", np.bool_(True)):
        with pytest.raises(TypeError, match=r"^max_length must be a whole number, got "):
            Tokenize(bpe_tokenizer, max_length=wrong)  # type: ignore[arg-type]


class Pieces:
    """Cuts a text into pieces of two letters: a pre-tokenizer in Python."""

    def split(self, _: int, text: NormalizedString) -> list[NormalizedString]:
        return [text[at : at + 2] for at in range(0, len(str(text)), 2)]

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(self.split)


class Lower:
    """A normalizer in Python."""

    def normalize(self, text: NormalizedString) -> None:
        text.lowercase()


class Joined:
    """A decoder in Python."""

    def decode_chain(self, tokens: list[str]) -> list[str]:
        return tokens


def in_python() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "ac": 1, "gt": 2, "[PAD]": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Pieces())
    tokenizer.normalizer = normalizers.Normalizer.custom(Lower())
    tokenizer.add_special_tokens(["[PAD]", AddedToken("<s>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize("wrap", [False, True])
def test_parts_in_python(wrap: bool) -> None:
    """A tokenizer with parts in Python gives its own ids, whatever its padding and truncation are, and stays as it was."""
    tokenizer = in_python()
    texts = ["ACGTAC", "GTxx <s>GT", "ac" * 9]
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=30)
    given: Any = tokenizer
    if wrap:
        given = transformers_of(Tokenizer(tokenizer.model), pad_token="[PAD]")
        given.add_special_tokens({"additional_special_tokens": [AddedToken("<s>", lstrip=True)]})
        given.backend_tokenizer.normalizer, given.backend_tokenizer.pre_tokenizer = (
            tokenizer.normalizer,
            tokenizer.pre_tokenizer,
        )
    stage = Tokenize(given, max_length=8)
    assert stage.choose_engines() == {"input_ids": "function"}
    assert ids_of(stage, texts) == [ids[:8] for ids in expected]
    assert stage.pad_values() == {"input_ids": 3}
    assert (tokenizer.truncation or {})["max_length"] == 2
    assert stage.fingerprint() == Tokenize(given, max_length=8).fingerprint()


def test_parts_in_python_stay_in_their_process() -> None:
    """It cannot be sent to a worker that is not forked, and the error says what can be sent."""
    stage = Tokenize(in_python(), max_length=8)
    with pytest.raises(TypeError, match=r"^tokenizer WordLevel cannot be sent to another process.*or pass a function"):
        pickle.dumps(stage)


def test_a_decoder_in_python_is_no_matter() -> None:
    """It decides no ids: the tokenizer is read like any other."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = Tokenize(tokenizer).fingerprint()
    tokenizer.decoder = decoders.Decoder.custom(Joined())
    stage = Tokenize(tokenizer)
    assert stage.choose_engines() == {"input_ids": "tokenizers"}
    assert stage.fingerprint() == plain
    assert ids_of(stage, ["a b"]) == [[1, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"version": "\xff"}', "'utf-8' codec can't decode byte 0xff in position 13"),
        (b"", "the file is empty"),
        (b"hello", "expected value at line 1 column 1"),
        (b"[1]", "invalid type: sequence"),
    ],
)
def test_a_file_that_is_no_tokenizer(tmp_path: Path, data: bytes, message: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    for place in (path, tmp_path):
        with pytest.raises(ValueError, match=r"^tokenizer must be a tokenizer\.json, got ") as caught:
            Tokenize(place)
        assert f"{path}: {message}" in str(caught.value)


def test_a_file_with_a_byte_order_mark(bpe_file: Path, tmp_path: Path) -> None:
    """A byte order mark at the beginning of the file is ignored."""
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + bpe_file.read_bytes())
    assert Tokenize(tmp_path).fingerprint() == Tokenize(bpe_file).fingerprint()


def test_a_folder_without_a_tokenizer_file(tmp_path: Path) -> None:
    """The error names the missing file, and what reads folders of another format."""
    with pytest.raises(FileNotFoundError, match=r"exists, got .*tokenizer.json; .* AutoTokenizer.from_pretrained\('.*'\)$"):
        Tokenize(tmp_path)


@pytest.mark.parametrize("vocabulary", [{"the": 1, "a": 2}, {1: "the"}])
def test_a_vocabulary_is_no_dict_of_tokenizers(vocabulary: Any) -> None:
    """The error says what a dict means, and how to pass a vocabulary."""
    with pytest.raises(TypeError, match=r"^tokenizer must be a dict of column -> tokenizer, got \{.*WordLevel\(vocabulary"):
        Tokenize(vocabulary)


def test_a_list_of_texts_is_no_list_of_words(bpe_tokenizer: Tokenizer) -> None:
    """Texts in a list are refused, with the record and what to do; words may hold a blank now and then, or have labels."""
    texts = pa.table({"x": [["it", "rains"], ["a text", "two texts of it", "more of this"]], "row_id": [4, 5]})
    with pytest.raises(
        RecordError,
        match=r"^field 'x' must hold a text, or the words of one.*'a text'; set Tokenize\(field=\['x'\]\) to encode each item",
    ) as caught:
        run(Tokenize(bpe_tokenizer, field="x"), texts)
    assert caught.value.row_id == 5
    words = pa.table({"x": [["New York", "is", "large"]], "y": [[1, 0, 0]], "row_id": [4]})
    ((made,), _) = run(Tokenize(bpe_tokenizer, field="x"), words)
    assert made["input_ids"].to_pylist() == [bpe_tokenizer.encode(words["x"].to_pylist()[0], is_pretokenized=True).ids]
    tagged = pa.table({"x": [["New York", "San José"]], "y": [[1, 1]], "row_id": [4]})
    assert len(run(Tokenize(bpe_tokenizer, field="x", labels="y"), tagged)[0][0]) == 1


def test_a_file_that_ends_in_a_panic_is_named(tmp_path: Path, bpe_file: Path) -> None:
    """A prefix of subwords longer than the tokens that are merged, at which ``tokenizers`` panics."""
    saved = json.loads(bpe_file.read_text(encoding="utf-8"))
    saved["model"]["continuing_subword_prefix"] = "prefix"
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^tokenizer must be a tokenizer.json, got .*tokenizer\.json: "):
        Tokenize(tmp_path)
