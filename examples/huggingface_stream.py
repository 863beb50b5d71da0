"""Train a small transformer on a Hugging Face stream, and resume in mid-epoch with exactly the next batch.

The stream is that of `load_dataset(..., streaming=True)`, here of JSON lines in eight files; a stream from the hub works the
same way.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from shared.corpus import LABELS, docstrings, tokenizer

import seqstream as ss

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    from datasets import load_dataset
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
except ImportError:
    sys.exit("this example needs transformers; pip install transformers")

NUM_FILES = 8
STEPS = 60


def write_files(folder: str) -> list[str]:
    """Write the corpus as several files, each a shard of the stream."""
    lines = docstrings().read_text(encoding="utf-8").splitlines(keepends=True)
    paths = [Path(folder, f"part-{number}.jsonl") for number in range(NUM_FILES)]
    for number, path in enumerate(paths):
        path.write_text("".join(lines[number::NUM_FILES]), encoding="utf-8")
    return list(map(str, paths))


def make_loader(files: list[str]) -> ss.Loader:
    """Return the loader, which a process makes in the same way to train and to resume."""
    stream = load_dataset("json", data_files=files, split="train", streaming=True)
    stream = stream.map(lambda row: {"label": LABELS.index(row["label"])})  # the stream's own functions run as usual
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer()), pad_token="<pad>")
    return ss.Loader(ss.HFDataset(stream), ss.Tokenize(fast, max_length=128), ss.Bucket(2_048))


def make_model() -> BertForSequenceClassification:
    """Return a model that trains in seconds."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    return BertForSequenceClassification(BertConfig(vocab_size=8_192, num_labels=len(LABELS), **size))


def main() -> None:
    """Train, save the loader's state, and compare the batches after it with those of a new loader that loads the state."""
    torch.set_num_threads(1)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(folder)
        loader = make_loader(files)
        print(loader)
        batches = iter(loader)
        losses = []
        for batch in itertools.islice(batches, STEPS):
            loss = model(**batch).loss  # input_ids, attention_mask and labels
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(loader.stats)
        print(f"loss of the first ten steps {sum(losses[:10]) / 10:.3f}, of the last ten {sum(losses[-10:]) / 10:.3f}")

        saved = json.dumps(loader.state_dict())
        expected = list(itertools.islice(batches, 20))
        started = time.perf_counter()
        resumed = make_loader(files)
        resumed.load_state_dict(json.loads(saved))
        got = list(itertools.islice(resumed, 20))
        seconds = time.perf_counter() - started
    same = sum(torch.equal(one.input_ids, other.input_ids) for one, other in zip(expected, got, strict=True))
    print(
        f"a state of {len(saved):,} bytes after step {STEPS}: {same} of the 20 batches after it are the same ({seconds:.1f} s)"
    )


if __name__ == "__main__":
    main()
