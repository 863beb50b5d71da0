"""`Conll` reads what a reader of one line after the other reads, in every format that people write."""

from __future__ import annotations

import functools
import gzip
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing

Sentences = list[tuple[int, list[list[str]]]]
"""The line where each sentence starts, from 1, and its words: the columns of each line."""

SAMPLE_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER


-DOCSTART- -X- -X- O

# # O O
1996-08-22 CD I-NP O
"""

SAMPLE_UD = """# global.columns = ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC
# sent_id = fr-1
# text = Du 10 000 #1.
1-2\tDu\t_\t_\t_\t_\t_\t_\t_\t_
1\tDe\tde\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\tDefinite=Def|Gender=Masc\t3\tdet\t_\t_
3\t10 000\t10000\tNUM\t_\t_\t0\troot\t_\tSpaceAfter=No
3.1\tvu\tvoir\tVERB\t_\t_\t_\t_\t0:root\t_
4\t#1\t#1\tSYM\t_\t_\t3\tdep\t_\t_

# newdoc

# sent_id = fr-2
1\tOui\toui\tINTJ\t_\t_\t0\troot\t_\t_
"""


def read_by_hand(text: str, *, conllu: bool) -> Sentences:
    """Read a file as the formats are described, line by line."""
    found: Sentences = []
    start, words = None, []
    for number, line in enumerate([*re.split("\r?\n", text.removeprefix("\ufeff")), ""], 1):
        if not line.strip():
            if start is not None and words:
                found.append((start, words))
            start, words = None, []
            continue
        start = start or number
        is_word = not line.startswith("#") if conllu else line.rstrip("\r").split(" ")[0].split("\t")[0] != "-DOCSTART-"
        if is_word:
            line = line.rstrip(" \t\r")
            cells = line.split("\t") if "\t" in line else re.split(" +", line)
            if not conllu or cells[0].isdecimal():
                words.append(cells)
    return found


def transposed(sentences: Sentences, **columns: int) -> list[dict[str, list[str]]]:
    return [{name: [word[number] for word in words] for name, number in columns.items()} for _, words in sentences]


def check(path: Path, text: str, *, conllu: bool, width: int, block_bytes: int | None = None) -> None:
    """Compare all columns and locations of a file, read in blocks of some size, with those that were read by hand."""
    sentences = read_by_hand(text, conllu=conllu)
    source = ss.Conll(path, columns={f"c{number}": number for number in range(width)}, conllu=conllu, block_bytes=block_bytes)
    assert list(source.records()) == transposed(sentences, **{f"c{number}": number for number in range(width)})
    row_ids = [
        shard << 32 | at for shard in range(source.num_shards) for at in range(sum(len(each[0]) for each in source.read(shard)))
    ]
    assert [source.place(row_id).line for row_id in row_ids] == [line for line, _ in sentences]


cells = st.text(st.sampled_from("ab#-.1é\u00a0\u2028日"), min_size=1, max_size=5).filter(lambda text: not text.isspace())
blanks = st.lists(st.sampled_from(["", " ", "\t", " \t ", "\u00a0", " \u2003", "\x1f\t"]), max_size=3)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, int]:
    """A file with tabs or spaces between two columns, or three; with blank lines, marks and ends of all kinds."""
    width = draw(st.integers(1, 3))
    lines: list[str] = draw(blanks)
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            lines.append("-DOCSTART-" + draw(st.sampled_from(["", " -X- O O", "\t"])))
            lines += draw(blanks)
        for _ in range(draw(st.integers(1, 4))):
            separator = draw(st.sampled_from(["\t", " ", "  "]))
            lines.append(separator.join(draw(cells) for _ in range(width)) + draw(st.sampled_from(["", "", " ", "\t "])))
        lines += ["", *draw(blanks)]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines) + draw(st.sampled_from(["", "\n", "\n \n"]))
    return draw(st.sampled_from(["", "\ufeff"])) + text, width


@st.composite
def conllu_files(draw: st.DrawFn) -> tuple[str, int]:
    """A file of CoNLL-U with comments, ranges and empty nodes."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 6))):
        lines += draw(st.lists(st.sampled_from(["# text = a b\tc", "#", "# newdoc"]), max_size=2))
        ids = draw(st.lists(st.sampled_from(["1", "2", "12", "1-2", "1.1", "10-11"]), max_size=5))
        lines += ["\t".join([own, *(draw(cells | st.just("a b")) for _ in range(9))]) for own in ids]
        lines += ["", *draw(blanks)]
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines), 10


@settings(max_examples=120, deadline=None)
@given(made=files() | conllu_files(), block_bytes=st.integers(1, 80), compress=st.booleans())
def test_sentences_are_those_of_a_reader_of_lines(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[str, int], block_bytes: int, *, compress: bool
) -> None:
    """All columns and the first lines of all sentences are those read by hand, however the file is cut."""
    text, width = made
    name = f"{os.getpid()}.txt" + (".gz" if compress else "")
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
    check(path, text, conllu=width == 10, width=width, block_bytes=block_bytes)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_samples(tmp_path: Path, newline: str) -> None:
    """CoNLL-2003 and CoNLL-U as they are published: marks of documents, `#` as a word, ranges, empty nodes."""
    (tmp_path / "a.txt").write_bytes(SAMPLE_2003.replace("\n", newline).encode())
    (tmp_path / "a.conllu").write_bytes(SAMPLE_UD.replace("\n", newline).encode())
    expected = [
        {"words": ["EU", "rejects", "German", "call", "."], "tags": ["B-ORG", "O", "B-MISC", "O", "O"]},
        {"words": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
        {"words": ["#", "1996-08-22"], "tags": ["O", "O"]},
    ]
    assert list(ss.Conll(tmp_path / "a.txt", columns=("words", None, None, "tags")).records()) == expected
    assert list(ss.Conll(tmp_path / "a.txt", columns={"words": 0, "tags": -1}).records()) == expected
    source = ss.Conll(tmp_path / "a.conllu")
    assert list(source.records()) == [
        {"words": ["De", "le", "10 000", "#1"], "tags": ["ADP", "DET", "NUM", "SYM"]},
        {"words": ["Oui"], "tags": ["INTJ"]},
    ]
    assert [source.locate(row) for row in range(2)] == [f"{tmp_path / 'a.conllu'}, line {line}" for line in (1, 13)]
    assert ss.Conll(tmp_path / "a.conllu", columns=("form", "head")).head(1)[0]["head"] == ["3", "3", "0", "3"]
    heads = ss.Conll(tmp_path / "a.conllu", columns={"words": "lemma", "y": "deprel"})
    assert heads.head(2)[1] == {"words": ["oui"], "y": ["root"]}
    assert json.loads(json.dumps(heads.fingerprint())) == pickle.loads(pickle.dumps(heads)).fingerprint()
    assert heads.fingerprint() != source.fingerprint()
    for path, conllu, width in ((tmp_path / "a.txt", False, 4), (tmp_path / "a.conllu", True, 10)):
        check(path, path.read_bytes().decode(), conllu=conllu, width=width)


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_real_files(name: str) -> None:
    """The files of WNUT 17, whose blank lines have tabs, are read as by hand."""
    if "SEQSTREAM_DATA" not in os.environ:
        pytest.skip("SEQSTREAM_DATA is not set")
    path = Path(os.environ["SEQSTREAM_DATA"]) / "wnut17" / f"{name}.conll.gz"
    sentences = read_by_hand(gzip.decompress(path.read_bytes()).decode(), conllu=False)
    assert len(sentences) > 1_000
    assert list(ss.Conll(path).records()) == transposed(sentences, words=0, tags=1)


def test_errors_name_the_line(tmp_path: Path) -> None:
    """Columns that do not fit the first line are an error at once; a later line with others is one with its number."""
    path = tmp_path / "a.txt"
    path.write_text(SAMPLE_2003)
    four = "columns must have a name for each of 4 columns, None for one that is not read"
    for columns, message in {
        ("words", "tags"): four,
        ("words", None, None, "x", "y"): four,
        ("words", "words", None, None): "columns must have at least one name, and each once",
        (None,) * 4: "columns must have at least one name, and each once",
        ("words", "row_id", None, None): "columns must be none of the reserved row_id, piece, record, got 'row_id'",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            ss.Conll(path, columns=columns)
    with pytest.raises(ValueError, match=re.escape(f"as in {path}: 'EU NNP B-NP B-ORG'")):
        ss.Conll(path)
    with pytest.raises(ValueError, match="columns must be numbers from -4 to 3, got 4 for 'x'"):
        ss.Conll(path, columns={"x": 4})
    with pytest.raises(ValueError, match=r"columns must be among those of CoNLL-U, id, form, .* or words and tags, got 'ner'"):
        ss.Conll(path, columns=["words", "ner"], conllu=True)
    with pytest.raises(TypeError, match="columns must be names of columns, such as"):
        ss.Conll(path, columns="words")
    path.write_text("\ufeff" + SAMPLE_2003 + "a b O\n")
    message = f"{path}, line 17: line must have 4 columns between tabs or spaces, got 3: 'a b O'; correct it"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(ss.Conll(path, columns={"words": 0}).records())
    path.write_text(SAMPLE_UD.replace("2\tle", "x\tle"))
    with pytest.raises(
        ValueError, match=re.escape(f"{path}, line 6: line must begin with a number such as 1, 1-2 or 1.1, got 'x'")
    ):
        list(ss.Conll(path, conllu=True).records())
    path.write_bytes(SAMPLE_UD.encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16"):
        ss.Conll(path)
    (tmp_path / "b.conllu").write_text(SAMPLE_UD)
    with pytest.raises(ValueError, match=r"paths must be of one format, got names with and without \.conllu; pass conllu="):
        ss.Conll(tmp_path / "*")
    path.write_text("a\tO\n" * 40 + "\nb\tO\n")
    with pytest.raises(ValueError, match=r"record of 159 bytes or more at byte 0 of .* cannot fit max_record_bytes=100"):
        list(ss.Conll(path, max_record_bytes=100).records())
    path.write_bytes(b"\xff\tO\n")
    with pytest.raises(ValueError, match="line 1: text must be UTF-8, got 0xff"):
        ss.Conll(path)
    assert ss.Conll(path, errors="replace").head() == [{"words": ["\ufffd"], "tags": ["O"]}]


def test_a_file_without_sentences(tmp_path: Path) -> None:
    """An empty file, and one with nothing but blank lines and marks, has no records."""
    for text in ("", "\n \n", "-DOCSTART-\n\n-DOCSTART- -X-"):
        (tmp_path / "a").write_text(text)
        assert list(ss.Conll(tmp_path / "a").records()) == []


def test_ranks_share_sentences_with_their_tags(tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """The laws of ranks hold for sentences with tags: each in one rank, exact resume there."""
    lines = ["\n".join(f"{word} T{word % 3}" for word in range(number % 13)) for number in range(120)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    source = ss.Conll(tmp_path / "a.txt", block_bytes=200)
    tokenize = ss.Tokenize(wordpiece_tokenizer, field="words", labels="tags", word_ids=True, max_length=60)
    stages = (ss.ClassLabels.of(source, "tags"), tokenize)
    make = functools.partial(ss.Loader, source, *stages, ss.Bucket(128, window_batches=3))
    testing.check_ranks(make, 2)
    testing.check_resume_on_ranks(make, 2, num_stops=2)


def test_predictions_return_to_their_words(tmp_path: Path, wordpiece_tokenizer: Tokenizer) -> None:
    """By ``word_ids`` each word has the label of its first token, and a word without tokens keeps its place."""
    sentences = [["Some", "\u0000", "words"], ["\u0000", "\u200d", "more", "of", "them"], ["unbelievable", "xyz", "\u0000"]]
    (tmp_path / "a.txt").write_text(
        "\n\n".join("\n".join(f"{word}\tT{at}" for at, word in enumerate(own)) for own in sentences)
    )
    source = ss.Conll(tmp_path / "a.txt")
    assert [record["words"] for record in source.records()] == sentences
    stages = (
        ss.ClassLabels.of(source, "tags"),
        ss.Tokenize(wordpiece_tokenizer, field="words", labels="tags", word_ids=True, max_length=7, overflow="split"),
    )
    loader = ss.Loader(source, *stages, ss.Bucket(batch_size=2, window_batches=1))
    found: dict[int, dict[int, int]] = {}
    for batch in loader:
        assert batch.word_ids.dtype == torch.int64
        assert torch.equal(batch.word_ids == -100, (batch.input_ids < 5) & (batch.input_ids != 1))  # but unknown words have one
        for row, record in enumerate((batch.row_ids & 0xFFFF_FFFF).tolist()):
            is_first = batch.labels[row] != -100
            words, labels = batch.word_ids[row][is_first].tolist(), batch.labels[row][is_first].tolist()
            found.setdefault(record, {}).update(zip(words, labels, strict=True))
    assert found == {0: {0: 0, 2: 2}, 1: {2: 2, 3: 3, 4: 4}, 2: {0: 0, 1: 1}}
