"""Batches of similar lengths from text files, Hugging Face data sets and streams, and Python generators.

Read in the order of the data: a source gives records in blocks, `Tokenize` turns text into ids, `Bucket` says how the rows
of a window become batches, and a `Loader` puts them together:

    loader = ss.Loader(
        ss.TextFiles("corpus/*.txt"),
        ss.Tokenize("tokenizer.json", max_length=1024),
        ss.Bucket(max_tokens=16_384),
    )
    for batch in loader:
        logits = model(batch.input_ids, batch.lengths)

`Map` and `Filter` run functions of yours on Arrow tables on the way, before or after tokenising, `MapRecords` and
`FilterRecords` on single records. `iterable` makes a generator a data set for PyTorch's own ``DataLoader``, and
`predict` runs a model over batches and returns the results in the order of the source.

How it works: a *block* is a run of records that are read and tokenised at once, 256 KiB of text as an Arrow table whose tokens
are one flat buffer with offsets. Plain text files are byte ranges of all of them laid end to end, so a million small files and
one of 10 TB both start at once, without an index. A *window* is many blocks, planned at once: its rows are sorted by length and
cut by dynamic programming into the batches that pad least. A *batch* is gathered from the buffers of the window without a loop
over rows. The *state* names the beginning of the window and how much of it was served, so resuming tokenises one window.

Shards are visited in an even order, a function of seed, epoch and position that halves the epoch again and again, so that every
stretch of it covers the corpus. Batches of a window are served in the same kind of order by length. Lists, map-style data sets
and ``datasets.Dataset`` are shuffled as a whole; plain text, JSON lines and sentences in CoNLL's formats in blocks, and their
rows within a window; compressed, Parquet and Arrow files in shards of which 16 are open at a time; one compressed file, one
CSV, one JSON array or a generator function within a window.

`report` shows a corpus before training, as a page of pictures: lengths, batches, padding, steps, ranks and samples.

`write_tokens` tokenises a source once, into files from which `TokenFiles` reads every later run without copying them, and
``Loader(cache=...)`` keeps what was tokenised beside serving it. Neither changes what a batch holds.

A `Mixture` gives many sources their shares of the tokens, within one row at the end of every window; the records of each come
in an order of its own, whatever the others are. A `Concat` is one source after another for one epoch, shuffled together.

`seqstream.transformers` has a Trainer that takes loaders for data sets, `seqstream.lightning` and `seqstream.accelerate` what
these need; each imports its library only when it is imported itself. `Loader.explain` shows where the time of a loader goes,
and `Stats.to_dict` what it counts, for a logger.

Ranks share a window that is ``world_size`` times as large. They exchange how many rows there are of each length, make the same
plan of these counts, and send each row once, to the rank that takes it. Plain text, JSON lines and data sets with random access
are read only by the rank that tokenises them; compressed files, tables, streams and generators are read by every rank, which
tokenises its part.
"""

import gc
import importlib
import warnings
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401 - first, for the next line

_collects = gc.isenabled()
gc.disable()  # a collection meanwhile would go through all objects of torch, which takes as long as a third of these imports

from seqstream.batches.batch import Batch
from seqstream.batches.labels import CausalLabels, TeacherForcing
from seqstream.batches.masking import MaskTokens
from seqstream.batches.restore_order import restore_order
from seqstream.batches.varlen import Varlen
from seqstream.loading.iterable import iterable
from seqstream.loading.loader import Loader
from seqstream.loading.stats import Stats
from seqstream.planning.bucket import Bucket
from seqstream.planning.pack import Pack
from seqstream.planning.unbucketed import Unbucketed
from seqstream.records import RecordError
from seqstream.sources.arrow_files import ArrowFiles
from seqstream.sources.conll import Conll
from seqstream.sources.csv_files import Csv
from seqstream.sources.generator import Generator
from seqstream.sources.huggingface import HFDataset
from seqstream.sources.json_arrays import JsonArrays
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.mixture import Mixture
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.source_group import Concat
from seqstream.sources.text import TextFiles
from seqstream.sources.token_files import TokenFiles
from seqstream.stages.class_labels import ClassLabels
from seqstream.stages.label_filter import LabelRule
from seqstream.stages.map_filter import Filter, Map
from seqstream.stages.map_filter_records import FilterRecords, MapRecords
from seqstream.tokenizing.engines import EngineError, EngineWarning
from seqstream.tokenizing.stage import Tokenize

__all__ = [
    "ArrowFiles",
    "Batch",
    "Bucket",
    "CausalLabels",
    "ClassLabels",
    "Concat",
    "Conll",
    "Csv",
    "EngineError",
    "EngineWarning",
    "Filter",
    "FilterRecords",
    "Generator",
    "HFDataset",
    "JsonArrays",
    "JsonLines",
    "LabelRule",
    "Loader",
    "Map",
    "MapRecords",
    "MaskTokens",
    "Mixture",
    "Pack",
    "Parquet",
    "Predictions",
    "RayExecutor",
    "RecordError",
    "Source",
    "Stats",
    "TeacherForcing",
    "TextFiles",
    "TokenFiles",
    "Tokenize",
    "Unbucketed",
    "Varlen",
    "WrittenTokens",
    "fit_max_tokens",
    "iterable",
    "predict",
    "report",
    "restore_order",
    "write_tokens",
]

if TYPE_CHECKING:
    from seqstream.loading.predict import Predictions, predict
    from seqstream.loading.ray_executor import RayExecutor
    from seqstream.reporting.report import report
    from seqstream.tuning.max_tokens import fit_max_tokens
    from seqstream.writing.write_tokens import WrittenTokens, write_tokens

_IMPORTED_WHEN_USED = {
    "Predictions": "loading.predict",
    "RayExecutor": "loading.ray_executor",
    "WrittenTokens": "writing.write_tokens",
    "fit_max_tokens": "tuning.max_tokens",
    "predict": "loading.predict",
    "report": "reporting.report",
    "write_tokens": "writing.write_tokens",
}
"""What most programs do without, and the module of each."""

if _collects:
    gc.enable()

__version__ = _version("seqstream")


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_USED:
        found = getattr(importlib.import_module(f"{__name__}.{_IMPORTED_WHEN_USED[name]}"), name)
        globals()[name] = found
        return found
    if name == "InOrder":
        warnings.warn("seqstream.InOrder is now seqstream.Unbucketed; the old name goes with 1.0", FutureWarning, stacklevel=2)
        return Unbucketed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
