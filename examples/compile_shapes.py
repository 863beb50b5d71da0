"""Score docstrings with a compiled transformer, in batches of a few fixed shapes, and count the graphs that are compiled.

``torch.compile(dynamic=False)`` compiles one graph for each shape. Compared are a few shapes that the loader chooses, one shape
for all, which is mostly padding, and one graph for any shape, ``dynamic=True``, which CUDA graphs cannot replay.
"""

import argparse
import time
from typing import Any

import torch
from shared.corpus import docstrings, tokenizer
from torch import Tensor, nn
from torch._dynamo import lookup_backend

import seqstream as ss

MAX_LENGTH = 256
ANY_SHAPES = [(40, 100), (80, 50), (16, 250)]  # torch compiles for any shape once it has seen a few different ones


class Scorer(nn.Module):
    """A transformer of one layer over ids ``(B, L)``, with a score for each row, ``(B,)``; it is not trained here."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8_192, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.linear = nn.Linear(width, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.layer(self.embedding(ids), src_key_padding_mask=~mask)
        return self.linear(hidden.masked_fill(~mask[..., None], 0).sum(1)).squeeze(1)


class Counting:
    """A backend of ``torch.compile`` that counts the graphs that it compiles."""

    def __init__(self, name: str) -> None:
        self.compile = lookup_backend(name)
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.num_graphs += 1
        return self.compile(graph, inputs)


def choose_backend() -> str:
    """Return the backend that compiles code for this machine; if it cannot, one that only captures graphs."""
    try:
        torch.compile(torch.square, backend="inductor")(torch.ones(2))
    except Exception as error:  # noqa: BLE001 - whatever is missing, there is no compiler
        print(f"no code can be compiled here ({type(error).__name__}): graphs are counted and run without compilation")
        return "eager"
    return "inductor"


@torch.inference_mode()
def score(loader: ss.Loader, shapes: list[tuple[int, int]], backend: str, *, dynamic: bool) -> str:
    """Compile for some shapes, score an epoch, and return a line of the table."""
    torch.compiler.reset()
    counting = Counting(backend)
    model = torch.compile(Scorer().eval(), backend=counting, dynamic=dynamic)
    started = time.perf_counter()
    for shape in shapes:
        model(torch.ones(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))
    num_warm, warm = counting.num_graphs, time.perf_counter()
    for batch in loader:
        model(batch.input_ids, batch.mask)
    ended, stats = time.perf_counter(), loader.stats
    graphs = f"{num_warm:>8}{counting.num_graphs - num_warm:>8}{warm - started:>10.1f} s"
    times = f"{1_000 * (ended - warm) / stats.batches:>8.1f} ms{stats.tokens / (ended - warm):>16,.0f}"
    return f"{graphs}{stats.batches:>9}{stats.padding:>10.1%}{times}"


def main() -> None:
    """Score the same docstrings in three ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=4, choices=range(1, 9), help="number of shapes; torch keeps eight graphs")
    parser.add_argument("--backend", help="of torch.compile; by default inductor with a C++ compiler, else eager")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backend = options.backend or choose_backend()
    _, source = ss.JsonLines(docstrings()).split(valid=0.1, seed=0)

    def make_loader(spec: ss.Bucket) -> ss.Loader:
        return ss.Loader(source, ss.Tokenize(tokenizer(), max_length=MAX_LENGTH), spec)

    few, one, any_shape = (make_loader(ss.Bucket(4_096, shapes=which)) for which in (options.shapes, [(16, MAX_LENGTH)], None))
    print(f"backend {backend}; shapes {few.shapes()}\n")
    print(f"{'graphs:':31}warm-up   epoch   compiling  batches   padding    a batch   real tokens/s")
    print(f"{'as many as asked for':22}{score(few, few.shapes(), backend, dynamic=False)}", flush=True)
    print(f"{'one, the longest':22}{score(one, one.shapes(), backend, dynamic=False)}", flush=True)
    print(f"{'any, dynamic=True':22}{score(any_shape, ANY_SHAPES, backend, dynamic=True)}")


if __name__ == "__main__":
    main()
