"""Charts as SVG: text stays text, and colours are those of the page, light or dark.

Every chart is drawn by matplotlib from the data of one section, and is read as well on a phone as on paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from seqstream.reporting.epoch_steps import Composition, LabelEffect, StepSection
from seqstream.reporting.fixed_lengths import PackSection, ShapeSection
from seqstream.reporting.lengths import LengthSection
from seqstream.reporting.mixture_shares import MixtureSection
from seqstream.reporting.padding_curves import GREEDY, GROUPED, OURS, RANDOM, WAYS, PaddingPoint
from seqstream.reporting.stragglers import Straggling
from seqstream.tuning.printing import short_number

WIDTH = 440
"""Width of a chart in its own units; text is 12 of them, so it can be read where a chart is 350 pixels wide."""

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

_RC = {
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 12,
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

_HALO: dict[str, Any] = {"fontsize": 12, "fontweight": "bold"}


def draw(name: str, title: str, plot: Callable[[Axes], None], height: int = 230) -> str:
    """Return a chart as SVG that can stand in a page.

    Args:
        name: Prefix of the ids in it.
        title: What it shows, for those who cannot see it.
        plot: Draws into axes.
        height: Height in units of which `WIDTH` is the width.
    """
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.add_subplot()
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
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" class="chart" role="img" aria-label="{label}" {box[0] if box else ""}>'
    return head + re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :]).strip()


def draw_lengths(section: LengthSection) -> str:
    """Draw the share of rows and of tokens by length."""

    def plot(axes: Axes) -> None:
        edges = [each.low for each in section.bins] + [section.bins[-1].high + 1]
        for values, colour, label in (
            ([each.rows for each in section.bins], "ours", "rows"),
            ([each.tokens for each in section.bins], "other", "tokens"),
        ):
            axes.stairs(values, edges, fill=True, color=COLOURS[colour], alpha=0.22)
            axes.stairs(values, edges, color=COLOURS[colour], linewidth=2)
            peak = max(range(len(values)), key=values.__getitem__)
            axes.text((edges[peak] * edges[peak + 1]) ** 0.5, values[peak] * 1.02, label, ha="center", va="bottom", **_HALO)
        axes.set_ylim(0, 1.18 * max(max(each.rows, each.tokens) for each in section.bins))
        _log_lengths(axes, edges[0], edges[-1])
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("tokens of a row")

    return draw("lengths", "Share of rows and of tokens by length", plot)


def draw_padding(points: Sequence[PaddingPoint], max_tokens: int, window: int | None) -> str:
    """Draw padding against the budget for each way of batching, with the recommended point."""
    colours = {RANDOM: "pad", GROUPED: "other", GREEDY: "part5", OURS: "ours"}

    def plot(axes: Axes) -> None:
        budgets = sorted({point.max_tokens for point in points})
        ends = []
        for way, colour in colours.items():
            best = [
                min(point.padding for point in points if point.way == way and point.max_tokens == budget) for budget in budgets
            ]
            axes.plot(budgets, best, "o-", color=COLOURS[colour], markersize=5)
            ends.append((best[-1], WAYS[way], colour))
        shown = [
            point for point in points if point.way == OURS and (point.max_tokens, point.window_batches) == (max_tokens, window)
        ]
        for point in shown:
            axes.plot([max_tokens], [point.padding], "o", markersize=13, markerfacecolor="none", color=COLOURS["ink"])
        axes.set_ylim(-0.04, 1.08 * max(point.padding for point in points) + 0.02)
        _log_axis(axes, budgets)
        axes.set_xlim(budgets[0] * 0.8, budgets[-1] * (budgets[-1] / budgets[0]) ** 0.55 * 1.2)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("budget of a batch, in tokens")
        _label_ends(axes, budgets[-1], ends)

    return draw("padding", "Padding against the budget, for four ways of batching", plot, 260)


def draw_windows(points: Sequence[PaddingPoint], max_tokens: int) -> str | None:
    """Draw padding against the window, for one budget; ``None`` where there is one window only."""
    ours = [point for point in points if point.way == OURS and point.max_tokens == max_tokens]
    if len(ours) < 2:
        return None

    def plot(axes: Axes) -> None:
        windows = [point.window_batches or 0 for point in ours]
        axes.plot(windows, [point.padding for point in ours], "o-", color=COLOURS["ours"], markersize=6)
        for at, point in zip(windows, ours, strict=True):
            axes.annotate(
                f"{point.padding:.1%}",
                (at, point.padding),
                (0, 9),
                textcoords="offset points",
                ha="center",
                va="bottom",
                **_HALO,
            )
        axes.set_ylim(0, 1.35 * max(point.padding for point in ours) + 0.001)
        _log_axis(axes, windows)
        axes.set_xlim(windows[0] * 0.7, windows[-1] * 1.4)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("batches planned together")

    return draw("windows", "Padding against the window", plot, 260)


def draw_steps(section: StepSection) -> tuple[str, str]:
    """Draw the padded length of each batch, of seqstream and of random rows."""
    top = 1.05 * max((*section.lengths, *section.random_lengths))

    def bars(lengths: Sequence[int], colour: str) -> Callable[[Axes], None]:
        def plot(axes: Axes) -> None:
            axes.stairs(lengths, fill=True, color=COLOURS[colour])
            axes.set_ylim(0, top)
            axes.set_xlim(0, len(lengths))
            axes.set_xlabel("batch")
            axes.set_ylabel("padded length")
            axes.yaxis.set_major_formatter(_short)
            axes.yaxis.set_major_locator(MaxNLocator(4))

        return plot

    return (
        draw("steps", "Padded length of each batch of seqstream", bars(section.lengths, "ours"), 190),
        draw("random-steps", "Padded length of each batch of random rows", bars(section.random_lengths, "pad"), 190),
    )


def draw_composition(name: str, section: Composition) -> str:
    """Draw the share of each part in any 16 consecutive batches."""

    def plot(axes: Axes) -> None:
        columns = list(zip(*section.shares, strict=True))
        colours = [COLOURS[f"part{number % 8}"] for number in range(len(columns))]
        axes.stackplot(range(len(section.shares)), columns, colors=colours, linewidth=0)
        axes.set_xlim(0, len(section.shares) - 1)
        axes.set_ylim(0, 1)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(NullLocator())
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("from the first 16 batches of the window to the last")

    return draw(name, "Composition of any 16 consecutive batches", plot, 190)


def draw_effects(effects: Sequence[LabelEffect]) -> str:
    """Draw the design effect of the classes of steps of several batches."""

    def plot(axes: Axes) -> None:
        values = [each.effect for each in effects]
        bars = axes.bar([str(each.batches) for each in effects], values, width=0.55, color=COLOURS["ours"])
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, **_HALO)
        axes.axhline(1, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.22 * max(1.0, *values))
        axes.set_xlabel("batches of an optimiser step")

    return draw("effects", "Design effect of the classes by batches of a step", plot)


def draw_shapes(section: ShapeSection) -> str:
    """Draw padding against the number of shapes."""

    def plot(axes: Axes) -> None:
        numbers = [choice.num_shapes for choice in section.choices]
        axes.plot(numbers, [choice.padding for choice in section.choices], "o-", color=COLOURS["ours"], markersize=5)
        _mark(axes, section.best.num_shapes, section.best.padding, f"{section.best.num_shapes}: {section.best.padding:.0%}")
        axes.set_ylim(0, 1.1 * section.choices[0].padding + 0.01)
        axes.set_xticks(numbers)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("number of shapes")

    return draw("shapes", "Padding against the number of fixed shapes", plot)


def draw_packing(section: PackSection) -> str:
    """Draw how full packed rows are, and how many sequences are split, against the length of a row."""

    def plot(axes: Axes) -> None:
        lengths = [each.row_length for each in section.fills]
        for values, colour in (
            ([each.fill for each in section.fills], "ours"),
            ([each.split for each in section.fills], "other"),
        ):
            axes.plot(lengths, values, "o-", color=COLOURS[colour], markersize=5)
        ends = [(section.fills[-1].fill, "filled", "ours"), (section.fills[-1].split, "split", "other")]
        axes.plot(
            [section.best.row_length], [section.best.fill], "o", markersize=13, markerfacecolor="none", color=COLOURS["ink"]
        )
        axes.set_ylim(-0.04, 1.12)
        _log_axis(axes, lengths)
        spread = max(4.0, lengths[-1] / lengths[0])
        axes.set_xlim(lengths[0] * 0.8, lengths[-1] * spread**0.3)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("slots of a packed row")
        _label_ends(axes, lengths[-1], ends)

    return draw("packing", "Fill of packed rows against their length", plot)


def draw_ranks(ranks: Sequence[Straggling]) -> str:
    """Draw how much longer a run takes because ranks wait, for two models and two ways."""

    def plot(axes: Axes) -> None:
        groups = [(each.world_size, model) for each in ranks for model in ("rnn", "transformer")]
        for shift, prefix, colour in ((-0.2, "", "ours"), (0.2, "random_", "pad")):
            values = [getattr(each, prefix + model) for each in ranks for size, model in groups if size == each.world_size]
            bars = axes.bar([at + shift for at in range(len(groups))], values, width=0.36, color=COLOURS[colour])
            axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=10.5)
        axes.axhline(1, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        names = {"rnn": "RNN", "transformer": "transf."}
        axes.set_xticks(range(len(groups)), [f"{names[model]}\n{_ranks(size)}" for size, model in groups], fontsize=11)
        axes.set_ylim(0, 1.16 * max(each.random_transformer for each in ranks) + 0.05)

    return draw("ranks", "Straggler factors of an RNN and of a transformer", plot, 250)


def draw_shares(section: MixtureSection) -> str:
    """Draw the share that each source is asked for and gives."""

    def plot(axes: Axes) -> None:
        at = range(len(section.sources))
        axes.barh([each + 0.19 for each in at], [each.asked for each in section.sources], 0.34, color=COLOURS["pad"])
        bars = axes.barh([each - 0.19 for each in at], [each.given for each in section.sources], 0.34, color=COLOURS["ours"])
        axes.bar_label(bars, [f"{each.given:.1%}" for each in section.sources], padding=3, **_HALO)
        axes.set_yticks(list(at), [_cut(each.name) for each in section.sources])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlim(0, 1.2 * max(max(each.asked, each.given) for each in section.sources))

    return draw("shares", "Share of each source asked and given", plot, 70 + 38 * len(section.sources))


def draw_epochs(section: MixtureSection) -> str:
    """Draw how often each source is read, against the tokens of a run."""

    def plot(axes: Axes) -> None:
        ends = []
        for number, source in enumerate(section.sources):
            colour = f"part{number % 8}"
            axes.plot(section.run_tokens, source.epochs, "o-", color=COLOURS[colour], markersize=4)
            ends.append((source.epochs[-1], _cut(source.name), colour))
        axes.set_yscale("log")
        axes.axhline(4, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        _log_axis(axes, list(section.run_tokens))
        axes.set_xlim(section.run_tokens[0] * 0.85, section.run_tokens[-1] * 3.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("tokens of a run")
        axes.set_ylabel("epochs of the source")
        _label_ends(axes, section.run_tokens[-1], ends)

    return draw("epochs", "Epochs of each source against the tokens of a run", plot, 260)


_percent = FuncFormatter(lambda value, _: f"{100 * value:.3g}%")
_short = FuncFormatter(lambda value, _: short_number(value) if value else "0")


def _ranks(size: int) -> str:
    return "1 rank" if size == 1 else f"{size} ranks"


def _cut(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _mark(axes: Axes, x: float, y: float, text: str) -> None:
    """Mark a point by a ring, with a text above it."""
    axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", color=COLOURS["ink"])
    axes.annotate(text, (x, y), (8, 10), textcoords="offset points", ha="left", va="bottom", **_HALO)


def _label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each line at its end, one above the other where they are near."""
    if axes.figure is not None:
        axes.figure.draw_without_rendering()  # so that places on the paper are known
    offsets = _spread([axes.transData.transform((x, value))[1] for value, _, _ in ends], 15)
    for (value, text, colour), offset in zip(ends, offsets, strict=True):
        axes.annotate(
            text,
            (x, value),
            (9, offset - axes.transData.transform((x, value))[1]),
            textcoords="offset points",
            va="center",
            color=COLOURS[colour] if colour != "pad" else COLOURS["muted"],
            **_HALO,
        )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Return places that are at least ``gap`` apart, in the same order, each as near to its own as that allows."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = list(places)
    for before, after in zip(order, order[1:], strict=False):
        found[after] = max(found[after], found[before] + gap)
    return found


def _log_axis(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(list(values), [short_number(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def _log_lengths(axes: Axes, low: int, high: int) -> None:
    powers = [4**power for power in range(16) if low <= 4**power <= high] or [low]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(powers, [short_number(power) for power in powers])
    axes.xaxis.set_minor_locator(NullLocator())
