"""Train an LSTM language model on packed batches of similar lengths, with a loss that is right when gradients accumulate.

Batches differ in tokens, so in a mean of mean losses the tokens of small batches weigh more. Divide the *sum* of the losses of
each batch by the number of label tokens of all batches of its optimiser step instead.
"""

import argparse
import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from shared.corpus import docstring_texts, tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import seqstream as ss

ACCUMULATE = 4


class LanguageModel(nn.Module):
    """An LSTM over packed ids, ``T`` tokens in all, that returns logits of the next token, ``(T, 8192)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8_192, 64)
        self.lstm = nn.LSTM(64, 128)
        self.linear = nn.Linear(128, 8_192)

    def forward(self, ids: PackedSequence) -> Tensor:
        outputs, _ = self.lstm(ids._replace(data=self.embedding(ids.data)))
        return self.linear(outputs.data)


def loss(model: LanguageModel, batch: ss.Batch) -> Tensor:
    """Return the sum of the losses of all label tokens of a batch."""
    next_tokens = nn.functional.pad(batch.labels[:, 1:], (0, 1), value=-100)  # the target at each token
    logits, targets = model(batch.packed_sequence()), batch.packed_sequence(next_tokens).data
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def gradient(model: LanguageModel, parts: Iterable[Tensor]) -> Tensor:
    """Return the gradient of a sum of losses as one vector, computed with one graph in memory at a time."""
    model.zero_grad()
    for part in parts:
        part.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def compare_gradients(model: LanguageModel, batches: Sequence[ss.Batch]) -> None:
    """Print how far two ways to accumulate are from the gradient of all rows in one batch, computed without seqstream."""
    rows = [row[:length] for batch in batches for row, length in zip(batch.input_ids, batch.lengths, strict=True) if length > 1]
    ids, targets = (pack_sequence([row[part] for row in rows], enforce_sorted=False) for part in (slice(-1), slice(1, None)))
    expected = gradient(model, [nn.functional.cross_entropy(model(ids), targets.data)])
    counts = ", ".join(str(batch.num_label_tokens) for batch in batches)
    print(f"batches of {counts} label tokens; their gradient, against that of all rows in one batch:")
    shares = (loss(model, batch) / batch.step_num_label_tokens for batch in batches)
    means = (loss(model, batch) / batch.num_label_tokens / len(batches) for batch in batches)
    for name, parts in (("sum of losses / all label tokens", shares), ("mean of mean losses", means)):
        difference = (gradient(model, parts) - expected).norm() / expected.norm()
        print(f"    {name:34} differs by {difference:.1e}")


@torch.inference_mode()
def perplexity(model: LanguageModel, batches: Sequence[ss.Batch]) -> float:
    """Return the perplexity of the model: the exponential of the mean loss of a label token."""
    return math.exp(sum(loss(model, batch).item() for batch in batches) / sum(batch.num_label_tokens for batch in batches))


def main() -> None:
    """Compare the gradients of a step, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=80_000, help="number of real tokens to train on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, tokens = LanguageModel(), 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    source, held_out = ss.TextFiles(docstring_texts()).split(valid=0.05, seed=0)
    stages, labels = (ss.Tokenize(tokenizer(), max_length=256), ss.Bucket(512)), ss.CausalLabels()
    test = list(itertools.islice(ss.Loader(held_out, *stages, on_batch=labels), 20))
    batches = iter(ss.Loader(source, *stages, epochs=None, accumulate=ACCUMULATE, on_batch=labels))
    compare_gradients(model, list(itertools.islice(batches, ACCUMULATE)))
    optimizer.zero_grad()
    print(f"held-out perplexity before training: {perplexity(model, test):,.0f}", flush=True)
    for batch in batches:
        (loss(model, batch) / batch.step_num_label_tokens).backward()  # a share of the mean loss of the step
        tokens += batch.num_tokens
        if batch.is_step_end:
            optimizer.step()
            optimizer.zero_grad()
            if tokens >= options.tokens:
                break
    print(f"held-out perplexity after {tokens:,} tokens: {perplexity(model, test):,.0f}")


if __name__ == "__main__":
    main()
