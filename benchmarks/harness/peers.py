"""Other ways to come from a text file to padded batches, as their own documentation or an expert would write them.

A function of batches imports its libraries and loads its tokenizer when it is called, and returns an iterator. The file is read
from the first ``next`` on, so that a clock around the loop measures reading, tokenising, batching and padding. A batch is a
dict of ``input_ids`` and ``attention_mask``, int64 ``(B, L)``. Texts longer than ``max_length`` tokens are truncated. Nothing
uses a network.

The planners at the end choose the rows of each batch by lengths alone.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TorchBatch: TypeAlias = "dict[str, torch.Tensor]"
Ids: TypeAlias = "npt.NDArray[np.int32]"
Rows: TypeAlias = "npt.NDArray[np.int64]"

BATCH_SIZE = 32
MAX_TOKENS = 16_384
MAX_LENGTH = 1_024
WINDOW = 10_000
CALL_CHARACTERS = 1 << 20


# From text to batches


def hf_stream(
    text: Path, tokenizer: Path, *, batch_size: int = BATCH_SIZE, max_length: int = MAX_LENGTH
) -> Iterator[TorchBatch]:
    """Return batches as by default: a ``datasets`` stream, a batched ``map``, a `DataLoader` with `DataCollatorWithPadding`."""
    from datasets import load_dataset
    from transformers import DataCollatorWithPadding

    fast = pretrained(tokenizer)

    def batches() -> Iterator[TorchBatch]:
        stream = load_dataset("text", data_files=str(text), split="train", streaming=True)
        tokenised = stream.map(_tokenise(fast, max_length), batched=True, remove_columns=["text"])
        yield from DataLoader(tokenised, batch_size=batch_size, collate_fn=DataCollatorWithPadding(fast))

    return batches()


def hf_tokenised(text: Path, tokenizer: Path, cache: Path, *, max_length: int = MAX_LENGTH) -> Callable[[], Any]:
    """Return a function that tokenises a text file into a map-style data set, kept in a folder."""
    from datasets import load_dataset

    fast = pretrained(tokenizer)

    def rows() -> Any:
        dataset = load_dataset("text", data_files=str(text), split="train", cache_dir=str(cache))
        return dataset.map(_tokenise(fast, max_length), batched=True, remove_columns=["text"])

    return rows


def hf_length_grouped(
    text: Path, tokenizer: Path, *, batch_size: int = BATCH_SIZE, max_length: int = MAX_LENGTH, seed: int = 0
) -> Iterator[TorchBatch]:
    """Tokenise the whole file into a map-style data set, then batch with transformers' `LengthGroupedSampler`."""
    from transformers import DataCollatorWithPadding

    fast = pretrained(tokenizer)

    def batches() -> Iterator[TorchBatch]:
        with tempfile.TemporaryDirectory() as cache:
            tokenised = hf_tokenised(text, tokenizer, Path(cache), max_length=max_length)()
            sampler = _length_grouped_sampler([len(ids) for ids in tokenised["input_ids"]], batch_size, seed)
            yield from DataLoader(tokenised, batch_size=batch_size, sampler=sampler, collate_fn=DataCollatorWithPadding(fast))

    return batches()


def by_hand(
    text: Path,
    tokenizer: Path,
    *,
    max_tokens: int = MAX_TOKENS,
    max_length: int = MAX_LENGTH,
    window: int = WINDOW,
    seed: int = 0,
) -> Iterator[TorchBatch]:
    """Return batches of an expert: `encode_batch_fast` on windows, rows sorted, cut greedily to the budget, `pad_sequence`."""
    engine = Tokenizer.from_file(str(tokenizer))
    engine.no_padding()
    engine.enable_truncation(max_length)

    def batches() -> Iterator[TorchBatch]:
        order = random.Random(seed)
        with text.open(encoding="utf-8", newline="\n") as file:
            lines = (line.removesuffix("\n") for line in file)
            while texts := list(itertools.islice(lines, window)):
                rows = [torch.tensor(encoding.ids) for encoding in engine.encode_batch_fast(texts)]
                rows.sort(key=len, reverse=True)
                cut = list(_greedy_slices([len(row) for row in rows], max_tokens))
                order.shuffle(cut)
                yield from (_padded(rows[rows_of_batch]) for rows_of_batch in cut)

    return batches()


def _padded(rows: list[torch.Tensor]) -> TorchBatch:
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = pad_sequence(rows, batch_first=True)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()}


def pretrained(tokenizer: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer of transformers, with a token of its vocabulary for padding."""
    from datasets.utils.logging import disable_progress_bar
    from transformers import PreTrainedTokenizerFast

    disable_progress_bar()
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))  # type: ignore[no-untyped-call]
    fast.pad_token = next(token for token in ("<pad>", "[PAD]", "<|endoftext|>", "</s>") if token in fast.get_vocab())
    return fast


def _tokenise(fast: PreTrainedTokenizerFast, max_length: int) -> Callable[[dict[str, list[str]]], Any]:
    return lambda rows: fast(rows["text"], truncation=True, max_length=max_length)


# Bare engines: texts already in memory -> all ids in one array


def bare_fastokens(tokenizer: Path) -> Callable[[list[str]], Ids]:
    """Return a function that encodes texts with a new ``fastokens`` engine, 1 MiB of text a call."""
    import fastokens

    engine = fastokens.Tokenizer.from_file(str(tokenizer))
    return lambda texts: _joined(np.frombuffer(engine.encode_batch_flat(call, True)[0], np.int32) for call in _calls(texts))


def bare_tokenizers(tokenizer: Path) -> Callable[[list[str]], Ids]:
    """Return a function that encodes texts with a new ``tokenizers`` tokenizer into one array of ids."""
    engine = Tokenizer.from_file(str(tokenizer))
    engine.no_padding()
    engine.no_truncation()
    return lambda texts: _joined(
        np.array(encoding.ids, np.int32) for call in _calls(texts) for encoding in engine.encode_batch_fast(call)
    )


def _joined(parts: Iterator[Ids]) -> Ids:
    return np.concatenate([np.empty(0, np.int32), *parts])


def _calls(texts: list[str]) -> Iterator[list[str]]:
    ends = np.cumsum([len(text) for text in texts])
    starts = np.flatnonzero(np.diff(ends // CALL_CHARACTERS, prepend=0)).tolist() if texts else []
    yield from (texts[start:stop] for start, stop in itertools.pairwise([0, *starts, len(texts)]))


# Planners: lengths -> the rows of each batch


def random_batches(lengths: Rows, *, batch_size: int, seed: int = 0) -> list[Rows]:
    """Choose a fixed number of rows at random: what a shuffled `DataLoader` does."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def length_grouped_batches(lengths: Rows, *, batch_size: int, seed: int = 0) -> list[Rows]:
    """Choose rows as transformers' `LengthGroupedSampler` does."""
    order = np.array(list(_length_grouped_sampler(lengths.tolist(), batch_size, seed)), np.int64)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def greedy_batches(lengths: Rows, *, max_tokens: int, window: int | None = None) -> list[Rows]:
    """Sort the rows of each window, longest first, and fill batch after batch as far as the budget allows.

    Args:
        lengths: ``int64 (N,)``, tokens of each row in the order in which rows arrive.
        max_tokens: Budget of a batch in padded tokens; a longer row is a batch by itself.
        window: Rows of a window; ``None`` for one window of all rows.
    """
    size = window or max(1, len(lengths))
    batches: list[Rows] = []
    for start in range(0, len(lengths), size):
        order = start + np.argsort(-lengths[start : start + size], kind="stable")
        batches.extend(order[rows] for rows in _greedy_slices(lengths[order].tolist(), max_tokens))
    return batches


def _greedy_slices(lengths: list[int], max_tokens: int) -> Iterator[slice]:
    start = 0
    while start < len(lengths):
        stop = start + max(1, max_tokens // max(1, lengths[start]))
        yield slice(start, stop)
        start = stop


def _length_grouped_sampler(lengths: list[int], batch_size: int, seed: int) -> Any:
    from transformers.trainer_pt_utils import LengthGroupedSampler

    return LengthGroupedSampler(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))
