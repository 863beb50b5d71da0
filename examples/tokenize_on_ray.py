"""Tokenise on actors of Ray while a small transformer trains, with the batches of a run without Ray, though an actor is killed.

A local Ray of two actors stands for a cluster; on a real one, ``ray.init()`` connects to it, and actors read the files
themselves where these have the same paths on all machines. For Dask, pass ``executor=client.get_executor()`` instead.
"""

import argparse
import os
import re
import signal
from importlib.util import find_spec
from typing import Any

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import MAX_LENGTH, Transformer, varlen

import seqstream as ss


def tidy(record: dict[str, Any]) -> dict[str, Any]:
    """Replace markup by what it marks: work in Python, which is worth more processors."""
    return {**record, "text": re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"\1\2", record["text"])}


def make_loader(**options: Any) -> ss.Loader:
    """Return a loader of causal language modelling."""
    stages = ss.MapRecords(tidy), ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), ss.Bucket(1_120, window_batches=16)
    source = ss.TextFiles(docstring_texts(), block_bytes=65_536)
    return ss.Loader(source, *stages, on_batch=ss.CausalLabels(), layout="jagged", **options)


def is_same(batch: ss.Batch, other: ss.Batch) -> bool:
    """Return whether two batches have the same rows, ids, labels and state."""
    names = ("row_ids", "input_ids", "labels")
    return all(torch.equal(batch[name], other[name]) for name in names) and batch.state == other.state


def train(actors: ss.RayExecutor, num_steps: int) -> None:
    """Train, kill an actor halfway, and compare every batch with that of a loader without workers."""
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    num_same = 0
    for step, (batch, alone) in enumerate(zip(make_loader(executor=actors), make_loader(), strict=True), 1):
        loss = model(varlen(batch)) / batch.num_label_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        num_same += is_same(batch, alone)
        if step == num_steps // 2:
            pid = actors.submit(os.getpid).result()
            os.kill(pid, signal.SIGKILL)
            print(f"step {step}: killed the actor of process {pid}", flush=True)
        if step % (num_steps // 4) == 0:
            print(f"step {step}: loss {loss.item():.2f}", flush=True)
        if step == num_steps:
            break
    print(f"{num_same} of {num_steps} batches are, to the last bit, those of a loader without Ray")


def main() -> None:
    """Start Ray and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="number of steps of the training")
    options = parser.parse_args()
    if find_spec("ray") is None:
        print("this example needs Ray; install it with: pip install 'seqstream[ray]'")
        return
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("starting a Ray of this machine and two actors, a few seconds", flush=True)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=200 << 20)
    with ss.RayExecutor(max_workers=2) as actors:
        train(actors, options.steps)
    ray.shutdown()


if __name__ == "__main__":
    main()
