"""Train an LSTM to classify docstrings by their library: on random padded batches, then on batches of similar lengths.

Both runs have the same model, initial weights, optimiser, mean number of real tokens a step, and time. A step is one random
batch, or four batches of similar lengths, each of another length, so that every step is a fair sample of the data.
"""

import argparse
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from shared.comparing import Checkpoint, Run, plot, report
from shared.corpus import LABELS, docstrings, tokenizer
from torch import Tensor, nn

import seqstream as ss


class Classifier(nn.Module):
    """An LSTM over ids ``(B, L)`` whose output at the last real token is classified, ``(B, labels)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8_192, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.linear = nn.Linear(64, len(LABELS))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        # pack_padded_sequence would skip the padding, but on a CPU it slows both runs down, and Bucket is still faster.
        outputs, _ = self.lstm(self.embedding(ids))
        return self.linear(outputs[torch.arange(len(ids)), lengths - 1])


def number_labels(table: pa.Table) -> pa.Table:
    """Replace the names of libraries by numbers."""
    numbers = pc.index_in(table["label"], value_set=pa.array(LABELS))
    return table.drop_columns("label").append_column("label", numbers)


def train(loader: ss.Loader, test: list[ss.Batch], mean_rows: int, seconds: float) -> list[Checkpoint]:
    """Train for some seconds, and test after every 100,000 real tokens; the time of tests does not count."""
    torch.manual_seed(loader.seed)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    checkpoints, tokens, elapsed, started = [], 0, 0.0, time.perf_counter()
    for batch in loader:
        losses = nn.functional.cross_entropy(model(batch.input_ids, batch.lengths), batch.label, reduction="sum")
        (losses / mean_rows).backward()  # steps differ in rows: divided by a constant, every row weighs the same
        tokens += batch.num_tokens
        if not batch.is_step_end:
            continue
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # at first, steps of many short rows have large gradients
        optimizer.step()
        optimizer.zero_grad()
        if tokens >= 100_000 * (len(checkpoints) + 1):
            elapsed += time.perf_counter() - started
            checkpoints.append(Checkpoint(tokens, elapsed, *evaluate(model, test)))
            started = time.perf_counter()
            if elapsed >= seconds:
                break
    return checkpoints


@torch.inference_mode()
def evaluate(model: Classifier, test: list[ss.Batch]) -> tuple[float, float]:
    """Return the accuracy, and the mean loss of a row."""
    logits = torch.cat([model(batch.input_ids, batch.lengths) for batch in test])
    labels = torch.cat([batch.label for batch in test])
    return (logits.argmax(1) == labels).float().mean().item(), nn.functional.cross_entropy(logits, labels).item()


def main() -> None:
    """Train in both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="training time of each of the two runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the order of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)  # enough for a small model, and steady on a busy machine

    source, held_out = ss.JsonLines(docstrings()).split(valid=0.1, seed=0)
    stages = ss.Map(number_labels), ss.Tokenize(tokenizer(), max_length=256)
    test = list(ss.Loader(held_out, *stages, ss.Bucket(16_384)))
    bucket = ss.Bucket(1_024)
    measured = ss.Loader(source, *stages, bucket, accumulate=4)
    mean_rows = round(sum(batch.num_rows for batch in measured) / measured.stats.steps)
    print(f"{measured.stats.rows:,} docstrings to train on; a step has about {mean_rows} of them either way")
    runs = []
    for name, spec, accumulate in (("random padded batches", ss.Unbucketed(mean_rows), 1), ("similar lengths", bucket, 4)):
        print(f"\n{name}: {accumulate} x {spec} a step", flush=True)
        loader = ss.Loader(source, *stages, spec, accumulate=accumulate, seed=options.seed, epochs=None, progress=True)
        runs.append(Run(name, train(loader, test, mean_rows, options.seconds), loader.stats.padding))
    print(report(*runs, tokens_per_epoch=measured.stats.tokens))
    print(plot(runs, Path("train_lstm.png")))


if __name__ == "__main__":
    main()
