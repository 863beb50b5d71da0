"""Kill a training with SIGKILL in mid-epoch, twice, resume it each time, and compare it with one that is never killed.

The training runs in a process of its own. Every 20 steps it saves model, optimizer and loader; after each step it logs a hash
of the batch, and the loss. Steps after the last checkpoint are lost with the process and done again. Resuming tokenises at most
one window again: with the default windows of 64 MiB of ids a second with the fast engines, and half a minute with `tokenizers`
on two cores. A smaller ``Bucket(window_bytes=...)`` makes it less.
"""

import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from shared.corpus import docstrings, tokenizer
from torch import nn
from train_lstm import Classifier, number_labels

import seqstream as ss

SAVE_EVERY = 20
KILL_AFTER = 50, 125  # lines in the log


def train(folder: Path) -> None:
    """Train for an epoch, or resume from the checkpoint in the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    stages = ss.Map(number_labels), ss.Tokenize(tokenizer(), max_length=64), ss.Bucket(2_048)
    loader = ss.Loader(ss.JsonLines(docstrings()), *stages)
    done, checkpoint = 0, folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        done = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    with (folder / "log").open("a", buffering=1) as log:  # each line is written at once
        for step, batch in enumerate(loader, start=done + 1):
            loss = nn.functional.cross_entropy(model(batch.input_ids, batch.lengths), batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.write(f"{step} {hashlib.sha256(batch.input_ids.numpy()).hexdigest()[:12]} {loss.item()!r}\n")
            if step % SAVE_EVERY == 0:
                states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
                unfinished = checkpoint.with_suffix(".unfinished")
                torch.save({"step": step, **states}, unfinished)
                unfinished.replace(checkpoint)  # atomic: a kill leaves the old checkpoint or the new one


def run(folder: Path, kill_after: int | None = None) -> list[list[str]]:
    """Train in a new process, kill it once the log has ``kill_after`` lines, and return the log: step, hash and loss."""
    log = folder / "log"
    log.touch()
    with subprocess.Popen([sys.executable, __file__, str(folder)]) as process:
        while process.poll() is None:
            if kill_after is not None and log.read_text().count("\n") >= kill_after:
                process.kill()
            time.sleep(0.02)
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit("the training failed")
    return [line.split() for line in log.read_text().splitlines()]


def main() -> None:
    """Train with interruptions and without, and compare the logs."""
    with tempfile.TemporaryDirectory() as left_alone, tempfile.TemporaryDirectory() as interrupted:
        for lines in KILL_AFTER:
            step = run(Path(interrupted), kill_after=lines)[-1][0]
            saved = torch.load(Path(interrupted, "checkpoint.pt"))
            print(f"killed after step {step}; the last checkpoint is of step {saved['step']}", flush=True)
        log = run(Path(interrupted))
        expected = run(Path(left_alone))
    again = len(log) - len(expected)
    print(f"finished: {len(log)} steps, {again} of them done again; {len(expected)} steps where it was left alone")
    wrong = [line for line in log if line != expected[int(line[0]) - 1]]
    if wrong or log[-1] != expected[-1]:
        sys.exit(f"not the same: {wrong[:3]}")
    print("every step had the same batch and the same loss, to the last bit")


if __name__ == "__main__":
    train(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
