"""How much does a GPU gain, and what do several micro-batches a step cost there?

A decoder of 8 layers in bfloat16 and an LSTM of cuDNN are trained on the same rows, from text, all work of the loader included:
on batches of random rows, and on steps of about as many tokens in one, two, four or eight batches of `Bucket`. Then the cost of
copies: batches made ahead and copied on a CUDA stream of their own, against none made ahead; and padding on the device, against
padding before. Nothing is measured without a CUDA device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import seqstream as ss
from benchmarks.harness import corpora
from benchmarks.harness.proven_engine import Proven, prove
from benchmarks.harness.records import Record
from benchmarks.harness.settings import Settings

STEP_TOKENS = 32_768
PARTS = (1, 2, 4, 8)
SECONDS = 5.0
SPEED_TARGET = 2.0
WARM_UP = 16
WIDTH, LAYERS, HEADS = 768, 8, 12

Train = Callable[[ss.Batch], Tensor]
"""A model that returns the sum of the losses of a batch."""


class Decoder(nn.Module):
    """A causal transformer over ids ``(B, L)``."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.embedding, self.layers = nn.Embedding(vocabulary, WIDTH), nn.TransformerEncoder(layer, LAYERS)
        self.linear = nn.Linear(WIDTH, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], ids.device, torch.bfloat16)
        return self.linear(self.layers(self.embedding(ids), mask=causal, is_causal=True))


class Recurrent(nn.Module):
    """An LSTM over ids ``(B, L)``."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(vocabulary, WIDTH), nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.linear = nn.Linear(WIDTH, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embedding(ids))[0])


def measure(settings: Settings) -> Iterator[Record]:
    """Measure both models, then copies."""
    if not torch.cuda.is_available():
        settings.show_progress("there is no CUDA device")
        return
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN would build a plan for every shape, a tenth of a second each
    proven, text = prove(corpora.tokenizer()), settings.text(corpora.DOCSTRINGS)
    vocabulary = 1 + max(int(batch.input_ids.max()) for batch in proven.loader(ss.TextFiles(str(text)), ss.Bucket(STEP_TOKENS)))
    yield from _trainings(proven, text, vocabulary, settings)
    yield from _copies(proven, text, vocabulary, settings)


def _trainings(proven: Proven, text: Path, vocabulary: int, settings: Settings) -> Iterator[Record]:
    for name, make in {"decoder": Decoder, "LSTM": Recurrent}.items():
        settings.show_progress(f"{name}, random rows")
        mean_rows = _mean_rows(proven, text)
        random = _record(f"{name}, random rows", _speed(proven, text, make(vocabulary), ss.Unbucketed(mean_rows)))
        yield random
        for parts in PARTS:
            settings.show_progress(f"{name}, {parts} batches a step")
            speed = _speed(proven, text, make(vocabulary), ss.Bucket(STEP_TOKENS // parts), accumulate=parts)
            record = _record(f"{name}, Bucket({STEP_TOKENS // parts:,}), {parts} a step", speed)
            yield record.against(random, ">=", SPEED_TARGET) if parts == 1 else record.against(random)


def _copies(proven: Proven, text: Path, vocabulary: int, settings: Settings) -> Iterator[Record]:
    first = None
    ways = {
        "none made ahead, pageable": {"prefetch": 0, "pin_memory": False},
        "two made ahead, pinned": {},
        "two made ahead, padded on the device": {"layout": "jagged"},
    }
    for name, options in ways.items():
        settings.show_progress(name)
        model = Recurrent(vocabulary)
        record = _record(f"LSTM, {name}", _speed(proven, text, model, ss.Bucket(STEP_TOKENS // 8), accumulate=8, **options))
        yield record if first is None else record.against(first)
        first = first or record


def _record(what: str, value: float) -> Record:
    return Record(benchmark="device", corpus=corpora.DOCSTRINGS, what=what, value=value, unit="real tokens/s")


def _mean_rows(proven: Proven, text: Path) -> int:
    loader = proven.loader(ss.TextFiles(str(text)), ss.Bucket(STEP_TOKENS))
    return round(sum(batch.num_rows for batch in loader) / loader.stats.batches)


def _speed(
    proven: Proven, text: Path, model: nn.Module, spec: ss.Bucket | ss.Unbucketed, *, accumulate: int = 1, **options: object
) -> float:
    """Return the real tokens a second of training, once the device is warm."""
    model = model.to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    loader = proven.loader(
        ss.TextFiles(str(text)), spec, epochs=None, accumulate=accumulate, device="cuda", on_batch=ss.CausalLabels(), **options
    )
    tokens, begun = 0, 0.0
    for batch in loader:
        logits = model(batch.input_ids)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")
        (loss / batch.step_num_label_tokens).backward()
        if batch.is_step_end:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if begun:
            tokens += batch.num_tokens
        if batch.is_step_end and (loader.stats.steps == WARM_UP or (begun and time.perf_counter() - begun > SECONDS)):
            torch.cuda.synchronize()
            if begun:
                return tokens / (time.perf_counter() - begun)
            begun = time.perf_counter()
    raise AssertionError("unreachable")
