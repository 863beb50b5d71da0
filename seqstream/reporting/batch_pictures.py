"""Batches drawn as boxes, to scale: the area of a box is what a model computes, and what is not blue in it is padding."""

from __future__ import annotations

from collections.abc import Sequence

from seqstream.reporting.drawn_batches import DrawnBatch, DrawnSection, DrawnWay

LINE = 1000
"""Width of a line of boxes, in units of the picture."""

_GAP = 5
_HEIGHT = 84
"""Height of a box."""

_STEPS = 40


def draw_ways(section: DrawnSection) -> list[str]:
    """Return a picture of the batches of each way, all to the same scale."""
    random, *others = section.ways
    few = random.slots < 2 * min(way.slots for way in others)
    scale = largest_scale([batch.rows * batch.width for batch in random.batches], num_lines=2 if few else 3)
    return [_draw(way, scale, _HEIGHT) for way in section.ways]


def largest_scale(slots: Sequence[int], num_lines: int) -> float:
    """Return the largest area of a slot with which boxes, one after the other, take a number of lines.

    Args:
        slots: Slots of each box, in its order.
        num_lines: Most lines.
    """
    low, high = 0.0, LINE * _HEIGHT / max(slots)
    for _ in range(_STEPS):
        middle = (low + high) / 2 if low else high / 2
        low, high = (middle, high) if _num_lines(slots, middle) <= num_lines else (low, middle)
    return high if _num_lines(slots, high) <= num_lines else low


def _num_lines(slots: Sequence[int], scale: float) -> int:
    lines, left = 1, 0.0
    for each in slots:
        width = each * scale / _HEIGHT
        if left and left + width > LINE + 0.5:
            lines, left = lines + 1, 0.0
        left += width + _GAP
    return lines


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
