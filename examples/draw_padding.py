"""Draw the picture of the README: the same docstrings in random batches and in batches of similar lengths, padding in grey.

`python examples/draw_padding.py examples/padding.svg` writes it there, by default to ``padding.svg`` in the current folder.
Each line is a row, each box a batch, and all of it is to scale. The picture is small and needs no font of its own; its colours
follow the reader's light or dark theme.
"""

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path

from shared.corpus import docstring_texts, tokenizer

import seqstream as ss

NUM_ROWS, MAX_LENGTH = 96, 256
SIZE = 720, 482
TOP, PITCH, GAP, SCALE = 102, 3, 5, 1.25  # where batches begin; height of a row; space between batches; width of a token
PANELS = 30, 370  # where the left and the right half begin

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 21px; fill: #57606a }
.head { font-size: 27px; font-weight: 600; fill: #1f2328 }
.card { fill: #ffffff; stroke: #d0d7de }
.pad { fill: #cfd5dc }
.real { stroke: #1f78d1; fill: none }
.key { fill: #1f78d1 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 }
.head { fill: #f0f6fc }
.card { fill: #0d1117; stroke: #3d444d }
.pad { fill: #424a53 }
.real { stroke: #4a9eff }
.key { fill: #4a9eff }
}
"""


def padding(batches: Sequence[ss.Batch]) -> float:
    """Return the share of the slots that is padding."""
    return 1 - sum(batch.num_tokens for batch in batches) / sum(batch.num_slots for batch in batches)


def draw_batches(batches: Sequence[ss.Batch], left: int) -> str:
    """Return a grey box for each batch, and on it a line for the real tokens of each row."""
    shapes, top = [], TOP
    for batch in batches:
        rows, length = batch.input_ids.shape
        shapes.append(f'<rect class="pad" x="{left}" y="{top}" width="{length * SCALE:g}" height="{rows * PITCH}"/>')
        ends = (left + length * SCALE for length in batch.lengths.tolist())
        lines = "".join(f"M{left} {top + PITCH * (row + 0.5):g}H{end:g}" for row, end in enumerate(ends))
        shapes.append(f'<path class="real" stroke-width="{PITCH - 0.6:g}" d="{lines}"/>')
        top += rows * PITCH + GAP
    return "\n".join(shapes)


def draw(random: Sequence[ss.Batch], similar: Sequence[ss.Batch], about: str) -> str:
    """Return the picture as SVG."""
    width, height = SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{NUM_ROWS} texts: {padding(random):.0%} padding at random, {padding(similar):.0%} of similar lengths</title>",
        f"<desc>{about}</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="14"/>',
    ]
    for left, name, batches in zip(PANELS, ("Random batches", "Similar lengths"), (random, similar), strict=True):
        parts.append(f'<text class="head" x="{left}" y="46">{name}</text>')
        parts.append(f'<text x="{left}" y="82"><tspan class="head">{padding(batches):.0%}</tspan> padding</text>')
        parts.append(draw_batches(batches, left))
    key = height - 36
    parts.append(f'<rect class="key" x="30" y="{key}" width="16" height="16"/><text x="54" y="{key + 15}">tokens</text>')
    parts.append(f'<rect class="pad" x="136" y="{key}" width="16" height="16"/><text x="160" y="{key + 15}">padding</text>')
    parts.append(f'<text x="{PANELS[1]}" y="{key + 15}">the same {NUM_ROWS} texts, to scale</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Batch the first docstrings in both ways, draw them and print how much padding they have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, nargs="?", default="padding.svg", help="where the picture goes")
    path = parser.parse_args().path
    texts = docstring_texts().read_text(encoding="utf-8").splitlines()[:NUM_ROWS]  # in a random order
    stages = ss.Generator(texts), ss.Tokenize(tokenizer(), max_length=MAX_LENGTH)
    random, similar = (list(ss.Loader(*stages, spec, shuffle=False)) for spec in (ss.Unbucketed(12), ss.Bucket(1_024)))
    inputs = zlib.crc32(tokenizer().read_bytes() + "\n".join(texts).encode())
    path.write_text(draw(random, similar, f"{docstring_texts().stem}, inputs {inputs:08x}"), encoding="utf-8")
    print(f"{NUM_ROWS} docstrings: {len(random)} random batches, {padding(random):.1%} padding")
    print(f"the same in {len(similar)} batches of similar lengths: {padding(similar):.1%} padding")
    print(f"picture: {path.resolve()}")


if __name__ == "__main__":
    main()
