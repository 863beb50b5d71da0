"""Train in a loop of Hugging Face's accelerate, and resume in mid-epoch with exactly the next batch.

`StreamAccelerator` saves the state of a prepared loader with the model, and steps where the loader says so: the loop below is
accelerate's own, with ``batch=batch``. `torchrun --nproc-per-node 2 examples/accelerate_loop.py` trains on two ranks with the
same code.
"""

import sys
import tempfile

import torch
from shared.corpus import docstring_texts, tokenizer
from shared.transformer import Transformer, padded

import seqstream as ss

try:
    from accelerate.utils import broadcast_object_list
except ImportError:
    sys.exit("this example needs accelerate; pip install accelerate")

from seqstream.accelerate import StreamAccelerator

STEPS, SAVED, ACCUMULATE = 12, 5, 4


def train(folder: str, *, resume: bool) -> list[float]:
    """Train with new objects, from the beginning or from a checkpoint, and return the mean loss of each step."""
    torch.manual_seed(0)
    accelerator = StreamAccelerator(cpu=True)
    stages = ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(256)
    on_batch = ss.CausalLabels()
    loader = ss.Loader(
        ss.TextFiles(docstring_texts()), *stages, accumulate=ACCUMULATE, device=accelerator.device, on_batch=on_batch
    )
    model = Transformer(num_blocks=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if resume:
        accelerator.load_state(folder)
    losses, total, steps = [], torch.zeros(1, device=accelerator.device), range(SAVED if resume else 0, STEPS)
    for batch in loader:
        with accelerator.accumulate(model, batch=batch):
            total += accelerator.backward(model(padded(batch)) / batch.num_label_tokens, batch=batch)
            optimizer.step()
            optimizer.zero_grad()
        if batch.is_step_end:
            losses.append(accelerator.reduce(total).item())
            total.zero_()
            if len(losses) == len(steps):
                break
            if len(losses) == SAVED and not resume:
                accelerator.save_state(folder)  # at the end of a step, since gradients are not saved
    return losses


def main() -> None:
    """Train, resume from the middle with new objects, and compare."""
    torch.set_num_threads(1)
    accelerator = StreamAccelerator(cpu=True)
    with accelerator.main_process_first():  # one process makes the corpus
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
