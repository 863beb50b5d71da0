"""Reports: lengths, plans and recommendations, each a function that returns data."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import seqstream as ss
from seqstream import testing
from seqstream.tuning.comparison import compare, recommend
from seqstream.tuning.distribution import Bin, describe
from seqstream.tuning.loader_code import as_glob, write_call
from seqstream.tuning.planned_epoch import Setting, cut_windows, plan_epoch
from seqstream.tuning.report import make_report
from seqstream.tuning.row_limit import RowLimit
from seqstream.tuning.speed import measure_speed, take_sample
from seqstream.tuning.survey import EPOCH, take_survey

many_lengths = st.lists(st.integers(1, 5000), min_size=1, max_size=200).map(lambda rows: np.array(rows, np.int64))


@pytest.fixture
def lines(texts: list[str]) -> list[str]:
    """A few thousand lines of very different lengths, some of them empty."""
    rng = random.Random(0)
    return [" ".join(rng.choices(texts, k=int(rng.lognormvariate(0, 1)))) for _ in range(4000)]


@pytest.fixture
def source(lines: list[str], tmp_path: Path) -> ss.TextFiles:
    """Those lines in ten files, in blocks small enough that there are many."""
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("\n".join(lines[number::10]) + "\n")
    return ss.TextFiles(str(tmp_path / "*.txt"), block_bytes=4096)


def test_distribution_by_hand() -> None:
    """The distribution of a few lengths equals one computed by hand."""
    found = describe(np.array([1, 2, 3, 4, 5, 8, 9, 100]), limits=[8, 64, 128])
    assert (found.rows, found.tokens, found.mean, found.longest) == (8, 132, 16.5, 100)
    assert found.percentiles == {50: 5, 90: 100, 95: 100, 99: 100}
    assert found.over == {8: 0.25, 64: 0.125}
    empty = (Bin(17, 32, 0, 0), Bin(33, 64, 0, 0))
    assert found.bins == (
        Bin(1, 1, 1, 1),
        Bin(2, 2, 1, 2),
        Bin(3, 4, 2, 7),
        Bin(5, 8, 2, 13),
        Bin(9, 16, 1, 9),
        *empty,
        Bin(65, 128, 1, 100),
    )


@given(many_lengths)
def test_bins_hold_every_row_once(lengths: Any) -> None:
    """Bins follow each other without a gap and hold all rows and tokens, each row in the bin of its length."""
    found = describe(lengths)
    assert [each.low for each in found.bins[1:]] == [each.high + 1 for each in found.bins[:-1]]
    for each in found.bins:
        inside = lengths[(lengths >= each.low) & (lengths <= each.high)]
        assert (each.rows, each.tokens) == (len(inside), inside.sum())
    assert sum(each.rows for each in found.bins) == len(lengths)


def test_windows_by_hand() -> None:
    """Windows are full, and the last takes up to a quarter more."""
    ones = np.ones(35, np.int64)
    assert cut_windows(ones, 10).tolist() == [10, 20, 30]
    assert cut_windows(ones, 11).tolist() == [11, 22]
    assert cut_windows(ones, 20).tolist() == [20]
    assert cut_windows(ones, 28).tolist() == []
    assert cut_windows(ones, 35).tolist() == []
    assert cut_windows(ones, 100).tolist() == []
    assert cut_windows(np.array([1, 1, 99]), 50).tolist() == []


@given(many_lengths, st.integers(1, 20_000))
def test_windows_hold_what_they_should(lengths: Any, window_tokens: int) -> None:
    """No window is empty, and none holds more than its tokens, a quarter more if it is the last, and a row."""
    windows = np.split(lengths, cut_windows(lengths, window_tokens))
    assert np.concatenate(windows).tolist() == lengths.tolist()
    assert all(len(window) for window in windows)
    assert all(window.sum() < 1.25 * window_tokens + lengths.max() for window in windows)


def test_plan_by_hand() -> None:
    """An epoch of one window: rows of 4 and 2 tokens under a budget of 8 make batches without padding."""
    lengths = np.array([2, 4, 2, 4, 2, 2])
    assert plan_epoch(lengths, ss.Bucket(8)) == Setting(ss.Bucket(8), 8, 2, 3.0, 0.0)
    assert plan_epoch(lengths, ss.Unbucketed(6)) == Setting(ss.Unbucketed(6), 0, 1, 6.0, 1 - 16 / 24)


def test_windows_that_hold_all_are_planned_once() -> None:
    """Of the windows that hold the whole corpus only the smallest is planned, and random rows have batches of the same size."""
    lengths = np.random.default_rng(0).integers(1, 100, 1800)
    settings = compare(lengths, [4000, 400, 400], [1000, 1, 64, 256], num_bytes=90_000)
    windows = [
        (each.max_tokens, getattr(each.spec, "window_batches", None)) for each in settings if isinstance(each.spec, ss.Bucket)
    ]
    assert windows == [(400, 1), (400, 64), (400, 256), (4000, 1), (4000, 64)]
    baselines = [each for each in settings if isinstance(each.spec, ss.Unbucketed)]
    assert [each.max_tokens for each in baselines] == [400, 4000]
    assert baselines[0].rows == pytest.approx(settings[3].rows, rel=0.1)
    assert baselines[0].padding > 0.3
    assert settings[3].padding < 0.02


def test_bytes_limit_windows() -> None:
    """A window holds no more bytes of records than a loader's, so heavy records make smaller windows and more padding."""
    lengths = np.random.default_rng(0).integers(1, 100, 20_000)
    light, heavy = (plan_epoch(lengths, ss.Bucket(400), bytes_per_token) for bytes_per_token in (4.0, 1e6))
    assert heavy.padding > 4 * light.padding


def test_recommendation_by_hand() -> None:
    """The smallest budget with enough rows is recommended, and its smallest window whose padding is close to the least."""

    def settings(budget: int, rows: float) -> list[Setting]:
        wastes = {16: 0.05, 64: 0.014, 256: 0.01}
        buckets = [
            Setting(ss.Bucket(budget, window_batches=window), budget, 10, rows, padding) for window, padding in wastes.items()
        ]
        return [Setting(ss.Unbucketed(round(rows)), budget, 10, rows, 0.507), *buckets]

    best, reason = recommend([*settings(100, 5), *settings(400, 20), *settings(1600, 80)])
    assert best.spec == ss.Bucket(400, window_batches=64)
    assert reason == (
        "smallest budget with 16 rows a batch or more (20), and the smallest window within 0.5% of the least padding; "
        "random batches of this size compute 2.0 times the slots"
    )
    best, reason = recommend([*settings(100, 5), *settings(200, 10)])
    assert best.spec == ss.Bucket(200, window_batches=64)
    assert reason.startswith("largest budget, for more rows a batch (10)")


def test_survey_has_the_length_of_every_record(source: ss.TextFiles, lines: list[str], bpe_tokenizer: Tokenizer) -> None:
    """A survey has the number of tokens of every record, whole, and counts the empty ones."""
    blocks: list[int] = []
    survey = take_survey(source, ss.Tokenize(bpe_tokenizer), on_blocks=blocks.append)
    expected = [len(encoding.ids) for encoding in bpe_tokenizer.encode_batch(lines)]
    assert sorted(survey.lengths.tolist()) == sorted(length for length in expected if length)
    assert survey.lengths.dtype == np.int32
    assert (survey.records, survey.empty) == (len(lines), expected.count(0))
    assert survey.is_whole
    assert blocks[-1] == source.approx_blocks()


def test_survey_stops_at_its_limit(lines: list[str], bpe_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A survey with a limit has the first lengths of the whole one, ends soon after the limit, and is not marked as whole."""
    path = tmp_path / "long.txt"
    path.write_text("\n".join(lines * 15))
    tokenize = ss.Tokenize(bpe_tokenizer)
    whole, part = (take_survey(ss.TextFiles(str(path)), tokenize, limit=limit) for limit in (None, 20_000))
    assert part.lengths.tolist() == whole.lengths[: len(part.lengths)].tolist()
    assert 20_000 <= part.tokens < whole.tokens * 0.7
    assert whole.is_whole
    assert not part.is_whole


@pytest.mark.parametrize(
    "spec", [ss.Bucket(512, window_batches=16), ss.Bucket(2048, window_batches=8), ss.Unbucketed(12)], ids=repr
)
def test_plan_agrees_with_a_loader(source: ss.TextFiles, bpe_tokenizer: Tokenizer, spec: Any) -> None:
    """A plan from lengths agrees with the second epoch of a loader: the same number of batches, about the same padding."""
    tokenize = ss.Tokenize(bpe_tokenizer, max_length=256)
    planned = plan_epoch(take_survey(source, tokenize).lengths.astype(np.int64), spec)
    loader = ss.Loader(source, tokenize, spec)
    loader.set_epoch(EPOCH)
    batches = sum(1 for _ in loader)
    assert planned.batches == pytest.approx(batches, rel=0.05)
    assert planned.padding == pytest.approx(loader.stats.padding, rel=0.15)


def test_sample_is_the_beginning_of_an_epoch(source: ss.TextFiles, bpe_tokenizer: Tokenizer) -> None:
    """A sample is a source like any other, and has the first blocks of an epoch, of about the requested size."""
    sample = take_sample(source, 30_000)
    testing.check_source(sample)
    part, whole = (take_survey(each, ss.Tokenize(bpe_tokenizer)).lengths.tolist() for each in (sample, source))
    assert sorted(part) == sorted(whole[: len(part)])
    num_bytes = sum(table.nbytes for shard in range(sample.num_shards) for table, _ in sample.read(shard))
    assert num_bytes == pytest.approx(30_000, abs=4096)


def test_sample_of_long_shards(tmp_path: Path) -> None:
    """Of shards with many blocks a sample has only the first blocks, and it resumes after each of them."""
    path = tmp_path / "numbers.csv"
    path.write_text("text\n" + "".join(f"number {number}\n" for number in range(5000)))
    sample = take_sample(ss.Csv([str(path)], block_bytes=1000), 5000)
    testing.check_source(sample)
    texts = pa.concat_tables([table for table, _ in sample.read(0)]).column("text").to_pylist()
    assert texts == [f"number {number}" for number in range(len(texts))]
    assert 200 < len(texts) < 1500


def test_speed_counts_every_token(source: ss.TextFiles, bpe_tokenizer: Tokenizer) -> None:
    """Speed is measured over every token of an epoch once, cut to ``max_length``."""
    tokenize = ss.Tokenize(bpe_tokenizer, max_length=100, engine="tokenizers")
    speed = measure_speed(source, [tokenize], ss.Bucket(1000))
    assert speed.tokens == take_survey(source, tokenize).tokens
    assert speed.seconds > 0


def test_report_holds_together(source: ss.TextFiles, bpe_file: Path) -> None:
    """A report counts what it cuts, measures every setting, and its code makes a loader with the recommended one."""
    seen = []
    report = make_report(
        source, ss.Tokenize(str(bpe_file), max_length=64), [512, 1024], [4, 16], on_progress=lambda *now: seen.append(now)
    )
    assert report.truncated == np.count_nonzero(report.survey.lengths > 64)
    assert report.best in report.settings
    assert all(setting.tokens_per_second for setting in report.settings)
    assert {what for what, _, _ in seen} == {"tokenising", "planning", "measuring"}
    assert all(done <= total for _, done, total in seen)
    made: dict[str, Any] = {}
    exec(report.code, made)
    assert made["loader"].source == ss.TextFiles(source.paths, block_bytes=4096)
    assert made["loader"].stages[0].fingerprint() == ss.Tokenize(str(bpe_file), max_length=64).fingerprint()
    assert made["loader"].stages[1] == ss.Bucket(report.best.max_tokens), "the default window, which holds more"


def test_rows_are_cut_to_the_smallest_budget(source: ss.TextFiles, bpe_file: Path) -> None:
    """Without ``max_length`` every setting is of rows that the smallest budget can hold, and the code says so."""
    report = make_report(source, ss.Tokenize(str(bpe_file)), [4096, 400], [64])
    assert report.max_length == 400
    assert report.distribution.longest > 400
    assert report.truncated
    assert "max_length=400)" in report.code
    assert report.packed_code is None
    assert report.advice == ()


def test_long_documents_are_split(source: ss.TextFiles, bpe_file: Path) -> None:
    """Where a limit would lose much, records are split or packed and lose nothing; a limit that is asked for gives advice."""
    report = make_report(source, ss.Tokenize(str(bpe_file)), [4096, 32], [64])
    assert (report.limit.overflow, report.truncated) == ("split", 0)
    assert report.too_long == np.count_nonzero(report.survey.lengths > 32)
    assert 'max_length=32, overflow="split")' in report.code
    assert 'Pack(row_length=32, rows=128, overflow="split")' in str(report.packed_code)
    for code in (report.code, str(report.packed_code)):
        made: dict[str, Any] = {}
        exec(code, made)
        num_tokens = sum(batch.num_tokens for batch in made["loader"])
        assert 0.98 * report.survey.tokens <= num_tokens <= report.survey.tokens, (
            "Pack drops pieces of one token, without labels"
        )
    asked = make_report(source, ss.Tokenize(str(bpe_file), max_length=32), [512], [64])
    assert "overflow" not in asked.code
    assert asked.advice[0].startswith("max_length=32 loses")


def test_rows_of_a_limit_by_hand() -> None:
    """A limit gives the rows that `Tokenize` gives: pieces have special tokens of their own."""
    lengths = np.array([5, 20])
    rows = {how: RowLimit(8, how, 1).apply(lengths).tolist() for how in ("truncate", "drop", "split")}
    assert rows == {"truncate": [5, 8], "drop": [5], "split": [5, 8, 8, 6]}
    assert {how: RowLimit(8, how, 1).origins(lengths).tolist() for how in rows} == {
        "truncate": [0, 1],
        "drop": [0],
        "split": [0, 1, 1, 1],
    }
    assert RowLimit(8).lost(lengths) == 12 / 25
    assert RowLimit(None).apply(lengths) is lengths


def test_split_rows_are_those_of_a_loader(source: ss.TextFiles, wordpiece_tokenizer: Tokenizer) -> None:
    """Lengths of pieces, special tokens included, are those of the rows of a loader."""
    tokenize = ss.Tokenize(wordpiece_tokenizer, max_length=16, overflow="split")
    whole = take_survey(source, ss.Tokenize(wordpiece_tokenizer)).lengths.astype(np.int64)
    rows = [length for batch in ss.Loader(source, tokenize, ss.Bucket(512)) for length in batch.lengths.tolist()]
    assert sorted(RowLimit.of(tokenize, whole, 512).apply(whole).tolist()) == sorted(rows)


def test_report_refuses(source: ss.TextFiles, bpe_file: Path, tmp_path: Path) -> None:
    """Data without rows and options that do not fit are errors, with file and line if there are any."""
    tokenize = ss.Tokenize(str(bpe_file), max_length=512)
    with pytest.raises(ValueError, match="budgets must be at least max_length=512, got 256; lower max_length"):
        make_report(source, tokenize, [1024, 256], [64])
    path = tmp_path / "empty"
    path.write_text("")
    with pytest.raises(ValueError, match="source must have at least one record, got none; look at the paths"):
        make_report(ss.TextFiles(str(path)), tokenize, [1024], [64])
    path.write_text("\n\n\n")
    with pytest.raises(ValueError, match="source must give at least one row, got none: 3 records were empty"):
        make_report(ss.TextFiles(str(path)), tokenize, [1024], [64])


def test_code_leaves_out_what_is_so_by_default() -> None:
    """The call that makes a spec names the arguments that differ from their defaults, with readable numbers."""
    assert write_call(ss.Bucket(16_384)) == "Bucket(max_tokens=16_384)"
    assert write_call(ss.Bucket(batch_size=8, window_batches=64)) == "Bucket(batch_size=8, window_batches=64)"
    assert write_call(ss.Unbucketed(32, drop_last=True)) == "Unbucketed(batch_size=32, drop_last=True)"


def test_globs_stand_for_exactly_the_files(tmp_path: Path) -> None:
    """Files become a glob if they are all files of a folder with their suffix; others stay a list."""
    paths = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    for path in paths:
        Path(path).touch()
    (tmp_path / "d.csv").touch()
    assert as_glob(paths) == str(tmp_path / "*.txt")
    assert as_glob(paths[:2]) is None
    assert as_glob(paths[::-1]) is None
    assert as_glob(paths[:1]) == paths[0]
    assert write_call(ss.TextFiles(paths)) == f'TextFiles("{tmp_path}/*.txt")'
    assert write_call(ss.TextFiles(paths[:2], unit="file")) == f'TextFiles(["{paths[0]}", "{paths[1]}"], unit="file")'
