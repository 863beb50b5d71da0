"""Splits: a record stays in its part, groups and equal texts stay together, shares are exact enough."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import Dataset

import seqstream as ss

CHANCE = random.Random(5)
ROWS = [
    {"id": number, "text": " ".join(CHANCE.choices(["sun", "rain", "snow"], k=9 + number % 30)), "author": f"a{number % 60}"}
    for number in range(3_000)
]
for number, row in enumerate(ROWS):
    row["label"] = "rare" if number % 100 == 0 else "often"


def ids(source: ss.Source) -> set[int]:
    return {record["id"] for record in source.records()}


def write_json(path: Path, rows: Iterable[dict[str, Any]], **options: Any) -> ss.JsonLines:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return ss.JsonLines(path, **options)


def write_parquet(path: Path) -> ss.Parquet:
    pq.write_table(pa.Table.from_pylist(ROWS).select(["label", "text", "id"]), path, row_group_size=400)
    return ss.Parquet(path)


def to_hugging_face(streams: bool) -> ss.HFDataset:
    import datasets

    dataset = datasets.Dataset.from_list(ROWS).shuffle(seed=3)
    return ss.HFDataset(dataset.to_iterable_dataset(num_shards=3) if streams else dataset)


CHANGES: dict[str, Callable[[Path], ss.Source]] = {
    "appended": lambda folder: write_json(folder / "b.jsonl", [*ROWS, {"id": -1, "text": "new"}, {"id": 0.5, "text": "more"}]),
    "in front": lambda folder: write_json(folder / "b.jsonl", [{"id": -1, "text": "new", "extra": [1]}, *ROWS]),
    "compressed": lambda folder: write_json(folder / "b.jsonl.gz", ROWS),
    "blocks": lambda folder: write_json(folder / "b.jsonl", ROWS, block_bytes=500),
    "order": lambda folder: write_json(folder / "b.jsonl", random.Random(1).sample(ROWS, len(ROWS))),
    "columns": lambda folder: write_json(folder / "b.jsonl", ROWS, columns=["text", "id"]),
    "keys": lambda folder: write_json(folder / "b.jsonl", [dict(reversed(row.items())) for row in ROWS]),
    "parquet": lambda folder: write_parquet(folder / "b.parquet"),
    "data set": lambda _: to_hugging_face(False),
    "stream": lambda _: to_hugging_face(True),
    "list": lambda _: ss.Generator(ROWS),
    "function": lambda _: ss.Generator(lambda: iter(ROWS)),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[set[Any]]:
    """The records of each part of the rows in a file."""
    parts = write_json(tmp_path_factory.mktemp("rows") / "a.jsonl", ROWS).split(valid=0.2, test=0.1)
    return [ids(part) for part in parts]


@pytest.mark.parametrize("change", CHANGES)
def test_records_stay_on_their_side(tmp_path: Path, change: str, expected: list[set[Any]]) -> None:
    """However the files change, the same records are held out, and each is in one part."""
    assert sum(map(len, expected)) == len(set.union(*expected)) == len(ROWS)
    found = [ids(part) & set(range(len(ROWS))) for part in CHANGES[change](tmp_path).split(valid=0.2, test=0.1)]
    assert found == expected


@pytest.mark.parametrize("field", ["text", "line"])
def test_lines_stay_on_their_side(tmp_path: Path, field: str) -> None:
    r"""Lines of text files stay in their part too, with ``\r\n`` or without, and cut into other files."""
    lines = [row["text"] for row in ROWS]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_bytes("\r\n".join(["new", *lines[1_000:]]).encode())
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("\n".join(lines[:1_000]).encode()))
    _, held = ss.TextFiles(tmp_path / "a.txt", field=field).split(valid=0.2)
    _, same = ss.TextFiles([tmp_path / "b.txt", tmp_path / "c.txt.gz"], field=field, block_bytes=300).split(valid=0.2)
    expected = {record[field] for record in held.records()}
    assert {record[field] for record in same.records()} - {"new"} == expected
    assert len(expected) == pytest.approx(0.2 * len(set(lines)), rel=0.15)


def test_records_without_text_are_known_by_all_fields() -> None:
    """Two fields are hashed together, in any order; one more field is another record."""
    rows = [{"question": f"q{number}", "answer": number} for number in range(2_000)]
    _, held = ss.Generator(rows).split(valid=0.3)
    _, same = ss.Generator([dict(reversed(row.items())) for row in rows]).split(valid=0.3)
    expected = [record["answer"] for record in held.records()]
    assert [record["answer"] for record in same.records()] == expected
    assert len(expected) == pytest.approx(600, rel=0.1)
    _, other = ss.Generator([{**row, "more": 1} for row in rows]).split(valid=0.3)
    assert [record["answer"] for record in other.records()] != expected


def test_the_same_text_is_on_one_side() -> None:
    """Two records of one text, with different other fields, are in one part."""
    rows = [{"text": f"text {number % 500}", "score": number} for number in range(2_000)]
    parts = [{record["text"] for record in part.records()} for part in ss.Generator(rows).split(valid=0.2, test=0.2)]
    assert sum(map(len, parts)) == 500
    assert [len(part) for part in parts] == pytest.approx([300, 100, 100], rel=0.2)


def test_groups_stay_together(tmp_path: Path) -> None:
    """By a column, or two, records of one value are in one part; those without a value are split by their content."""
    rows = [{**row, "author": None if number % 3 == 0 else row["author"]} for number, row in enumerate(ROWS)]
    train, valid = (list(part.records()) for part in write_json(tmp_path / "a.jsonl", rows).split(valid=0.3, by="author"))
    authors = [{record["author"] for record in part} - {None} for part in (train, valid)]
    assert not authors[0] & authors[1]
    assert len(authors[0]) + len(authors[1]) == 40
    nobodys = [sum(record["author"] is None for record in part) for part in (train, valid)]
    assert nobodys[1] == pytest.approx(300, rel=0.2)
    parts = ss.Generator(ROWS).split(valid=0.3, by=["label", "author"])
    pairs = [{(record["label"], record["author"]) for record in part.records()} for part in parts]
    assert not pairs[0] & pairs[1]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    """A misspelt column is an error with the columns present, and the location."""
    train, _ = write_json(tmp_path / "a.jsonl", ROWS).split(valid=0.3, by="autor")
    message = "^by must name columns that all records have, got 'autor'; there are 'id', 'text', 'author', 'label'"
    with pytest.raises(ValueError, match=message) as info:
        train.head()
    assert info.value.__notes__ == [f"while splitting from {tmp_path / 'a.jsonl'}, line 1"]


def test_shares_of_splits_and_of_splits_of_splits() -> None:
    """Shares are near the options, and a part is split again like a whole: 60/20/20 in two steps."""
    rows = [{"text": f"text {number}"} for number in range(20_000)]
    rest, test = ss.Generator(rows).split(valid=0.2)
    train, valid = rest.split(valid=0.25)
    sizes = [len(list(part.records())) for part in (train, valid, test)]
    assert sum(sizes) == 20_000
    assert sizes == pytest.approx([12_000, 4_000, 4_000], abs=300)
    three = ss.Generator(rows).split(valid=0.2, test=0.2)
    assert [len(list(part.records())) for part in three] == pytest.approx([12_000, 4_000, 4_000], abs=300)
    assert list(three[1].records()) == list(test.records())  # whatever the share for testing is
    assert list(ss.Generator(rows).split(test=0.2)[1].records()) == list(three[2].records())
    assert len(list(ss.Generator(rows).split()[1].records())) == pytest.approx(1_000, abs=150)
    assert list(ss.Generator(rows).split(valid=0.2, seed=1)[1].records()) != list(test.records())


def test_classes_have_exact_shares(tmp_path: Path) -> None:
    """By class the shares are exact, a class of 30 among them; with the cuts kept, no record moves as data is appended."""
    for source in (write_json(tmp_path / "a.jsonl", ROWS), ss.Generator(ROWS)):
        parts = source.split(valid=0.2, test=0.1, stratify="label")
        counts = [Counter(record["label"] for record in part.records()) for part in parts]
        assert counts == [{"often": 2079, "rare": 21}, {"often": 594, "rare": 6}, {"often": 297, "rare": 3}]
    cuts = json.loads(json.dumps(parts[1].cuts))
    more = [{**row, "id": 10_000 + number, "text": f"new {number}"} for number, row in enumerate(ROWS[:1_000])]
    more.append({**ROWS[0], "id": 20_000, "label": "a new class"})
    grown = write_json(tmp_path / "b.jsonl", [*more, *ROWS]).split(valid=0.2, test=0.1, stratify=cuts)
    assert [ids(part) & set(range(len(ROWS))) for part in grown] == [ids(part) for part in parts]
    assert parts[0].fingerprint() != ss.Generator(ROWS).split(valid=0.2, test=0.1)[0].fingerprint()


def test_what_is_refused() -> None:
    """Shares out of range, two ways to split at once, and invalid cuts are errors."""
    source = ss.Generator(ROWS)
    for shares in ({"valid": 0.0}, {"valid": 1}, {"test": -0.1}, {"valid": 0.5, "test": 1.5}):
        with pytest.raises(ValueError, match=r"(valid|test) must be a share between 0 and 1, got"):
            source.split(**shares)
    with pytest.raises(
        ValueError, match=r"valid \+ test must be between 0 and 1, so that training has a share, got 0.6 \+ 0.4"
    ):
        source.split(valid=0.6, test=0.4)
    with pytest.raises(ValueError, match="by and stratify cannot both be given"):
        source.split(by="id", stratify="label")
    with pytest.raises(ValueError, match="stratify must be the name of a column, or the cuts of an earlier split, got 3"):
        source.split(stratify=3)
    with pytest.raises(ValueError, match="stratify reads all records once"):
        ss.Generator(iter(ROWS)).split(stratify="label")


def test_the_rule_is_part_of_a_state(tmp_path: Path) -> None:
    """A state of one part is an error in another, and with another rule, with the entry's name."""
    source = write_json(tmp_path / "a.jsonl", ROWS)

    def make(part: ss.Source) -> ss.Loader:
        return ss.Loader(part, ss.Map(lambda table: table.select(["id"])), ss.Unbucketed(8))

    train, valid = source.split(valid=0.2)
    state = make(train).state_dict()
    make(pickle.loads(pickle.dumps(train))).load_state_dict(state)
    with pytest.raises(ValueError, match=r"saved for source\.side train, this loader has valid"):
        make(valid).load_state_dict(state)
    with pytest.raises(ValueError, match=r"saved for source\.split\.by content, this loader has \['author'\]"):
        make(source.split(valid=0.2, by="author")[0]).load_state_dict(state)


class Counted(Dataset[Any]):
    """Records the numbers of the items read."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.asked.append(number)
        return {"text": ROWS[number]["text"], "id": number}


def test_items_of_the_other_side_are_read_once() -> None:
    """Records read by their numbers are in random order, and after an epoch none of another part is read."""
    data = Counted()
    parts = ss.Generator(data).split(valid=0.2)
    loaders = [ss.Loader(part, ss.Map(lambda table: table.select(["id"])), ss.Unbucketed(16)) for part in parts]
    seen = [[row for batch in loader for row in batch.row_ids.tolist()] for loader in loaders]
    assert sorted(seen[0] + seen[1]) == list(range(len(ROWS)))
    assert abs(np.corrcoef(seen[0][:-1], seen[0][1:])[0, 1]) < 0.1
    data.asked.clear()
    again = [row for batch in loaders[1] for row in batch.row_ids.tolist()]
    assert sorted(again) == sorted(seen[1]) == sorted(set(data.asked))
    assert again != seen[1]
