"""Show that ranks change no gradient: 1, 2 and 4 ranks have at each step that of one process on the union of their batches.

Each rank divides the sum of its losses by the labels of the step on *all* ranks, ``batch.global_num_label_tokens``, times the
number of ranks, since DistributedDataParallel takes a mean where the sum is wanted. Divided by its own labels, as is usual, a
token weighs more where a batch has fewer of them. All in double precision: what is compared is not rounding.
"""

import copy
import sys
import tempfile

import torch
from corpus import docstring_texts, tokenizer
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector
from torch.nn.utils.rnn import pad_sequence
from transformer import Form, Transformer, attend_in_rows, padded

import seqstream as ss


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    """Return the gradient of all parameters, one after the other; with DistributedDataParallel the mean over ranks."""
    model.zero_grad()
    loss.backward()
    return parameters_to_vector([parameter.grad for parameter in model.parameters()]).clone()


def union(batch: ss.Batch) -> Form:
    """Return the rows of the batches of all ranks as one batch, without those that a rank repeats to have any."""
    rows = [row[:length] for row, length, weight in zip(batch.input_ids, batch.lengths, batch.weights, strict=True) if weight]
    ranks = [rows] * distributed.get_world_size()
    distributed.all_gather_object(ranks, rows)
    rows = [row for rank in ranks for row in rank]
    labels = [row.index_fill(0, torch.tensor(0), -100) for row in rows]  # nothing predicts the first token
    ids = pad_sequence(rows, batch_first=True)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    return Form(ids, positions, pad_sequence(labels, batch_first=True, padding_value=-100), attend_in_rows)


def relative(difference: Tensor, expected: Tensor) -> float:
    """Return how large a difference is against what was expected."""
    return (difference.norm() / expected.norm()).item()


def run_rank(rank: int, ranks: int, folder: str) -> None:
    """Compare the gradients of an epoch, step by step, and save what they add up to."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{ranks}-ranks", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    alone = Transformer(num_blocks=1).double()
    model = DistributedDataParallel(copy.deepcopy(alone))
    source, _ = ss.TextFiles(docstring_texts()).split(valid=0.998)
    stages = ss.Tokenize(tokenizer(), max_length=48), ss.Bucket(192)
    differences, total = [], torch.zeros(())
    for step, batch in enumerate(ss.Loader(source, *stages, on_batch=ss.CausalLabels())):
        whole, count = union(batch), batch.global_num_label_tokens
        shared = gradient(model, model(padded(batch)) * ranks / count)
        total = total + shared * count
        if rank == 0:
            expected = gradient(alone, alone(whole) / (whole.labels != -100).sum())
            differences.append(relative(shared - expected, expected))
        if step == 0:
            usual = relative(gradient(model, model(padded(batch)) / batch.num_label_tokens) - shared, shared)
    if rank == 0:
        torch.save(total, f"{folder}/{ranks}.pt")
        print(f"{ranks} ranks, {len(differences)} steps: the gradient differs by at most {max(differences):.0e}")
        print(f"    divided by each rank's own labels, that of the first step differs by {usual:.0e}", flush=True)
        if max(differences) > 1e-6:
            sys.exit("the gradients are not the same")
    distributed.destroy_process_group()


def main() -> None:
    """Run 1, 2 and 4 ranks one after the other, and compare what an epoch adds up to."""
    tokenizer()  # made once, before several processes want it
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torch._dynamo", "seqstream"])  # imported once
        for ranks in (1, 2, 4):
            multiprocessing.start_processes(run_rank, (ranks, folder), nprocs=ranks, start_method="forkserver")
        one, *others = (torch.load(f"{folder}/{ranks}.pt") for ranks in (1, 2, 4))
    worst = max(relative(other - one, one) for other in others)
    print(f"the gradients of an epoch, each times its labels, add up to the same on 1, 2 and 4 ranks, but for {worst:.0e}")
    if worst > 1e-6:
        sys.exit("the gradients are not the same")


if __name__ == "__main__":
    main()
