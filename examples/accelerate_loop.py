"""Train in a loop of Hugging Face's accelerate, and go on in mid-epoch with exactly the next batch.

``prepare`` leaves a loader alone, as it should: the loader knows its rank and puts batches on the device by itself. Once it is
registered, what `Accelerator` saves says where it is. `torchrun --nproc-per-node 2 examples/accelerate_loop.py` trains on two
ranks, and no line is different.
"""

import itertools
import sys
import tempfile

import torch
from corpus import docstring_texts, tokenizer
from transformer import Transformer, padded

import seqstream as ss

try:
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list
except ImportError:
    sys.exit("this example needs accelerate; pip install accelerate")

STEPS, SAVED = 12, 5


def train(folder: str, *, resume: bool) -> list[float]:
    """Train with everything made anew, from the beginning or from what was saved, and return the mean loss of each step."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    loader = ss.Loader(
        ss.TextFiles(docstring_texts()),
        ss.Tokenize(tokenizer(), max_length=128),
        ss.Bucket(512),
        device=accelerator.device,
        on_batch=ss.CausalLabels(),
    )
    model = Transformer(num_blocks=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(loader)
    if resume:
        accelerator.load_state(folder)
    losses: list[float] = []
    for batch in itertools.islice(loader, STEPS - SAVED if resume else STEPS):
        share = model(padded(batch)) / batch.global_num_label_tokens  # of the mean loss of all ranks
        accelerator.backward(share * accelerator.num_processes)  # of the ranks' gradients a mean is taken, not the sum
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.gather(share.detach()).sum().item())
        if len(losses) == SAVED and not resume:
            accelerator.save_state(folder)
    return losses


def main() -> None:
    """Train, go on from the middle with everything made anew, and compare."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    with accelerator.main_process_first():  # who is first makes the corpus, once
        tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        (folder,) = broadcast_object_list([folder])
        losses = train(folder, resume=False)
        resumed = train(folder, resume=True)
        accelerator.wait_for_everyone()  # before the folder is removed
    if resumed != losses[SAVED:]:
        sys.exit("the resumed run has other losses")
    accelerator.print(f"{accelerator.num_processes} ranks: loss of step 1 {losses[0]:.3f}, of step {STEPS} {losses[-1]:.3f}")
    accelerator.print(f"resumed after step {SAVED}: {STEPS - SAVED} more steps have the same losses, to the last bit")
    accelerator.end_training()


if __name__ == "__main__":
    main()
