"""Train with DistributedDataParallel, and resume in mid-epoch with exactly the next step, also on another number of ranks.

`torchrun --nproc-per-node 2 examples/train_ddp.py FOLDER` trains for an epoch on two ranks and saves checkpoints in the folder;
``--checkpoint FILE`` resumes from one. Without a folder the example starts ``torchrun`` by itself, on two ranks and on three.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import Transformer, padded
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import seqstream as ss

SAVE_EVERY, ACCUMULATE = 3, 4  # steps, and batches a step of each rank


def train(folder: Path, checkpoint: Path | None) -> None:
    """Train on all ranks to the end of an epoch, from its beginning or from a checkpoint."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DistributedDataParallel(Transformer(num_blocks=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    source, _ = ss.TextFiles(docstring_texts()).split(valid=0.99)  # a small part, so that an epoch takes seconds
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(256)
    loader, step = ss.Loader(source, *stages, accumulate=ACCUMULATE, on_batch=ss.CausalLabels()), 0
    folder.mkdir(exist_ok=True)
    if checkpoint is not None:
        saved = torch.load(checkpoint)
        step = saved["step"]
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    loss, rows, shares = 0.0, [], [None] * world_size
    for batch in loader:  # each rank has several batches in an optimiser step
        with contextlib.nullcontext() if batch.is_step_end else model.no_sync():
            share = model(padded(batch)) / batch.step_num_label_tokens  # of the mean loss of the step, of all ranks
            (share * world_size).backward()  # DDP averages the gradients of ranks, and the sum is needed
        loss, rows = loss + share.item(), rows + batch.row_ids[batch.weights > 0].tolist()
        if batch.is_step_end:
            optimizer.step()
            optimizer.zero_grad()
            distributed.gather_object((loss, rows), shares if rank == 0 else None)
            loss, rows, step = 0.0, [], step + 1
        if batch.is_step_end and rank == 0:
            with (folder / "log").open("a") as log:
                log.write(json.dumps([sum(loss for loss, _ in shares), [row for _, rows in shares for row in rows]]) + "\n")
        if batch.is_step_end and rank == 0 and step % SAVE_EVERY == 0:  # the state of the loader is the same on all ranks
            states = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save({"step": step, **states}, folder / f"step-{step}.pt")


def run(folder: Path, ranks: int, *options: str) -> list[tuple[float, list[int]]]:
    """Run this file on several ranks, and return the loss and the rows of each step."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    subprocess.run([*torchrun, __file__, str(folder), *options], env={"OMP_NUM_THREADS": "1", **os.environ}, check=True)
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    (first, _), *_, (last, _) = log
    print(f"{ranks} ranks trained for {len(log)} steps; loss {first:.3f} at the first, {last:.3f} at the last", flush=True)
    return log


def compare() -> None:
    """Train for an epoch, and repeat its second part from a checkpoint, on two ranks and on three."""
    tokenizer()  # made once, before several processes need it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        epoch = run(folder / "epoch", 2)
        checkpoint = ("--checkpoint", str(folder / "epoch" / f"step-{SAVE_EVERY}.pt"))
        begun, rest = epoch[:SAVE_EVERY], epoch[SAVE_EVERY:]
        same = sum(one == other for one, other in zip(run(folder / "2 ranks", 2, *checkpoint), rest, strict=True))
        on_three = run(folder / "3 ranks", 3, *checkpoint)
    print(f"from step {SAVE_EVERY} on 2 ranks: {same} of {len(rest)} steps have the same rows and the same loss, bit for bit")
    seen, expected = (sorted(row for _, rows in steps for row in rows) for steps in ([*begun, *on_three], epoch))
    print(f"from step {SAVE_EVERY} on 3 ranks: {len(seen)} records, {len(set(seen))} different ones, of {len(expected)}")
    if same < len(rest) or seen != expected:
        sys.exit("resuming was not exact")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="folder for checkpoints and a log; by default runs are compared")
    parser.add_argument("--checkpoint", type=Path, help="file to resume from")
    options = parser.parse_args()
    if options.folder is None:
        sys.exit(compare())
    distributed.init_process_group("gloo")  # "nccl" where each rank has a GPU
    train(options.folder, options.checkpoint)
    distributed.destroy_process_group()  # the model, which holds the group as well, is gone
