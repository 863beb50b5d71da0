"""`ClassLabels`: classes to numbers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import seqstream as ss
from seqstream.records import RecordError
from seqstream.stages.class_labels import ClassLabels

CLASSES = ["neg", "pos", "é"]


def labelled(values: Any, first: int = 0) -> pa.Table:
    return pa.table({"text": ["t"] * len(values), "label": values, "row_id": pa.array(range(first, first + len(values)))})


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_classes_become_their_indices(kind: pa.DataType) -> None:
    """One string per record becomes one int64, in the same place of the table, for every type of string."""
    tables, counts = ClassLabels(CLASSES).open()([labelled(pa.array(["pos", "é"], kind)), labelled(pa.array(["neg"], kind), 2)])
    assert [table["label"].to_pylist() for table in tables] == [[1, 2], [0]]
    assert tables[0].schema == pa.schema({"text": pa.string(), "label": pa.int64(), "row_id": pa.int64()})
    assert counts == [{}, {}]


def test_chunks_and_slices_are_taken() -> None:
    """A column in several chunks, or a slice of one, is numbered as a whole."""
    chunked = pa.chunked_array([["pos"], ["neg", "é"]])
    ((made,), _) = ClassLabels(CLASSES).open()([labelled(chunked).slice(1)])
    assert made["label"].to_pylist() == [0, 2]
    for lists in ([[["pos"], ["neg", "é"], []]], [[["pos"]], [["neg", "é"], []]]):
        ((made,), _) = ClassLabels(CLASSES).open()([labelled(pa.chunked_array(lists)).slice(1)])
        assert made["label"].to_pylist() == [[0, 2], []]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())], ids=str)
def test_lists_become_lists(kind: pa.DataType) -> None:
    """A list of strings per record, such as tags of words, becomes a list of numbers."""
    ((made,), _) = ClassLabels(CLASSES).open()([labelled(pa.array([["pos", "é"], [], ["neg"]], kind))])
    assert made["label"].to_pylist() == [[1, 2], [], [0]]
    assert made["label"].type.value_type == pa.int64()


def test_nothing_to_number() -> None:
    """A block without rows may lack the column, and lists may all be empty."""
    nothing = pa.table({"row_id": pa.array([], pa.int64())})
    assert ClassLabels(CLASSES).open()([nothing])[0] == [nothing]
    ((made,), _) = ClassLabels(CLASSES).open()([labelled([[], []])])
    assert made["label"].to_pylist() == [[], []]
    assert made["label"].type == pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["pos", "meh"], r"^label 'meh' must be one of 'neg', 'pos', 'é'$"),
        ([["pos"], ["neg", "meh"]], r"^label 'meh' must be one of 'neg', 'pos', 'é'$"),
        (["pos", None], r"^field 'label' must not be null; drop such records with Filter before$"),
        ([["pos"], None], r"^field 'label' must not be null; drop such records with Filter before$"),
        ([["pos"], ["neg", None]], r"^field 'label' must not be null; drop such records with Filter before$"),
    ],
)
def test_a_record_without_a_class_is_named(values: Any, message: str) -> None:
    """An unknown class and a missing one are errors with the row id of the record."""
    with pytest.raises(RecordError, match=message) as caught:
        ClassLabels(CLASSES).open()([labelled(["pos"], 3), labelled(values, 7)])
    assert caught.value.row_id == 8


def test_of_many_classes_some_are_shown() -> None:
    """An error stays short."""
    classes = [f"c{number}" for number in range(77)]
    with pytest.raises(RecordError, match=r"^tag 'x' must be one of 'c0', .*'c7', …$"):
        ClassLabels(classes, field="tag").open()([pa.table({"tag": ["x"], "row_id": [0]})])


def test_columns_that_do_not_fit() -> None:
    """A column that is missing or holds numbers is named."""
    with pytest.raises(
        ValueError, match=r"^ClassLabels cannot find the field 'y' among the columns text, label; set ClassLabels\("
    ):
        ClassLabels(CLASSES, field="y").open()([labelled(["pos"])])
    with pytest.raises(
        ValueError, match=r"^field 'label' must hold strings for ClassLabels, got int64; leave ClassLabels out$"
    ):
        ClassLabels(CLASSES).open()([labelled([1])])


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ("pos", TypeError, r"^classes must be a list of strings, of whole numbers or of booleans, got 'pos'$"),
        ([1, "a"], TypeError, r"^classes must be a list of strings, of whole numbers or of booleans, got \[1, 'a'\]$"),
        (None, TypeError, r"^classes must be a list of strings, of whole numbers or of booleans, got None$"),
        ([], ValueError, r"^classes must have at least one name, got none$"),
        (["a", "b", "a"], ValueError, r"^classes must have each name once, got 'a' 2 times$"),
    ],
)
def test_classes_are_checked_at_once(classes: Any, error: type[Exception], message: str) -> None:
    """Anything but a list of distinct classes is refused by the constructor."""
    with pytest.raises(error, match=message):
        ClassLabels(classes)


def test_a_column_of_the_loader_is_no_label() -> None:
    """Row ids cannot be numbered."""
    with pytest.raises(ValueError, match=r"^field must be a column of the data, got 'row_id', which is the loader's own$"):
        ClassLabels(CLASSES, field="row_id")


def test_it_is_a_description() -> None:
    """It prints and pickles, opened or not, and its fingerprint is what decides the numbers."""
    stage = ClassLabels(CLASSES)
    assert repr(stage) == "ClassLabels(['neg', 'pos', 'é'])"
    assert repr(ClassLabels(["abcd", "fghij"], field="y")) == "ClassLabels(['abcd', 'fghij'], field='y')"
    assert pickle.loads(pickle.dumps(stage)) == stage == ClassLabels(tuple(CLASSES))
    ((made,), _) = pickle.loads(pickle.dumps(stage.open()))([labelled(["pos"])])
    assert made["label"].to_pylist() == [1]
    assert stage.fingerprint() == {"kind": "ClassLabels", "classes": CLASSES, "field": "label"}


def test_it_imports_nothing_heavy() -> None:
    """Neither the import nor the numbering imports pandas, and the import does not import compute functions either."""
    code = """
        import sys
        import numpy as np
        import pyarrow as pa
        from seqstream.stages.class_labels import ClassLabels
        assert "pyarrow.compute" not in sys.modules
        texts = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"pos"))
        made = ClassLabels(["neg", "pos"]).open()([pa.Table.from_arrays([texts], names=["label"])])
        assert "pandas" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string_view())], ids=str)
def test_several_classes_become_multi_hot(kind: pa.DataType) -> None:
    """Each record gets a float for every class: of no class, of one that is there twice, of a slice; and of single classes."""
    stage = ClassLabels(CLASSES, multi_hot=True)
    values = pa.array([["neg"], ["é", "neg"], [], ["pos", "pos"]], kind)
    ((made,), _) = stage.open()([labelled(values).slice(1)])
    assert made["label"].to_pylist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert made["label"].type == pa.list_(pa.float32(), 3)
    ((made, nothing), _) = stage.open()([labelled(["pos", "é"]), labelled(pa.array([[]], kind))])
    assert (made["label"].to_pylist(), nothing["label"].to_pylist()) == ([[0, 1, 0], [0, 0, 1]], [[0, 0, 0]])
    assert repr(stage) == "ClassLabels(['neg', 'pos', 'é'], multi_hot=True)"
    assert stage.fingerprint() == {**ClassLabels(CLASSES).fingerprint(), "multi_hot": True}
    with pytest.raises(RecordError, match=r"^label 'meh' must be one of 'neg', 'pos', 'é'$") as caught:
        stage.open()([labelled(pa.array([["pos"], ["neg", "meh"]], kind), 7)])
    assert caught.value.row_id == 8


@pytest.mark.parametrize("spec", [ss.Bucket(40), ss.Bucket(shapes=[(4, 6)]), ss.Pack(8, rows=1, causal=False)], ids=repr)
def test_multi_hot_labels_reach_the_loss(spec: Any) -> None:
    """A batch has (B, C) floats beside the ids of each row, also in fixed shapes and packed, and none is lost for no class."""
    rows = [{"text": "a" * (1 + number % 5), "labels": [each for each in (3, 5) if number % each == 0]} for number in range(20)]
    stage = ClassLabels.of(ss.Generator(rows), "labels", multi_hot=True)
    assert (stage.classes, stage.counts) == ((3, 5), (7, 4))
    tokenize = ss.Tokenize(lambda texts: [[1] * len(text) for text in texts], max_length=5)
    loader = ss.Loader(ss.Generator(rows), stage, tokenize, spec)
    found = {}
    for batch in loader:
        labels = batch["labels"]
        assert (labels.dtype, labels.shape) == (torch.float32, (len(batch.row_ids), 2))
        torch.nn.functional.binary_cross_entropy_with_logits(torch.zeros_like(labels), labels, batch.weights[:, None])
        found |= dict(zip(batch.row_ids.tolist(), labels.tolist(), strict=True))
    assert {row: values for row, values in found.items() if row >= 0} == {
        number: [number % 3 == 0, number % 5 == 0] for number in range(20)
    }


@pytest.mark.parametrize(
    ("values", "classes", "counts"),
    [
        (["b", "a", "b", "b"], ("a", "b"), (1, 3)),
        ([3, 1, 3, -2], (-2, 1, 3), (1, 1, 2)),
        ([True, False, True, True], (False, True), (1, 3)),
        ([["x", "y"], ["x"], [], ["x"]], ("x", "y"), (3, 1)),
    ],
)
def test_classes_are_read_from_the_data(tmp_path: Path, values: list[Any], classes: Any, counts: Any) -> None:
    """Strings, whole numbers, booleans and lists: each class once, sorted, with its count; the stage numbers them."""
    rows = [{"text": "a", "category": value} for value in values]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"category": values}), tmp_path / "a.parquet")
    for source in (ss.JsonLines(tmp_path / "a.jsonl", block_bytes=20), ss.Parquet(tmp_path / "a.parquet")):
        stage = ClassLabels.of(source, "category", to="label")
        assert (stage.classes, stage.counts, stage.field, stage.column) == (classes, counts, "category", "label")
    table = pa.table({"category": values, "row_id": pa.array(range(4))})
    ((made,), _) = stage.open()([table])
    numbers = [[classes.index(each) for each in value] if isinstance(value, list) else classes.index(value) for value in values]
    assert made.to_pydict() == {"category": values, "row_id": [0, 1, 2, 3], "label": numbers}


def test_weights_are_those_of_scikit_learn() -> None:
    """Total / (classes * count), float32: 6 / (3 * (3, 2, 1))."""
    stage = ClassLabels(["a", "b", "c"], counts=[3, 2, 1])
    assert stage.weights().tolist() == pytest.approx([2 / 3, 1, 2])
    assert stage.weights().dtype == torch.float32
    with pytest.raises(ValueError, match=r"^weights need the counts of the classes; make the stage by ClassLabels.of"):
        ClassLabels(["a"]).weights()
    with pytest.raises(ValueError, match=r"^class 'b' must occur at least once to have a weight, got no record of it$"):
        ClassLabels(["a", "b"], counts=[1, 0]).weights()


def test_classes_that_cannot_be_read() -> None:
    """Columns that are missing, of floats or only of nulls, and a source that can be read only once, are refused."""
    rows: list[dict[str, Any]] = [{"text": "a", "x": 0.5}]
    with pytest.raises(ValueError, match=r"^ClassLabels cannot find the field 'y' among the columns text, x"):
        ClassLabels.of(ss.Generator(rows), "y")
    with pytest.raises(ValueError, match=r"^field 'x' must hold strings, whole numbers or booleans, got double"):
        ClassLabels.of(ss.Generator(rows), "x")
    with pytest.raises(ValueError, match=r"^ClassLabels.of cannot read records that a generator gives only once"):
        ClassLabels.of(ss.Generator(iter(rows)), "x")
    with pytest.raises(ValueError, match=r"^ClassLabels cannot add the column 'text', which the table has already"):
        ClassLabels(["a"], to="text").open()([pa.table({"label": ["a"], "text": ["t"]})])
    with pytest.raises(ValueError, match=r"^field 'label' must hold whole numbers for ClassLabels, got string"):
        ClassLabels([1, 2]).open()([pa.table({"label": ["a"]})])


@pytest.mark.parametrize("field", ["label", "tags", "ner_labels"])
def test_lists_are_padded_with_no_class(field: str) -> None:
    """Padding is -100 and not the first class, for any name of the column; flat and padded."""
    rows = [{"text": "a b", field: ["x", "y"]}, {"text": "a", field: ["y"]}]
    stages = ClassLabels(["x", "y"], field=field), ss.Tokenize(lambda texts: [[1] * len(text) for text in texts])
    for layout in ("padded", "jagged"):
        (batch,) = ss.Loader(ss.Generator(rows), *stages, ss.Unbucketed(2), shuffle=False, layout=layout)
        assert getattr(batch, field).tolist() == [[0, 1], [1, -100]]
    numbers = [{"text": "a", "label": [0, 1]}, {"text": "b", "label": [1]}, {"text": "c", "label": []}]
    (batch,) = ss.Loader(ss.Generator(numbers), stages[1], ss.Unbucketed(3), shuffle=False)
    assert batch.label.tolist() == [[0, 1], [1, -100], [-100, -100]], "a record of no class is one"
    flags = [{"text": "a", "label": [True, False]}, {"text": "b", "label": [True]}]
    (batch,) = ss.Loader(ss.Generator(flags), stages[1], ss.Unbucketed(2), shuffle=False)
    assert batch.label.tolist() == [[1, 0], [1, -100]]
