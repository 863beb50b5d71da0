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

`Map` and `Filter` run functions of yours on the way, before or after tokenising, `MapRecords` and `FilterRecords` those of one
record. `iterable` brings a generator to PyTorch's
own ``DataLoader``, `restore_order` brings predictions back in the order of the source.
"""

import warnings
from importlib.metadata import version as _version
from typing import Any

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
from seqstream.sources.csv_files import Csv
from seqstream.sources.generator import Generator
from seqstream.sources.huggingface import HFDataset
from seqstream.sources.json_lines import JsonLines
from seqstream.sources.parquet_files import Parquet
from seqstream.sources.source import Source
from seqstream.sources.text import TextFiles
from seqstream.stages.class_labels import ClassLabels
from seqstream.stages.map_filter import Filter, Map
from seqstream.stages.map_filter_records import FilterRecords, MapRecords
from seqstream.stages.row_labels import LabelRule
from seqstream.tokenizing.engines import EngineError, EngineWarning
from seqstream.tokenizing.stage import Tokenize
from seqstream.tuning.max_tokens import fit_max_tokens

__all__ = [
    "Batch",
    "Bucket",
    "CausalLabels",
    "ClassLabels",
    "Csv",
    "EngineError",
    "EngineWarning",
    "Filter",
    "FilterRecords",
    "Generator",
    "HFDataset",
    "JsonLines",
    "LabelRule",
    "Loader",
    "Map",
    "MapRecords",
    "MaskTokens",
    "Pack",
    "Parquet",
    "RecordError",
    "Source",
    "Stats",
    "TeacherForcing",
    "TextFiles",
    "Tokenize",
    "Unbucketed",
    "Varlen",
    "fit_max_tokens",
    "iterable",
    "restore_order",
]

__version__ = _version("seqstream")


def __getattr__(name: str) -> Any:
    if name == "InOrder":
        warnings.warn("seqstream.InOrder is now seqstream.Unbucketed; the old name goes with 1.0", FutureWarning, stacklevel=2)
        return Unbucketed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
