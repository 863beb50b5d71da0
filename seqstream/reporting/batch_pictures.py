"""Batches drawn as boxes, to scale: the area of a box is what a model computes, and what is not blue in it is padding."""

from __future__ import annotations

from seqstream.reporting.drawn_batches import DrawnBatch, DrawnSection, DrawnWay

LINE = 1000
"""Width of a line of boxes, in units of the picture."""

_GAP = 5
_LINES = 3
"""Lines that random batches take."""

_HEIGHTS = (46, 96)
"""Least and greatest height of a box."""


def draw_ways(section: DrawnSection) -> list[str]:
    """Return a picture of the batches of each way, all to the same scale."""
    most = max(way.slots for way in section.ways)
    widest = max(batch.rows * batch.width for way in section.ways for batch in way.batches)
    height = min(_HEIGHTS[1], max(_HEIGHTS[0], _HEIGHTS[1] * most / widest / 6))
    scale = min(_LINES * (LINE - 3 * _GAP) * height / most, LINE * height / widest)
    return [_draw(way, scale, height) for way in section.ways]


def _draw(way: DrawnWay, scale: float, height: float) -> str:
    """Return the batches of one way, from left to right in lines.

    Args:
        way: The batches.
        scale: Area of a slot.
        height: Height of a box.
    """
    left, top, shapes = 0.0, 0.0, []
    for batch in way.batches:
        width = batch.rows * batch.width * scale / height
        if left and left + width > LINE + 0.5:
            left, top = 0.0, top + height + _GAP
        shapes.append(_box(batch, left, top, width, height))
        left += width + _GAP
    label = f"{way.name}: {way.padding:.1%} of {way.slots:,} slots is padding"
    box = f'viewBox="0 0 {LINE} {top + height:.0f}"'
    return f'<svg class="batches" role="img" aria-label="{label}" {box}>{"".join(shapes)}</svg>'


def _box(batch: DrawnBatch, left: float, top: float, width: float, height: float) -> str:
    """Return a grey box, and in it the outline of the real tokens, a row below the other."""
    y, path = top, f"M{left:.1f} {top:.1f}"
    for rows, share in batch.outline:
        y += rows / batch.rows * height
        path += f"H{left + share * width:.1f}V{y:.1f}"
    title = f"{batch.rows:,} rows x {batch.width:,} slots, {batch.tokens:,} tokens"
    grey = f'<rect class="pad" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    return f'<g><title>{title}</title>{grey}<path class="real" d="{path}H{left:.1f}Z"/></g>'
