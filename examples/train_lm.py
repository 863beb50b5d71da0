"""Train an LSTM language model on packed batches of similar lengths, with a loss that is right when gradients accumulate.

Batches differ in tokens, so in the mean of their mean losses a token of a small batch weighs more than one of a large batch.
What to write instead: the sum of the losses of all batches of a step, divided by the number of label tokens of all of them.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterable

import torch
from corpus import docstring_texts, tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import seqstream as ss

BATCHES_PER_STEP = 4


class LanguageModel(nn.Module):
    """An LSTM over packed ids, T tokens in all, whose outputs become logits of the next token, ``(T, 8192)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8_192, 64)
        self.lstm = nn.LSTM(64, 128)
        self.linear = nn.Linear(128, 8_192)

    def forward(self, ids: PackedSequence) -> Tensor:
        outputs, _ = self.lstm(ids._replace(data=self.embedding(ids.data)))
        return self.linear(outputs.data)


def summed_loss(model: LanguageModel, batch: ss.Batch) -> Tensor:
    """Return the sum of the losses of all label tokens."""
    following = nn.functional.pad(batch.labels[:, 1:], (0, 1), value=-100)  # the label of each token is the one after it
    logits, targets = model(batch.packed_sequence()), batch.packed_sequence(following).data
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def right(model: LanguageModel, batches: list[ss.Batch]) -> None:
    """Add up the gradient of the mean loss of all label tokens, with the graph of one batch in memory at a time."""
    label_tokens = sum(batch.num_label_tokens for batch in batches)  # known before anything is computed
    for batch in batches:
        (summed_loss(model, batch) / label_tokens).backward()


def mean_of_means(model: LanguageModel, batches: list[ss.Batch]) -> None:
    """Add up the gradient of the mean of the batches' own mean losses, which is wrong."""
    for batch in batches:
        (summed_loss(model, batch) / batch.num_label_tokens / len(batches)).backward()


def all_in_one(model: LanguageModel, batches: list[ss.Batch]) -> None:
    """Compute the gradient of the mean loss of all rows in one batch, which only PyTorch's own functions make."""
    padded = [(row, length) for batch in batches for row, length in zip(batch.input_ids, batch.lengths, strict=True)]
    rows = [row[:length] for row, length in padded if length > 1]
    targets = pack_sequence([row[1:] for row in rows], enforce_sorted=False).data
    logits = model(pack_sequence([row[:-1] for row in rows], enforce_sorted=False))
    nn.functional.cross_entropy(logits, targets).backward()


def gradient(way: type(right), model: LanguageModel, batches: list[ss.Batch]) -> Tensor:
    """Return the gradient of all parameters, one after the other, as one of the ways above computes it."""
    model.zero_grad()
    way(model, batches)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@torch.inference_mode()
def perplexity(model: LanguageModel, batches: Iterable[ss.Batch]) -> float:
    """Return how many tokens the model hesitates between, on average."""
    losses, counts = zip(*((summed_loss(model, batch).item(), batch.num_label_tokens) for batch in batches), strict=True)
    return math.exp(sum(losses) / sum(counts))


def main() -> None:
    """Compare the gradients of one step, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="how long to train")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = LanguageModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    source, held_out = ss.TextFiles(docstring_texts()).split(valid=0.05, seed=0)
    stages = ss.Tokenize(tokenizer(), max_length=256), ss.Bucket(512)
    test = list(itertools.islice(ss.Loader(held_out, *stages, on_batch=ss.CausalLabels()), 40))
    loader = ss.Loader(source, *stages, seed=options.seed, epochs=None, on_batch=ss.CausalLabels())
    batches = iter(loader)
    step = list(itertools.islice(batches, BATCHES_PER_STEP))

    counts = ", ".join(str(batch.num_label_tokens) for batch in step)
    print(f"a step of {len(step)} batches with {counts} label tokens; its gradient, against that of their rows in one batch:")
    expected = gradient(all_in_one, model, step)
    for name, way in (("sum of losses / label tokens of the step", right), ("mean of mean losses", mean_of_means)):
        difference = (gradient(way, model, step) - expected).norm() / expected.norm()
        print(f"    {name:42} differs by {difference:.1e}")

    print(f"perplexity on held-out text before training: {perplexity(model, test):,.0f}", flush=True)
    end = time.perf_counter() + options.seconds
    steps, tokens = 0, 0
    while time.perf_counter() < end:
        optimizer.zero_grad()
        right(model, step)
        optimizer.step()
        steps, tokens = steps + 1, tokens + sum(batch.num_label_tokens for batch in step)
        step = list(itertools.islice(batches, BATCHES_PER_STEP))
    print(f"perplexity after {steps:,} steps with {tokens:,} label tokens: {perplexity(model, test):,.0f}")
    print(loader.stats)


if __name__ == "__main__":
    main()
