"""The tables of benchmarks/README.md: ``python -m benchmarks.harness.result_tables`` makes them of the committed results.

In the text a table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. A cell shows a ratio where the record has one,
else the value, with its standard error if it is a mean over seeds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.printing import digits
from benchmarks.harness.records import Record

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_PLACE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of one benchmark.

    Attributes:
        file: The file of results, in ``benchmarks/results``.
        benchmark: The benchmark.
        columns: The heading of each column, and what stands for ``{}`` in its cells.
        rows: The heading of each row, and its record: ``"corpus: what"``, or ``"corpus: what / ratio_to"`` if a measurement is
            compared with several others.
        decimals: Decimals of values without a unit.
        has_ratios: Whether cells show ratios, where there are some.
    """

    file: str
    benchmark: str
    columns: Mapping[str, str]
    rows: Mapping[str, str]
    decimals: int = 2
    has_ratios: bool = True

    def to_markdown(self) -> str:
        """Return the table as Markdown, below the name of the file."""
        records = {key: record for record in read_results(self.file, self.benchmark) for key in _keys(record)}
        lines = [f"| | {' | '.join(self.columns)} |", f"|---|{'---|' * len(self.columns)}"]
        for heading, key in self.rows.items():
            cells = (self._cell(records[key.replace("{}", column)]) for column in self.columns.values())
            lines.append(f"| {heading} | {' | '.join(cells)} |")
        return "\n".join([*lines, "", f"<sub>[{self.file}](results/{self.file})</sub>", ""])

    def _cell(self, record: Record) -> str:
        if record.ratio is not None and self.has_ratios:
            return f"{digits(record.ratio)}x"
        decimals = 2 if record.unit == "%" else self.decimals
        value = digits(record.value) if record.unit not in ("", "%", "nats") else f"{record.value:.{decimals}f}"
        error = "" if record.error is None else f" ± {record.error:.{decimals}f}"
        return f"{value}{error} {record.unit}".rstrip()


def _keys(record: Record) -> tuple[str, str]:
    key = f"{record.corpus}: {record.what}"
    return key, f"{key} / {record.ratio_to}"


def read_results(file: str, benchmark: str) -> list[Record]:
    """Return the records of one benchmark in a file of results, without their targets."""
    names = {field.name for field in dataclasses.fields(Record)} - {"target"}
    lines = map(json.loads, (ROOT / "results" / file).read_text(encoding="utf-8").splitlines())
    found = (line for line in lines if line.get("benchmark") == benchmark)
    return [Record(**{name: value for name, value in line.items() if name in names}) for line in found]


_CORPORA = {
    "PEPs": "peps",
    "gsm8k": "gsm8k",
    "movie reviews": "movie_reviews",
    "Gutenberg": "gutenberg",
    "short sentences": "tatoeba",
    "docstrings": "docstrings",
}
_RANKS = {f"{number} ranks": str(number) for number in (8, 64, 512)}

TABLES = {
    "waste": Table(
        "2026-11-27-waste.jsonl",
        "waste",
        _CORPORA,
        {
            "random batches": "{}: padding, random batches",
            "`LengthGroupedSampler`": "{}: padding, LengthGroupedSampler",
            "windows filled greedily": "{}: padding, greedy windows",
            "**seqstream**": "{}: padding, seqstream",
        },
        has_ratios=False,
    ),
    "throughput": Table(
        "2026-11-27-throughput.jsonl",
        "throughput",
        {"mixed": "fixed", "short": "tatoeba"},
        {
            "`datasets` stream, `DataLoader`, `DataCollatorWithPadding`": "{}: HF stream, DataLoader, DataCollatorWithPadding",
            "sorted windows, `pad_sequence`": "{}: by hand: encode_batch_fast, sorted windows, pad_sequence",
            "the bare engine (fastokens), which makes no batches": "{}: bare fastokens",
            'bare `encode_batch_fast`, with `engine="tokenizers"`': "{}: bare encode_batch_fast, ids in one array",
        },
    ),
    "first_batch": Table(
        "2026-11-27-first-batch.jsonl",
        "first_batch",
        {"first batch": "first batch"},
        {
            "one window, against the bare engine on all of it": "fixed: {}, one window",
            "several windows, against the bare engine on 1 MiB": "fixed: {}, several windows",
        },
    ),
    "truth": Table(
        "2026-11-27-truth-lstm.jsonl",
        "truth",
        {"docstrings": "docstrings", "passages": "passages", "sources": "sources"},
        {
            "random rows": "{}: random rows: a step",
            "`LengthGroupedSampler`": "{}: LengthGroupedSampler: a step",
            "`Bucket(4096)`": "{}: Bucket(4096): even turns, even shards: a step",
            "`Bucket(1024)`, `accumulate=4`": "{}: 4 x Bucket(1024): a step",
            "`Bucket(512)`, `accumulate=8`": "{}: 8 x Bucket(512): a step",
            "`Bucket(4096)`, `accumulate=8`": "{}: 8 x Bucket(4096): a step",
            '8 ranks of `Bucket(4096, step="alike")`': "{}: 8 ranks of Bucket(4096), alike: a step",
            "8 ranks of `Bucket(4096)`": "{}: 8 ranks of Bucket(4096): a step",
        },
    ),
    "lstm": Table(
        "2026-11-27-truth-lstm.jsonl",
        "lstm",
        {"`Bucket(1024)`, `accumulate=4`": "4 x Bucket(1024)"},
        {
            "real tokens a second, against random rows": "docstrings: {}, real tokens",
            "lead in accuracy after 0.5 epochs": "docstrings: lead of {} after 0.5 epochs, rate 0.01",
            "lead after 1 epoch": "docstrings: lead of {} after 1 epochs, rate 0.01",
            "lead after 2 epochs": "docstrings: lead of {} after 2 epochs, rate 0.01",
            "lead after 1 epoch, each at its best rate": "docstrings: lead of {} after 1 epochs, best rate of each",
            "lead after equal time": "docstrings: lead of {} after equal time",
        },
    ),
    "language_model": Table(
        "2026-11-27-truth-lstm.jsonl",
        "lstm",
        {"`Bucket(1024)`, `accumulate=4`": "4 x Bucket(1024)", "`Bucket(4096)` alone": "Bucket(4096)"},
        {
            "more loss than random rows after 0.25 epochs": "sources: {}, more loss than random rows after 0.25 epochs",
            "after 0.5 epochs": "sources: {}, more loss than random rows after 0.5 epochs",
        },
        decimals=3,
    ),
    "device": Table(
        "2026-11-28-h200.jsonl",
        "device",
        {"decoder": "decoder", "LSTM": "LSTM"},
        {
            "`Bucket(32_768)`": "docstrings: {}, Bucket(32,768), 1 a step",
            "`Bucket(16_384)`, `accumulate=2`": "docstrings: {}, Bucket(16,384), 2 a step",
            "`Bucket(8_192)`, `accumulate=4`": "docstrings: {}, Bucket(8,192), 4 a step",
            "`Bucket(4_096)`, `accumulate=8`": "docstrings: {}, Bucket(4,096), 8 a step",
        },
    ),
    "ranks": Table(
        "2026-11-27-ranks.jsonl",
        "ranks",
        _RANKS,
        {
            'RNN, `step="alike"`, docstrings': "docstrings: {} ranks, alike, RNN, slowest over mean, seqstream",
            'transformer, `cost="attention"`, docstrings': (
                "docstrings: {} ranks, mixed by cost, transformer, slowest over mean, seqstream"
            ),
            "transformer, counted in tokens, docstrings": (
                "docstrings: {} ranks, mixed, transformer, slowest over mean, seqstream"
            ),
            "the same, movie reviews": "movie_reviews: {} ranks, mixed, transformer, slowest over mean, seqstream",
            "the same, PEPs": "peps: {} ranks, mixed, transformer, slowest over mean, seqstream",
        },
        decimals=3,
    ),
    "equal_cost": Table(
        "2026-11-27-equal-cost.jsonl",
        "equal_cost",
        _RANKS,
        {
            f"{name}, {size}": f"{corpus}, {spec}, {{}} ranks: {way}, slowest over mean"
            for corpus, size, spec in (
                ("movie_reviews + gsm8k", "`Pack(2048, rows=8)`", "Pack(row_length=2048, rows=8)"),
                ("movie_reviews + gsm8k", "`Pack(8192, rows=2)`", "Pack(row_length=8192, rows=2)"),
            )
            for name, way in (
                ("**seqstream**", "seqstream"),
                ("Karmarkar-Karp, step by step", "Karmarkar-Karp, a step at a time"),
                ("Karmarkar-Karp, the whole window", "Karmarkar-Karp, the window at once"),
                ("at random", "at random"),
            )
        },
        decimals=3,
    ),
    "collation": Table(
        "2026-11-27-collation.jsonl",
        "collation",
        _CORPORA,
        {
            "batches of 4,096 tokens": "{}, max_tokens=4096: pad_sequence alone",
            "batches of 16,384 tokens": "{}, max_tokens=16384: pad_sequence alone",
        },
    ),
    "views": Table(
        "2026-11-23.jsonl",
        "views",
        _CORPORA,
        {
            "`packed_sequence()`, against `pack_sequence` on ready tensors": "{}: pack_sequence",
            "collating and `nested()`, against `nested_tensor` of a ready list": "{}: nested_tensor of a list",
            "collating and `varlen()`, against `DataCollatorWithFlattening`": "{}: DataCollatorWithFlattening",
        },
    ),
    "packing": Table(
        "2026-11-23.jsonl",
        "packing",
        {"rows of 2,048": "2048", "rows of 1,000": "1000"},
        {
            "planning": "movie_reviews + gsm8k, rows of {}: seqstream, speed / TRL, all in one call, speed",
            "planning, and ids put in order": (
                "movie_reviews + gsm8k, rows of {}: seqstream, ids put in order too, speed / TRL, all in one call, speed"
            ),
        },
    ),
    "shapes": Table(
        "2026-11-23.jsonl",
        "shapes",
        _CORPORA,
        {
            "padded tokens, against lengths at quantiles": "{}: waste, seqstream / waste, quantiles of rows",
            "against lengths of equal tokens": "{}: waste, seqstream / waste, lhotse's equal tokens",
        },
    ),
    "compiled": Table(
        "2026-11-23.jsonl",
        "shapes",
        {"real tokens a second": "8 shapes, real tokens"},
        {
            "8 shapes, against the longest": "docstrings, encoder, inductor: {} / longest shape only, real tokens",
            "8 shapes, against one graph for any shape": "docstrings, encoder, inductor: {} / any shape, real tokens",
        },
    ),
    "resume": Table(
        "2026-11-23.jsonl",
        "resume",
        {name: name for name in ("TextFiles", "TextFiles, gzip", "JsonLines", "Parquet", "HFDataset", "Generator")},
        {
            "time at 50 %, against 10 %": "{}: at 50 % of an epoch",
            "time at 90 %, against 10 %": "{}: at 90 % of an epoch",
            "windows tokenised again, at most": "{}: windows tokenised before the first batch, at most",
        },
    ),
    "mixture": Table(
        "2026-11-28-mixture.jsonl",
        "mixture",
        {"3": "3 sources", "30": "30 sources", "1,000 sources": "1,000 sources, interleave_datasets by its rule"},
        {
            heading: f"{{}}: {way}, furthest source, in longest rows"
            for heading, way in (
                ("**seqstream**", "seqstream"),
                ("`interleave_datasets`", "interleave_datasets"),
                (
                    "`interleave_datasets`, weights divided by mean lengths",
                    "interleave_datasets, weights divided by mean lengths",
                ),
                ("largest deficit in rows", "largest deficit in rows"),
                (
                    "largest deficit in rows, weights divided by mean lengths",
                    "largest deficit in rows, weights divided by mean lengths",
                ),
            )
        },
    ),
    "source_order": Table(
        "2026-11-27-source-order.jsonl",
        "source_order",
        {"banking77": "banking77", "movie reviews": "movie_reviews", "docstrings": "docstrings"},
        {
            "accuracy, `DataLoader(shuffle=True)`": "{}: accuracy, DataLoader(shuffle=True)",
            "lead of `JsonLines`, `Unbucketed(32)`": "{}: lead over it, JsonLines, InOrder(32)",
            "lead of `JsonLines`, `Bucket(batch_size=32)`": "{}: lead over it, JsonLines, Bucket(batch_size=32)",
            "lead of one compressed file, `Bucket(batch_size=32)`": "{}: lead over it, JsonLines, .gz, Bucket(batch_size=32)",
        },
    ),
    "memory": Table(
        "2026-11-27-memory.jsonl",
        "memory",
        {"peak memory": "fixed"},
        {
            "4 small windows of text": "{}: the text once, 4 windows",
            "the same text ten times over": "{}: the text 10 times over, 41 windows",
            "4.5 times as much text, none repeated": "{}: 4.5 times as much text, none repeated, 18 windows",
            "438 MiB of text, windows of 64 MiB of ids": "{}: 438 MiB of text, windows as by default, 5 windows",
        },
        has_ratios=False,
    ),
    "workers": Table(
        "2026-11-27-workers.jsonl",
        "workers",
        {"two workers, against one": "2"},
        {"time of an epoch, at 1 ms a record": "docstrings: an epoch, 1 ms a record, workers={}"},
    ),
    "tokens": Table(
        "2026-11-28-tokens.jsonl",
        "tokens",
        {"against it": "fixed"},
        {
            "an epoch on the fly, against `write_tokens`": "{}: on the fly",
            "`datasets.map`, against `write_tokens`": "{}: datasets.map",
            "an epoch on the fly, against one of `TokenFiles`": "{}: on the fly, engine proven",
            'the same with `engine="tokenizers"`': "{}: on the fly, engine=tokenizers",
            '`shuffle="rows"`, against blocks': "{}: TokenFiles by row",
        },
    ),
    "remote": Table(
        "2026-11-28-remote.jsonl",
        "remote",
        {"from a server": "fixed"},
        {
            "MB/s of blocks, against one request at a time": "{}: blocks, read ahead",
            "time of a loader, against a local file": "{}: a loader, from the server",
        },
    ),
    "predict": Table(
        "2026-11-28-predict.jsonl",
        "predict",
        {"docstrings": "docstrings", "mixed": "fixed", "five sources": "five sources"},
        {
            "as `SentenceTransformer.encode`": "{}: as SentenceTransformer.encode",
            "a list sorted by tokens": "{}: a list sorted by tokens",
        },
    ),
}


def with_tables(text: str) -> str:
    """Return a text with its tables made anew."""
    return _PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]].to_markdown()}{place[3]}", text)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
