"""Write a prediction for every line of a file, in the order of the file, computed in batches of similar lengths.

The loader reads the file window by window, and `ss.restore_order` puts the predictions of each window back in order, so only
one window of predictions is in memory. For comparison the same is done with batches of consecutive lines.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from shared.corpus import LABELS, docstring_texts, tokenizer
from torch import Tensor
from train_lstm import Classifier

import seqstream as ss


def evaluate(model: Classifier, loader: ss.Loader, path: Path) -> Tensor:
    """Write the predicted library for each line, and return the scores, ``(lines, labels)``."""
    held: Counter[int] = Counter()

    def predictions() -> Iterator[tuple[ss.Batch, Tensor]]:
        for batch in loader:
            held[batch.window] += batch.num_rows
            yield batch, model(batch.input_ids, batch.lengths)

    scores, started = [], time.perf_counter()
    with torch.inference_mode(), path.open("w") as out:
        for _, _, score in ss.restore_order(predictions()):
            out.write(f"{LABELS[score.argmax()]}\n")
            scores.append(score)
    seconds, most = time.perf_counter() - started, max(held.values())
    print(
        f"    {len(scores):,} lines in {seconds:.1f} s, {loader.stats.padding:.1%} padding, never more than {most:,} rows held"
    )
    return torch.stack(scores)


def main() -> None:
    """Evaluate in both ways, and compare files and scores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier()  # untrained: this example is about the order
    source = ss.TextFiles(docstring_texts())
    tokenize = ss.Tokenize(tokenizer(), max_length=256)
    with tempfile.TemporaryDirectory() as folder:
        scores, files = [], []
        for spec in (ss.Unbucketed(64), ss.Bucket(4_096, window_batches=32)):
            print(spec, flush=True)
            files.append(Path(folder, f"{type(spec).__name__}.txt"))
            scores.append(evaluate(model, ss.Loader(source, tokenize, spec, shuffle=False), files[-1]))
        first, second = (file.read_text().splitlines() for file in files)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    difference = (scores[0] - scores[1]).abs().max()
    print(f"{same:,} of {len(first):,} lines have the same prediction; scores differ by {difference:.1g} at most")


if __name__ == "__main__":
    main()
