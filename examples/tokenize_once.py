"""Write the tokens of a corpus once, train two epochs from them, and compare with tokenising in every epoch.

The folder can be given and kept: a second run finds it complete and trains at once. The fast engines tokenise about as fast as
other loaders read, so what is saved is most where a tokenizer is slow, or a corpus is read by many runs.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from shared.corpus import LABELS, docstrings, tokenizer
from torch import nn

import seqstream as ss

EPOCHS = 2


class Classifier(nn.Module):
    """The mean of the embeddings of a row, and a linear layer: so small that the loader decides the speed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(8_192, 32)
        self.output = nn.Linear(32, len(LABELS))

    def forward(self, batch: ss.Batch) -> torch.Tensor:
        """Return logits, ``(B, classes)``."""
        return self.output(self.embed(batch.input_ids[batch.mask], batch.lengths.cumsum(0) - batch.lengths))


def train(loader: ss.Loader) -> tuple[list[float], list[float]]:
    """Train some epochs; return the seconds and the mean loss of each."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seconds, losses = [], []
    for _ in range(EPOCHS):
        begun, total, rows = time.perf_counter(), 0.0, 0
        for batch in loader:
            loss = nn.functional.cross_entropy(model(batch), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, rows = total + loss.item() * len(batch.label), rows + len(batch.label)
        seconds.append(time.perf_counter() - begun)
        losses.append(total / rows)
    return seconds, losses


def wait(loader: ss.Loader) -> float:
    """Return the seconds of an epoch without a model."""
    begun = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begun


def compare(folder: Path, engine: str) -> None:
    """Write the tokens, train both ways, and print the times."""
    source = ss.JsonLines(docstrings())
    stages = ss.ClassLabels(LABELS), ss.Tokenize(tokenizer(), max_length=256, engine=engine)
    begun = time.perf_counter()
    written = ss.write_tokens(source, *stages, to=folder, progress=False)
    print(f"wrote {written.num_rows:,} rows of {written.num_tokens:,} tokens in {time.perf_counter() - begun:.2f} s")

    spec = ss.Bucket(max_tokens=8_192)
    ways = {
        "tokenised on the fly": ss.Loader(source, *stages, spec),
        "from token files": ss.Loader(ss.TokenFiles(folder, shuffle="rows"), spec),
    }
    for way, loader in ways.items():
        seconds, losses = train(loader)
        shown = ", ".join(f"{each:.2f} s with loss {loss:.3f}" for each, loss in zip(seconds, losses, strict=True))
        print(f"{way:20}  epochs of {shown}; without a model {wait(loader):.2f} s; {loader.stats.tokens:,} tokens in all")


def main() -> None:
    """Train from a temporary folder, or from one that is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the tokens are kept; by default they are removed at the end")
    parser.add_argument("--engine", default="auto", help="engine of the tokenizer: auto, or tokenizers to see a slow one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare(options.folder or Path(folder) / "tokens", options.engine)


if __name__ == "__main__":
    main()
