"""Write a prediction for every line of a file, in the order of the file, computed in batches of similar lengths.

The loader reads the file window by window, and `ss.predict` puts the results of each window back in order, so only one window
of them is in memory. It goes on after any line: here it stops a third of the way, and a new loader predicts the rest. For
comparison the same is done with batches of consecutive lines.
"""

import itertools
import json
import tempfile
import time
from pathlib import Path

import torch
from shared.corpus import LABELS, docstring_texts, tokenizer
from torch import Tensor
from train_lstm import Classifier

import seqstream as ss


def predictions(model: Classifier, spec: ss.Bucket | ss.Unbucketed) -> ss.Predictions:
    """Return the scores of every line, in order: ``(record, scores)``, scores ``(labels,)``."""
    tokenize = ss.Tokenize(tokenizer(), max_length=256)
    loader = ss.Loader(docstring_texts(), tokenize, spec, shuffle=False)
    return ss.predict(lambda batch: model(batch.input_ids, batch.lengths), loader)


def evaluate(model: Classifier, spec: ss.Bucket | ss.Unbucketed, path: Path, stop: int) -> Tensor:
    """Write the predicted library of each line, and return the scores, ``(lines, labels)``.

    Args:
        model: The model.
        spec: How lines are batched.
        path: The file that is written, with the state beside it.
        stop: Number of lines after which a new loader takes over.
    """
    scores, started, state = [], time.perf_counter(), path.with_suffix(".json")
    with path.open("w") as out:
        for most in (stop, None):
            results = predictions(model, spec)
            if state.exists():
                results.load_state_dict(json.loads(state.read_text()))
            for _, score in itertools.islice(results, most):
                out.write(f"{LABELS[score.argmax()]}\n")
                scores.append(score)
            state.write_text(json.dumps(results.state_dict()))
    seconds, padding = time.perf_counter() - started, results.loader.stats.padding
    print(f"    {len(scores):,} lines in {seconds:.1f} s, resumed after {stop:,}, {padding:.1%} padding in the rest")
    return torch.stack(scores)


def main() -> None:
    """Evaluate in both ways, and compare files and scores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier()  # untrained: this example is about the order
    stop = len(docstring_texts().read_text(encoding="utf-8").splitlines()) // 3
    with tempfile.TemporaryDirectory() as folder:
        scores, files = [], []
        for spec in (ss.Unbucketed(64), ss.Bucket(4_096, window_batches=32)):
            print(spec, flush=True)
            files.append(Path(folder, f"{type(spec).__name__}.txt"))
            scores.append(evaluate(model, spec, files[-1], stop))
        first, second = (file.read_text().splitlines() for file in files)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    difference = (scores[0] - scores[1]).abs().max()
    print(f"{same:,} of {len(first):,} lines have the same prediction; scores differ by {difference:.1g} at most")


if __name__ == "__main__":
    main()
