"""Charts as SVG: text stays text, and colours are variables of the page, light or dark."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from seqstream.reporting.wording import whole
from seqstream.tuning.printing import short_number

WIDTH = 400
"""Width of a chart in its own units; text is 13 of them, so it can be read where a chart is 320 pixels wide."""

_RIGHT, _BELOW, _ABOVE = 18, 44, 10
"""Margins of a chart."""

_MOST_TICKS = 5

COLOURS = {
    "ink": "#010203",
    "muted": "#040506",
    "line": "#070809",
    "ours": "#0a0b0c",
    "other": "#0d0e0f",
    "pad": "#101112",
    **{f"part{number}": f"#2021{number:02x}" for number in range(8)},
}
"""Colours that stand for variables of the page."""

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 13,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "ytick.major.size": 0,
    "xtick.major.size": 3,
}

BOLD: dict[str, Any] = {"fontsize": 13, "fontweight": "bold"}


def draw(name: str, title: str, plot: Callable[[Axes], None], height: int = 230, left: int = 48) -> str:
    """Return a chart as SVG that can stand in a page.

    Args:
        name: Prefix of the ids in it.
        title: What it shows, for those who cannot see it.
        plot: Draws into axes.
        height: Height in units of which `WIDTH` is the width.
        left: Width of the labels on the left.
    """
    with mpl.rc_context(_RC | {"svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        box = (left / WIDTH, _BELOW / height, (WIDTH - left - _RIGHT) / WIDTH, (height - _BELOW - _ABOVE) / height)
        axes = figure.add_axes(box)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        plot(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return clean(file.getvalue(), name, title)


def clean(svg: str, name: str, title: str) -> str:
    """Return SVG without its header, with ids of its own, and with variables for colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]+"', svg)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    name_space = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = f'<svg {name_space} class="chart" role="img" aria-label="{label}" {box[0] if box else ""}>'
    return head + re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :]).strip()


PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.3g}%")
SHORT = FuncFormatter(lambda value, _: short_number(value) if value else "0")


def ring(axes: Axes, x: float, y: float) -> None:
    """Mark a point by a ring."""
    axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", color=COLOURS["ink"])


def mark(axes: Axes, x: float, y: float, text: str) -> None:
    """Mark a point by a ring, with a text above it."""
    ring(axes, x, y)
    write_above(axes, x, y, text)


def write_above(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a text above a point."""
    axes.annotate(text, (x, y), (0, 10), textcoords="offset points", ha="center", va="bottom", **BOLD)


def label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each line at its end, one above the other where they are near."""
    offsets = _spread([axes.transData.transform((x, value))[1] for value, _, _ in ends], 15)
    for (value, text, colour), offset in zip(ends, offsets, strict=True):
        axes.annotate(
            text,
            (x, value),
            (9, offset - axes.transData.transform((x, value))[1]),
            textcoords="offset points",
            va="center",
            color=COLOURS[colour] if colour != "pad" else COLOURS["muted"],
            **BOLD,
        )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Return places that are at least ``gap`` apart, in the same order, each as near to its own as that allows."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = list(places)
    for before, after in itertools.pairwise(order):
        found[after] = max(found[after], found[before] + gap)
    return found


def log_axis(axes: Axes, values: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with some values on it."""
    axes.set_xscale("log")
    shown = list(values) if len(values) < _MOST_TICKS else list(values)[::2]
    axes.set_xticks(shown, [whole(value) for value in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def log_lengths(axes: Axes, low: int, high: int) -> None:
    """Make the horizontal axis logarithmic, with powers of four on it."""
    base = 4 if high < 4**5 * low else 8 if high < 8**5 * low else 16
    powers = [base**power for power in range(16) if low <= base**power <= high] or [low]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(powers, [whole(power) for power in powers])
    axes.xaxis.set_minor_locator(NullLocator())
