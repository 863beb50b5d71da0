"""Train a small causal transformer four ways: random padded batches, similar lengths, packed rows, and no padding at all.

All four have the same model, first weights and optimiser, and as many real tokens a step; they take steps in turns, so that
whatever else the machine does slows all of them.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from corpus import docstring_texts, tokenizer
from transformer import MAX_LENGTH, Form, Transformer, packed, padded, varlen

import seqstream as ss

SIMILAR = ss.Bucket(1_120)
WAYS: dict[str, tuple[ss.Bucket | ss.InOrder | ss.Pack, Callable[[ss.Batch], Form]]] = {  # about 1,000 real tokens a step
    "random padded": (ss.InOrder(15), padded),
    "similar lengths": (SIMILAR, padded),
    "packed": (ss.Pack(MAX_LENGTH, rows=4), packed),
    "varlen": (SIMILAR, varlen),
}


class Run:
    """One of the ways: a model, what it is trained on, and what that cost so far."""

    def __init__(self, name: str, source: ss.Source, seed: int) -> None:
        torch.manual_seed(seed)
        spec, self.form = WAYS[name]
        self.model = Transformer()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3)
        self.loader = make_loader(source, spec, self.form, seed=seed, epochs=None)
        self.batches = iter(self.loader)
        self.seconds = 0.0

    def step(self) -> None:
        """Train on one batch; waiting for it counts."""
        started = time.perf_counter()
        batch = next(self.batches)
        loss = self.model(self.form(batch)) / batch.num_label_tokens
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds += time.perf_counter() - started

    @torch.inference_mode()
    def test(self, batches: list[ss.Batch]) -> float:
        """Return the loss per label token."""
        return sum(self.model(varlen(batch)).item() for batch in batches) / sum(batch.num_label_tokens for batch in batches)


def make_loader(
    source: ss.Source, spec: ss.Bucket | ss.InOrder | ss.Pack, form: Callable[[ss.Batch], Form], **options
) -> ss.Loader:
    """Make batches with labels, in the layout that suits a form."""
    layout = "jagged" if form is varlen else "padded"
    labels = None if form is packed else ss.CausalLabels()
    return ss.Loader(source, ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), spec, layout=layout, on_batch=labels, **options)


def main() -> None:
    """Train in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24_000, help="how many real tokens each of the four is trained on")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, held_out = ss.TextFiles(docstring_texts()).split(valid=0.05, seed=0)
    test = list(itertools.islice(make_loader(held_out, SIMILAR, varlen), 12))
    runs = {name: Run(name, source, options.seed) for name in WAYS}
    while waiting := [run for run in runs.values() if run.loader.stats.tokens < options.tokens]:
        for run in waiting:
            run.step()
    print(f"{'':20}{'real tokens':>14}{'a second':>12}{'padding':>10}{'held-out loss per token':>26}")
    for name, run in runs.items():
        stats = run.loader.stats
        print(
            f"{name:20}{stats.tokens:14,}{stats.tokens / run.seconds:12,.0f}{stats.waste:10.1%}{run.test(test):26.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
