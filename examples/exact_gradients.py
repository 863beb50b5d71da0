"""Show that ranks and accumulation do not change gradients: those of a step are those of one process on all of its rows.

Each rank divides the sum of its losses by the number of labels of *all* batches of the step, ``batch.step_num_label_tokens``,
and multiplies it by the number of ranks, since DistributedDataParallel takes the mean of gradients and not the sum. If each
batch is divided by its own labels, as is usual, tokens of small batches weigh more. Double precision keeps rounding out of it.
"""

import copy
import sys
import tempfile
from collections.abc import Sequence

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import Form, Transformer, attend_in_rows, padded
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector
from torch.nn.utils.rnn import pad_sequence

import seqstream as ss

RANKS, ACCUMULATE = (1, 2, 4), (1, 4)


def gradient(model: torch.nn.Module, forms: Sequence[Form], divisors: Sequence[float]) -> Tensor:
    """Return the gradient of the sum of losses, each divided; with DistributedDataParallel the mean over ranks."""
    model.zero_grad()
    for form, divisor in zip(forms, divisors, strict=True):  # train_ddp.py synchronises ranks only at the last batch
        (model(form) / divisor).backward()
    return parameters_to_vector([parameter.grad for parameter in model.parameters()]).clone()


def union(step: Sequence[ss.Batch]) -> Form:
    """Return the rows of a step of all ranks as one batch, without repeated rows, which have weight 0."""
    numbered = ((batch, number) for batch in step for number in batch.weights.nonzero()[:, 0].tolist())
    rows = [batch.input_ids[number, : batch.lengths[number]] for batch, number in numbered]
    ranks = [rows] * distributed.get_world_size()
    distributed.all_gather_object(ranks, rows)
    rows = [row for rank in ranks for row in rank]
    labels = [row.index_fill(0, torch.tensor(0), -100) for row in rows]  # nothing predicts the first token
    ids = pad_sequence(rows, batch_first=True)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    return Form(ids, positions, pad_sequence(labels, batch_first=True, padding_value=-100), attend_in_rows)


def compare(ranks: int, accumulate: int) -> Tensor:
    """Compare the gradients of an epoch step by step, and return their sum, each multiplied by its number of labels."""
    torch.manual_seed(0)
    alone = Transformer(num_blocks=1).double()
    model = DistributedDataParallel(copy.deepcopy(alone))
    source, _ = ss.TextFiles(docstring_texts()).split(valid=0.997)
    stages = ss.Tokenize(tokenizer(), max_length=48), ss.Bucket(192)
    loader = ss.Loader(source, *stages, accumulate=accumulate, on_batch=ss.CausalLabels())
    differences, usual, total, step = [], [], torch.zeros(()), []
    for batch in loader:
        step.append(batch)
        if batch.is_step_end:
            forms, whole, count = list(map(padded, step)), union(step), batch.step_num_label_tokens
            shared = gradient(model, forms, [count / ranks] * len(step))
            expected = gradient(alone, [whole], [(whole.labels != -100).sum().item()])
            differences.append((shared - expected).norm() / expected.norm())
            own = gradient(model, forms, [each.num_label_tokens * len(step) for each in step])
            usual.append((own - expected).norm() / expected.norm())
            total, step = total + shared * count, []
    if distributed.get_rank() == 0:
        print(f"{ranks} ranks x {accumulate} batches, {len(usual)} steps: gradients differ by at most {max(differences):.0e}")
        print(f"    divided by each batch's own labels, it differs by up to {max(usual):.0e}", flush=True)
    if max(differences) > 1e-6:
        sys.exit("the gradients are not the same")
    return total


def run_rank(rank: int, ranks: int, folder: str) -> None:
    """Compare on one rank, for steps of one batch a rank and of several."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{ranks}-ranks", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    totals = [compare(ranks, accumulate) for accumulate in ACCUMULATE]
    if rank == 0:
        torch.save(totals, f"{folder}/{ranks}.pt")
    distributed.destroy_process_group()


def main() -> None:
    """Run 1, 2 and 4 ranks one after the other, and compare the sums of an epoch."""
    tokenizer()  # made once, before several processes need it
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torch._dynamo", "seqstream"])  # imported once
        for ranks in RANKS:
            multiprocessing.start_processes(run_rank, (ranks, folder), nprocs=ranks, start_method="forkserver")
        one, *others = (total for ranks in RANKS for total in torch.load(f"{folder}/{ranks}.pt"))
    worst = max((other - one).norm() / one.norm() for other in others)
    print(f"the gradients of an epoch, each times its labels, add up to the same in all of them, but for {worst:.0e}")
    if worst > 1e-6:
        sys.exit("the gradients are not the same")


if __name__ == "__main__":
    main()
