"""Train a small transformer on three corpora with shares of your own, which change during the run, on two ranks.

The sources are the docstrings of the standard library, numpy and torch. Each gives its share of the *tokens* in every window,
and packed rows hold sequences of all of them: ``batch.source`` has the source of each, and so each token's loss has a source.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import torch
from shared.corpus import LABELS, package_texts, tokenizer
from shared.mixture_report import Log, Schedule, compare_shares, plot, print_progress
from shared.transformer import Transformer, packed
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import seqstream as ss

MAX_LENGTH, EVERY, RANKS = 256, 4, 2
FIRST = {"stdlib": 0.7, "numpy": 0.1, "torch": 0.2}  # shares of the tokens, at first
LATER = {"stdlib": 0.1, "numpy": 0.4, "torch": 0.5}  # and in the second half of the run
LOSS_WEIGHTS = {"stdlib": 1.0, "numpy": 1.0, "torch": 1.0}  # of the loss of each token; try {..., "numpy": 2.0}


def make_loader(schedule: Schedule, tokens: int, seed: int) -> ss.Loader:
    """Return a loader of packed rows of the three sources, with small windows: a large one would extend over both weights."""
    sources = {label: ss.TextFiles(package_texts(label)) for label in LABELS}
    mixture = ss.Mixture(sources, weights=schedule, tokens=tokens)
    tokenize = ss.Tokenize(tokenizer(), max_length=MAX_LENGTH)
    return ss.Loader(mixture, tokenize, ss.Pack(MAX_LENGTH, rows=4, window_batches=4), on_batch=ss.CausalLabels(), seed=seed)


def sequences_of_tokens(batch: ss.Batch) -> Tensor:
    """Return the number of the sequence of each token of a batch of packed rows, ``int64 (T,)``."""
    return (batch.position_ids[batch.mask] == 0).cumsum(0) - 1  # positions restart at 0 in every sequence


def run_rank(rank: int, options: argparse.Namespace, rendezvous: str) -> None:
    """Train on one of the ranks, and exit with an error where shares are wrong."""
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    is_right = train(rank, options)
    distributed.destroy_process_group()  # the model, which holds the group as well, is gone
    sys.exit(None if is_right else "a source is more than a row off its share")


def train(rank: int, options: argparse.Namespace) -> bool:
    """Train on one of the ranks; the first prints what it sees, and returns whether shares are right."""
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = DistributedDataParallel(Transformer(num_blocks=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = [(0, FIRST), (options.change or options.tokens // 2, LATER)]
    loader, log = make_loader(schedule, options.tokens, options.seed), Log(schedule)
    weights = torch.tensor([LOSS_WEIGHTS[name] for name in loader.source.names])
    for step, batch in enumerate(loader):
        sequences = sequences_of_tokens(batch)
        sources, is_real = batch.source[sequences], batch.weights[sequences]  # 0 where a sequence fills up a batch
        of_labels = sources[batch.labels[batch.mask] != -100]
        losses = model(packed(batch), reduction="none")
        loss = (losses * weights[of_labels]).sum() / batch.step_num_label_tokens  # each source's loss with its weight
        (loss * RANKS).backward()  # DDP averages the gradients of ranks, and the sum is needed
        optimizer.step()
        optimizer.zero_grad()

        by_source = functools.partial(torch.bincount, minlength=len(weights))
        counts = [by_source(sources, is_real), by_source(of_labels), by_source(of_labels, losses.detach())]
        counts = torch.stack([each.double() for each in counts])
        distributed.all_reduce(counts)  # of this step, of all ranks
        log.add(batch.window, counts.numpy())
        if rank == 0 and step % EVERY == EVERY - 1:
            print_progress(log, EVERY)
    stats: list[ss.Stats] = [loader.stats] * RANKS
    distributed.gather_object(loader.stats, stats if rank == 0 else None)
    if rank > 0:
        return True
    first, second = (each.by_source for each in stats)
    print(f"\n{first.plus(second)}")  # rows and tokens of both ranks
    print(plot(log, Path("mixture.png"), EVERY))
    return compare_shares(log, MAX_LENGTH)


def main() -> None:
    """Train on two ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000, help="number of tokens to train on, of all ranks")
    parser.add_argument("--change", type=int, help="number of tokens after which the weights change; by default half of all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the order of the data")
    options = parser.parse_args()
    for path in (tokenizer(), *map(package_texts, LABELS)):  # made once, before two processes need them
        print(f"{path.stat().st_size:12,} bytes  {path.name}")
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run_rank, (options, f"file://{folder}/rendezvous"), nprocs=RANKS)


if __name__ == "__main__":
    main()
