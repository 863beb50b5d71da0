"""Train an encoder-decoder to write the first sentence of a docstring from the rest of it.

A batch is as wide as its longest source and its longest target, and both are computed. Rows are alike in both only if
batches are planned by both; compared are random batches, and batches planned by the source alone.
"""

import argparse
import itertools

import pyarrow as pa
import pyarrow.compute as pc
import torch
from corpus import docstrings, tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn

import seqstream as ss

TOKENS = Tokenizer.from_file(str(tokenizer()))
START = TOKENS.token_to_id("<pad>")
END = TOKENS.token_to_id("Ċ")  # the end of a line, which no text here has
PARTS = r"^(?P<target>.{8,200}?\.) (?P<source>[A-Z].{40,})$"


class Summariser(nn.Module):
    """A GRU reads the source, a second one writes the target and looks at what the first one read."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS.get_vocab_size(), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, batch: ss.Batch, decoder_input_ids: Tensor) -> Tensor:
        """Return what each step of the decoder would write, ``(B, steps, width)``."""
        packed, last = self.encoder(batch.packed_sequence(self.embedding(batch.input_ids)))
        read, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=batch.mask.shape[1])
        wrote, _ = self.decoder(self.embedding(decoder_input_ids), last)
        seen = nn.functional.scaled_dot_product_attention(wrote, read, read, attn_mask=batch.mask[:, None])
        return self.mix(torch.cat([wrote, seen], dim=2)).tanh()

    def loss(self, batch: ss.Batch, labels: Tensor | None = None) -> Tensor:
        """Return the loss of each target token; -100 in labels is none."""
        labels = batch.labels if labels is None else labels
        real = labels != -100
        logits = self(batch, batch.decoder_input_ids)[real] @ self.embedding.weight.T
        return nn.functional.cross_entropy(logits, labels[real], reduction="none")
