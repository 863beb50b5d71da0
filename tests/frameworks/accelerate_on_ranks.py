"""What ranks do with a loader in accelerate: run by torchrun with a folder, each writes what it saw there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import accelerate_loop
import torch
from accelerate import Accelerator

from tests.frameworks.streams import make_loader


def gather_epoch(accelerator: Accelerator, folder: Path) -> list[tuple[list[int], list[int], int]]:
    """Return of each step the ids of the rows of all ranks, the tokens of each rank, and how many tokens they are in all."""
    steps = []
    for batch in accelerator.prepare(make_loader(folder)):
        ids = batch.row_ids.masked_fill(batch.weights == 0, -1)
        gathered = accelerator.gather_for_metrics(accelerator.pad_across_processes(ids, pad_index=-1))
        tokens = accelerator.gather(torch.tensor(batch.num_tokens))
        steps.append((gathered[gathered >= 0].tolist(), tokens.tolist(), batch.global_num_tokens))
    return steps


if __name__ == "__main__":
    accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
    seen = gather_epoch(accelerator, folder)
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(seen))
    accelerate_loop.main()
