"""`ss.report`: on loaders, sources, files and folders of tokens; its page, and that page in a real browser."""

from __future__ import annotations

import dataclasses
import html
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import seqstream as ss
from seqstream.reporting.classes import class_columns
from seqstream.reporting.page import prose
from seqstream.reporting.report import CorpusReport
from seqstream.reporting.svg import COLOURS, clean
from seqstream.reporting.wording import percent
from seqstream.tuning.printing import short_number
from tests.helpers.browser import browser

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def records(texts: list[str]) -> list[dict[str, Any]]:
    """Records of very different lengths, with a label; some are empty or repeated."""
    rng = random.Random(0)
    made = [
        {
            "text": " ".join(rng.choices(texts, k=int(rng.lognormvariate(0, 1)))),
            "kind": rng.choice(["good", "bad"]),
            "id": number,
        }
        for number in range(3000)
    ]
    return [*made, *made[:7]]


@pytest.fixture(scope="module")
def file(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These records as JSON lines."""
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def report(file: Path, bpe_file: Path) -> CorpusReport:
    """The report of the file, with small budgets."""
    return ss.report(str(file), ss.Tokenize(str(bpe_file)), budgets=[512, 2048], windows=[16, 64])


@pytest.fixture(scope="module")
def page(report: CorpusReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return path


def test_report_of_files(report: CorpusReport, records: list[dict[str, Any]], file: Path, bpe_tokenizer: Tokenizer) -> None:
    """A report of a file finds its classes, keeps them in its code, and counts what is suspicious."""
    lengths = [len(encoding.ids) for encoding in bpe_tokenizer.encode_batch([record["text"] for record in records])]
    found = report.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["sections"] == found["sections"]
    assert (found["records"], found["empty"]) == (len(records), lengths.count(0))
    sections = found["sections"]
    assert sections["lengths"]["longest"] == max(lengths)
    assert sections["prediction"]["tokens"] == sum(min(length, 512) for length in lengths)
    assert (sections["steps"]["label"], sections["steps"]["num_classes"]) == ("kind", 2)
    assert 'columns=["text", "kind"]' in report.summary.code
    suspicions = {each["kind"]: each for each in sections["samples"][""]["suspicions"]}
    assert suspicions["empty"]["count"] == lengths.count(0)
    texts = [record["text"] for record, length in zip(records, lengths, strict=True) if length]
    assert suspicions["repeated"]["count"] == len(texts) - len(set(texts))
    empty = {f"{file}, line {number:,}" for number, length in enumerate(lengths, 1) if not length}
    assert set(suspicions["empty"]["locations"]) <= empty
    assert len(suspicions["empty"]["locations"]) == 3
    assert str(report).startswith(f"{len(records):,} records")
    assert repr(report).startswith("<report of ")


def test_samples_are_rows(report: CorpusReport, records: list[dict[str, Any]], bpe_tokenizer: Tokenizer) -> None:
    """Samples are the shortest and the longest rows and some of the median length, each with its text and its line."""
    (samples,) = report.sections.samples.values()
    lengths = np.array([len(encoding.ids) for encoding in bpe_tokenizer.encode_batch([each["text"] for each in records])])
    ordered = np.sort(lengths[lengths > 0])
    assert [row.tokens for row in samples.shortest] == ordered[:3].tolist()
    assert [row.tokens for row in samples.longest] == ordered[:-4:-1].tolist()
    assert all(abs(row.tokens - np.median(ordered)) <= 10 for row in samples.median)
    for row in (*samples.shortest, *samples.median, *samples.longest):
        line = int(row.location.rpartition(" ")[2].replace(",", ""))
        assert records[line - 1]["text"].startswith(row.text) if row.is_cut else records[line - 1]["text"] == row.text


def test_report_of_a_loader_is_what_it_does(file: Path, bpe_file: Path) -> None:
    """Steps and padding that a report of a loader predicts are those of the run that follows, to within one per cent."""
    tokenize = ss.Tokenize(str(bpe_file), max_length=256, overflow="split")
    loader = ss.Loader(ss.JsonLines(str(file)), tokenize, ss.Bucket(1024), accumulate=2)
    found = ss.report(loader, is_measured=False)
    slots = sum(batch.num_slots for batch in loader)
    predicted = found.sections.prediction
    assert predicted.tokens == loader.stats.tokens
    assert predicted.steps == pytest.approx(loader.stats.steps, rel=0.01, abs=1)
    assert predicted.padding == pytest.approx(1 - loader.stats.tokens / slots, abs=0.01)
    assert found.summary.limit.overflow == "split"
    assert {setting.max_tokens for setting in found.summary.settings} == {256, 1024, 4096}
    with pytest.raises(ValueError, match="a loader has its stages"):
        ss.report(loader, ss.Bucket(1024))


def test_code_keeps_the_options_of_a_loader(file: Path, bpe_file: Path) -> None:
    """The code that is recommended for a loader makes the same but for its budget and window, and names own functions."""
    tokenize = ss.Tokenize(str(bpe_file), max_length=64)
    spec = ss.Bucket(1024, window_batches=7, balance="kind", multiple_of=8)
    own = {"seed": 3, "accumulate": 2, "pad_values": {"input_ids": 1}, "device": "cpu", "on_batch": ss.CausalLabels()}
    loader = ss.Loader(ss.JsonLines(str(file), columns=["text", "kind"]), tokenize, spec, **own)
    code = ss.report(loader, is_measured=False).summary.code
    found: dict[str, Any] = {}
    exec(code, found)
    made = found["loader"]
    assert list(map(repr, made.stages[:-1])) == list(map(repr, loader.stages[:-1]))
    assert dataclasses.replace(made.stages[-1], max_tokens=1024, window_batches=7) == spec
    for name in ("seed", "accumulate", "pad_values", "on_batch", "device", "prefetch", "shuffle"):
        assert getattr(made._arguments, name) == getattr(loader._arguments, name)
    loader = ss.Loader(str(file), tokenize, ss.Bucket(1024), shuffle=False, on_batch=lambda batch: batch)
    code = ss.report(loader, is_measured=False).summary.code
    assert "    shuffle=False,\n    on_batch=on_batch,  # your own\n)" in code


def test_report_of_packed_rows_is_what_a_loader_does(file: Path, bpe_file: Path) -> None:
    """A loader that packs and splits long documents is predicted from whole documents."""
    loader = ss.Loader(ss.JsonLines(str(file)), ss.Tokenize(str(bpe_file)), ss.Pack(64, rows=8, overflow="split"))
    predicted = ss.report(loader, is_measured=False).sections.prediction
    slots = sum(batch.num_slots for batch in loader)
    assert predicted.steps == pytest.approx(loader.stats.steps, rel=0.01)
    assert predicted.padding == pytest.approx(1 - loader.stats.tokens / slots, abs=0.01)


def test_report_of_tokens_reads_none(file: Path, bpe_file: Path, tmp_path: Path) -> None:
    """A folder of tokens is described from its manifest, without a tokenizer, even if its files are damaged."""
    source, tokenize = ss.JsonLines(str(file), columns=["text"]), ss.Tokenize(str(bpe_file))
    ss.write_tokens(source, tokenize, to=tmp_path, progress=False)
    for path in tmp_path.glob("*.arrow"):
        path.write_bytes(bytes(path.stat().st_size))
    expected = ss.report(source, tokenize, ss.Bucket(8192), is_measured=False).to_dict()
    tokens = ss.TokenFiles(tmp_path)
    for data in ((str(tmp_path), ss.Bucket(8192)), (tokens, ss.Bucket(8192)), (ss.Loader(tokens, ss.Bucket(8192)),)):
        found = ss.report(*data)
        assert found.summary.survey.rows == expected["lengths"]["rows"]
        assert found.summary.survey.tokens == pytest.approx(expected["lengths"]["tokens"], rel=0.01)
        assert found.sections.prediction.padding == pytest.approx(expected["sections"]["prediction"]["padding"], abs=0.01)
        assert "Tokenize" not in found.summary.code
        assert found.sections.samples == {}
        assert "What rows look like" not in found.to_html()


def test_report_of_other_sources(bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    """Lists of ids, pairs, chats with prompts, generators that are read once, and mixtures have reports, and their pages."""
    ids = ss.Generator([[1] * (1 + number % 50) for number in range(500)])
    pairs = ss.Generator([{"text": text, "other": text[::-1]} for text in texts[:400]])
    tokenize = ss.Tokenize(bpe_tokenizer, max_length=128)
    once = ss.Generator(iter(texts[:400]))
    mixture = ss.Mixture({"short": ids, "long": (pairs, tokenize)}, {"short": 1, "long": 3})
    for data, *stages in (
        (ids,),
        (pairs, ss.Tokenize(bpe_tokenizer, field=("text", "other"), max_length=128)),
        (pairs, ss.Tokenize(bpe_tokenizer, field="other", prompt="text", max_length=128)),
        (pairs, ss.Tokenize({"text": bpe_tokenizer, "other": bpe_tokenizer}, max_length=128)),
        (once, tokenize),
        (ids, ss.Pack(64, rows=4)),
        (ids, ss.Bucket(batch_size=32)),
        (pairs, tokenize, ss.Bucket(512, shapes=3)),
        (mixture, ss.Bucket(1024)),
    ):
        found = ss.report(data, *stages, is_measured=False)
        json.dumps(found.to_dict(), allow_nan=False)
        assert found.title in html.unescape(found.to_html())
    assert found.sections.mixture is not None
    assert found.sections.steps.by_source is None or len(found.sections.steps.by_source.parts) == 2
    assert sum(source.given for source in found.sections.mixture.sources) == pytest.approx(1)
    assert "ss.Mixture({" in found.summary.code


def test_report_refuses(tmp_path: Path, bpe_file: Path) -> None:
    """Text without a tokenizer, wrong types and budgets that are too small are errors."""
    path = tmp_path / "a.txt"
    path.write_text("a b c\n")
    with pytest.raises(ValueError, match=r"text must be tokenised, got no Tokenize; call report\(data, ss.Tokenize"):
        ss.report(path)
    with pytest.raises(TypeError, match="data must be a Loader, a source, or paths of files, got int"):
        ss.report(3)
    with pytest.raises(ValueError, match="budgets must be at least max_length=512, got 64"):
        ss.report(path, ss.Tokenize(str(bpe_file), max_length=512), budgets=[64])


def test_columns_of_classes() -> None:
    """Columns with few values are classes, and those with the name of a label come first; ids and texts are none."""
    records = [
        {"text": f"text {number}", "id": number, "topic": "ab"[number % 2], "label": number % 3, "long": "x" * 100, "list": [1]}
        for number in range(50)
    ]
    assert class_columns(records, "text") == ["label", "topic"]
    assert class_columns([], "text") == []


def test_page_has_the_numbers_of_the_data(page: Path, report: CorpusReport) -> None:
    """Every figure of the tables and of the sentences is that of the data."""
    text = html.unescape(re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL))
    text = " ".join(text.split())
    summary, sections = report.summary, report.sections
    lengths = sections.lengths
    expected = [
        f"{summary.survey.rows:,} rows of {lengths.shortest:,} to {lengths.longest:,} tokens",
        f"{percent(sections.random.padding)} → {percent(sections.prediction.padding)}",
        f"{sections.prediction.steps:,} steps an epoch",
        f"{short_number(summary.survey.tokens)} tokens",
        *(f"{cut.max_length:,} {percent(cut.rows)} {percent(cut.tokens)}" for cut in lengths.cuts),
        " ".join(f"{each.by_rows:,}" for each in lengths.quantiles),
        " ".join(f"{each.by_tokens:,}" for each in lengths.quantiles),
        *(f"{way.name[1:]} {percent(way.padding)} padding" for way in sections.drawn.ways),
        *(f"{rows:,} × {length:,}" for rows, length in sections.shapes.best.shapes),
        *(
            f"{setting.batches:,} {setting.rows:,.0f} {percent(setting.padding)} {short_number(setting.tokens_per_second or 0)}"
            for setting in summary.settings
        ),
        *(f"{each.count:,} {each.kind}" for each in sections.samples[""].suspicions if each.kind != "unknown"),
        f"{sections.ranks[-1].random_rnn:.2f} {sections.ranks[-1].rnn:.2f}",
    ]
    assert [each for each in expected if each not in text] == []
    code = html.unescape(re.findall("<pre>(.*?)</pre>", page.read_text(), re.DOTALL)[0])
    assert code == summary.code


def test_charts_have_the_numbers_of_the_data(page: Path, report: CorpusReport) -> None:
    """Texts in charts are those of the data, and stay texts."""
    svgs = re.findall(r'<svg[^>]*aria-label="([^"]*)"[^>]*>(.*?)</svg>', page.read_text(), re.DOTALL)
    texts = {html.unescape(name): re.findall(r"<text[^>]*>([^<]*)</text>", content) for name, content in svgs}
    effects = report.sections.steps.label_effects
    shown = texts["Design effect of the classes by batches of a step"]
    assert {f"{value:.2f}" for each in effects for value in (each.effect, each.balanced)} <= set(shown)
    best = report.sections.shapes.best
    assert f"{best.num_shapes}: {percent(best.padding)}" in texts["Padding against the number of fixed shapes"]
    ranks = texts["Straggler factors of an RNN and of a transformer"]
    assert {f"{value:.2f}" for each in report.sections.ranks[1:] for value in (each.rnn, each.random_transformer)} <= set(ranks)


def test_page_is_one_file(page: Path) -> None:
    """The page refers to nothing outside of it, has no script, no colours of its own in charts, and no id twice."""
    text = page.read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|@import|url\((?!#)|<script', text) == []
    assert [colour for colour in COLOURS.values() if colour in text] == []
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)) <= set(ids)


def test_markup_in_data_is_text(bpe_tokenizer: Tokenizer) -> None:
    """Texts, names and labels of the data cannot put markup into the page."""
    evil = '<script>alert("&")</script>'
    rows = [{"text": f"{evil} {'word ' * (number % 30)}", evil: "ab"[number % 2]} for number in range(200)]
    mixture = ss.Mixture({evil: ss.Generator(rows), "b": ss.Generator(rows[::-1])}, {evil: 1, "b": 1})
    for data in (ss.Generator(rows), mixture):
        text = ss.report(data, ss.Tokenize(bpe_tokenizer, max_length=64), is_measured=False).to_html()
        assert "<script" not in text
    assert str(prose("set `a<b>` & go")) == "set <code>a&lt;b&gt;</code> &amp; go"
    assert 'aria-label="a &lt;b>"' in clean('<svg width="1" viewBox="0 0 1 1"></svg>', "x", "a <b>")


def test_notebook_shows_the_page(report: CorpusReport, page: Path) -> None:
    """In a notebook a report is a frame with the page in it."""
    shown = report._repr_html_()
    assert html.unescape(re.findall('srcdoc="([^"]*)"', shown)[0]) == page.read_text()


def test_importing_costs_nothing() -> None:
    """Importing seqstream imports neither the report nor what it needs; a page without jinja2 says what to install."""
    code = """
import sys, seqstream as ss
print(sorted({'seqstream.reporting', 'jinja2', 'matplotlib', 'rich'} & set(sys.modules) - {'jinja2'}))
sys.modules['jinja2'] = None
try:
    ss.report(ss.Generator([[1, 2, 3]] * 50), is_measured=False).to_html()
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, missing = done.stdout.splitlines()
    assert imported == "[]"
    assert missing == "the page of a report must have jinja2, which is not installed; pip install 'seqstream[report]'"


def test_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Chromium shows the page without a message, a request or anything wider than the window, on a phone and on a desk."""
    with browser(tmp_path) as chromium:
        for width in WIDTHS:
            for dark in (False, True):
                chromium.open(page, width, dark=dark)
                assert chromium.complaints() == []
                sizes = "[document.scrollingElement.scrollWidth, innerWidth, document.querySelectorAll('svg').length]"
                shown, inner, num_pictures = chromium.evaluate(sizes)
                assert inner == width
                assert shown <= inner
                assert num_pictures >= 10
                background = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
                assert background == ("rgb(16, 18, 20)" if dark else "rgb(251, 251, 250)")
        wide = """[...document.querySelectorAll('.card *')].filter(each => !each.closest('pre') && !each.closest('svg')
            && each.getBoundingClientRect().right > each.closest('.card').getBoundingClientRect().right - 14).length"""
        assert chromium.evaluate(wide) == 0
        small = "Math.min(...[...document.querySelectorAll('.chart text')].map(each => each.getBoundingClientRect().height))"
        chromium.open(page, WIDTHS[0])
        assert chromium.evaluate(small) >= 9, "texts of charts are large enough on a phone"
        assert chromium.evaluate(wide) == 0
        chromium.open(page, WIDTHS[1], media="print")
        assert chromium.complaints() == []
