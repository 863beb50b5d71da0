"""Train an encoder-decoder to write the first sentence of a docstring, given the rest of it.

A batch is padded to its longest source and to its longest target, and `Bucket` plans by both. This is compared with random
batches, and with batches that are planned by the source alone.
"""

import argparse
import itertools

import pyarrow as pa
import pyarrow.compute as pc
import torch
from shared.corpus import docstrings, tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn

import seqstream as ss

TOKENS = Tokenizer.from_file(str(tokenizer()))
START = TOKENS.token_to_id("<pad>")
END = TOKENS.token_to_id("Ċ")  # the end of a line, which is in no text here


class Summariser(nn.Module):
    """A GRU that reads the source, and one that writes the target with attention to the outputs of the first."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS.get_vocab_size(), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, batch: ss.Batch, decoder_input_ids: Tensor) -> Tensor:
        """Return the features of the token after each of ``decoder_input_ids (B, L)``: ``(B, L, width)``."""
        read, _ = self.encoder(self.embedding(batch.input_ids))
        last = read[torch.arange(batch.num_rows), batch.lengths - 1]
        wrote, _ = self.decoder(self.embedding(decoder_input_ids), last[None])
        seen = nn.functional.scaled_dot_product_attention(wrote, read, read, attn_mask=batch.mask[:, None])
        return self.mix(torch.cat([wrote, seen], dim=2)).tanh()

    def loss(self, batch: ss.Batch) -> Tensor:
        """Return the sum of the losses of all target tokens; padding, where labels are -100, needs no logits."""
        real = batch.labels != -100
        logits = self(batch, batch.decoder_input_ids)[real] @ self.embedding.weight.T
        return nn.functional.cross_entropy(logits, batch.labels[real], reduction="sum")

    @torch.inference_mode()
    def write(self, batch: ss.Batch) -> list[str]:
        """Return a target for each source, written by greedy decoding up to the end of the line."""
        ids = torch.full((batch.num_rows, 1), START)
        for _ in range(25):
            logits = self(batch, ids)[:, -1] @ self.embedding.weight.T
            ids = torch.cat([ids, logits.argmax(1, keepdim=True)], dim=1)
        return [text.partition("\n")[0] for text in TOKENS.decode_batch(ids.tolist())]


def cut(table: pa.Table) -> pa.Table:
    """Return the first sentence of each text and the rest; both are null if a text has one sentence."""
    parts = pc.extract_regex(table["text"], r"^(?P<target>.{8,200}?\.) (?P<source>[A-Z].{40,})$")
    return pa.table({name: pc.struct_field(parts, name) for name in ("source", "target")})


def main() -> None:
    """Compare padding, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenize = ss.Tokenize({"source": TOKENS, "target": TOKENS}, max_length=128, end=END)
    stages = ss.Map(cut), ss.Filter(lambda table: pc.is_valid(table["source"])), tokenize
    source, held_out = ss.JsonLines(docstrings()).split(valid=0.05, seed=0)
    shifted = ss.TeacherForcing(START)

    both, by_source = ss.Bucket(2_048), ss.Bucket(2_048, columns=("source_ids",))
    for name, spec in (("random", ss.Unbucketed(20)), ("planned by source", by_source), ("planned by both", both)):
        sizes = [(b.input_ids.numel() + b.labels.numel(), b) for b in ss.Loader(source, *stages, spec, on_batch=shifted)]
        real = sum(int(batch.lengths.sum()) + batch.num_label_tokens for _, batch in sizes)
        padding, largest = 1 - real / sum(slots for slots, _ in sizes), max(slots for slots, _ in sizes)
        print(f"{name:18}{padding:6.1%} padding;{largest:6,} tokens in the largest of {len(sizes)} batches", flush=True)

    model, test = Summariser(), list(ss.Loader(held_out, *stages, both, on_batch=shifted))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    evaluate = torch.inference_mode()(lambda: sum(map(model.loss, test)).item() / sum(b.num_label_tokens for b in test))
    print(f"before training: loss of a held-out token {evaluate():.2f}", flush=True)
    for batch in itertools.islice(ss.Loader(source, *stages, both, epochs=None, on_batch=shifted), steps):
        loss = model.loss(batch) / batch.num_label_tokens  # and not by slots or rows, so that tokens weigh the same
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"after {steps} steps: loss of a held-out token {evaluate():.2f}")
    for wrote, labels in list(zip(model.write(test[0]), test[0].labels, strict=True))[:2]:
        print(f"    {wrote!r} for {TOKENS.decode(labels[labels != -100].tolist()).strip()!r}")


if __name__ == "__main__":
    main()
