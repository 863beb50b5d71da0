"""Running `Tokenize` on tables, and tokenizers of each kind that matters to row formats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, pre_tokenizers, processors

from seqstream.records import Counts
from seqstream.tokenizing.stage import Tokenize

KINDS = ["wordpiece", "roberta", "bpe", "unigram"]
FASTEST = {"BPE": "fastokens", "WordPiece": "nanotoken", "Unigram": "tokenizers"}


def run(stage: Tokenize, *tables: pa.Table) -> tuple[list[pa.Table], Counts]:
    """Choose engines by the first table and tokenise all of them; return the counts of all together."""
    made, counts = stage.open(stage.choose_engines(tables[0]))(list(tables))
    return made, dict(sum(map(Counter, counts), Counter[str]()))


def columns_of(stage: Tokenize, /, **columns: Any) -> dict[str, list[Any]]:
    """Tokenise one table of columns with the engine that would be chosen, and return all but the row ids."""
    tokenizer = stage.tokenizer
    kind = type(getattr(tokenizer, "backend_tokenizer", tokenizer).model).__name__
    name = FASTEST[kind] if stage.engine == "auto" else stage.engine
    number = len(next(iter(columns.values())))
    ((made,), _) = stage.open({"input_ids": name})([pa.table({**columns, "row_id": pa.array(range(number), pa.int64())})])
    found: dict[str, list[Any]] = made.drop_columns(["row_id"]).to_pydict()
    return found


def transformers_of(tokenizer: Tokenizer, **kwargs: Any) -> Any:
    """Return a transformers tokenizer around a copy of a tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), **kwargs)


def roberta_of(bpe: Tokenizer) -> Tokenizer:
    """Return a byte-level BPE changed to RoBERTa's: words begin with a space, pairs are ``<s> a </s></s> b </s>``."""
    copy = Tokenizer.from_str(bpe.to_str())
    copy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    copy.add_special_tokens(["<s>", "</s>"])
    ends = [(token, copy.token_to_id(token)) for token in ("</s>", "<s>")]
    copy.post_processor = processors.RobertaProcessing(*ends)
    return copy
