"""Train a small causal transformer in four ways: random padded batches, similar lengths, packed rows, and no padding at all.

All four have the same model, initial weights and optimiser, and about 1,000 real tokens a step. They take steps in turns, so
that other work of the machine slows all of them alike.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import MAX_LENGTH, Form, Transformer, packed, padded, varlen

import seqstream as ss

Spec = ss.Unbucketed | ss.Bucket | ss.Pack
SIMILAR = ss.Bucket(1_120)
WAYS: dict[str, tuple[Spec, Callable[[ss.Batch], Form]]] = {
    "random padded": (ss.Unbucketed(15), padded),
    "similar lengths": (SIMILAR, padded),
    "packed": (ss.Pack(MAX_LENGTH, rows=4), packed),
    "varlen": (SIMILAR, varlen),
}


def make_loader(source: ss.Source, spec: Spec, form: Callable[[ss.Batch], Form], **options: Any) -> ss.Loader:
    """Return a loader of batches with labels, padded or flat as a form needs them."""
    layout = "jagged" if form is varlen else "padded"
    tokenize = ss.Tokenize(tokenizer(), max_length=MAX_LENGTH)
    return ss.Loader(source, tokenize, spec, layout=layout, on_batch=ss.CausalLabels(), **options)


class Run:
    """One of the ways: a model, its loader, and its training time so far."""

    def __init__(self, name: str, source: ss.Source, seed: int) -> None:
        torch.manual_seed(seed)
        spec, self.form = WAYS[name]
        self.model = Transformer()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.loader = make_loader(source, spec, self.form, seed=seed, epochs=None)
        self.batches = iter(self.loader)
        self.seconds = 0.0

    def step(self) -> None:
        """Train on one batch; the time of waiting for it counts."""
        started = time.perf_counter()
        batch = next(self.batches)
        loss = self.model(self.form(batch)) / batch.num_label_tokens
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds += time.perf_counter() - started

    @property
    def speed(self) -> float:
        """Real tokens a second."""
        return self.loader.stats.tokens / self.seconds


@torch.inference_mode()
def loss_per_token(model: Transformer, batches: list[ss.Batch]) -> float:
    """Return the mean loss of all label tokens, each of the same weight."""
    return sum(model(varlen(batch)).item() for batch in batches) / sum(batch.num_label_tokens for batch in batches)


def main() -> None:
    """Train in turns, and compare speed and loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000, help="number of real tokens of each training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the order of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)  # steady on a busy machine
    source, held_out = ss.TextFiles(docstring_texts()).split(valid=0.05, seed=0)
    test = list(itertools.islice(make_loader(held_out, SIMILAR, varlen), 8))
    runs = {name: Run(name, source, options.seed) for name in WAYS}
    print(f"training four models in turns, on {options.tokens:,} real tokens each", flush=True)
    while waiting := [run for run in runs.values() if run.loader.stats.tokens < options.tokens]:
        for run in waiting:
            run.step()

    print(f"{'':16}{'real tokens a second':>22}{'padding':>10}{'held-out loss per token':>26}{'real tokens':>14}")
    for name, run in runs.items():
        stats, loss = run.loader.stats, loss_per_token(run.model, test)
        print(f"{name:16}{run.speed:22,.0f}{stats.padding:10.1%}{loss:26.3f}{stats.tokens:14,}")
    packed_gain, varlen_gain = (runs[name].speed / runs["random padded"].speed for name in ("packed", "varlen"))
    print(
        f"real tokens a second, against random padded batches: packed {packed_gain:.2f} times, varlen {varlen_gain:.2f} times"
    )


if __name__ == "__main__":
    main()
