"""Kill a training with SIGKILL in mid-epoch, twice, let it go on, and compare it with one that nothing happened to.

The training runs in a process of its own. Every 20 steps it saves model, optimiser and loader together; what it did is in
a log, a line a step: the number of the step, the rows of its batch and the loss.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from corpus import docstring_texts, tokenizer
from torch import nn

import seqstream as ss

KILLED_AFTER = 100, 250  # steps in the log
SAVE_EVERY = 20


def train(folder: Path) -> None:
    """Train a small language model for an epoch, from the last checkpoint in the folder if there is one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(8_192, 16), nn.Linear(16, 8_192))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = ss.Loader(ss.TextFiles(docstring_texts()), ss.Tokenize(tokenizer(), max_length=128), ss.Bucket(1_024))
    ...
