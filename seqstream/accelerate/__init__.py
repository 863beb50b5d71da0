"""Loaders in loops of Hugging Face's accelerate; needs ``pip install "seqstream[accelerate]"``.

from seqstream.accelerate import StreamAccelerator

accelerator = StreamAccelerator()
model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
for batch in loader:
    with accelerator.accumulate(model, batch=batch):
        accelerator.backward(model(**batch).loss, batch=batch)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
"""

from seqstream.options import require

require("accelerate>=1.1")

from seqstream.accelerate.accelerator import StreamAccelerator  # noqa: E402 - the library is there
from seqstream.accelerate.mean_loss import MeanLoss  # noqa: E402

__all__ = ["MeanLoss", "StreamAccelerator"]
