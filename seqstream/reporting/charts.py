"""The charts of the page, each drawn by matplotlib from the data of one section."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from seqstream.reporting.epoch_steps import Composition, LabelEffect, StepSection
from seqstream.reporting.fixed_lengths import PackSection, ShapeSection
from seqstream.reporting.lengths import LengthSection
from seqstream.reporting.mixture_shares import MixtureSection
from seqstream.reporting.padding_curves import GREEDY, GROUPED, OURS, RANDOM, WAYS, PaddingPoint
from seqstream.reporting.stragglers import Straggling
from seqstream.reporting.svg import (
    BOLD,
    COLOURS,
    PERCENT,
    SHORT,
    draw,
    label_ends,
    log_axis,
    log_lengths,
    mark,
    ring,
    write_above,
)
from seqstream.reporting.wording import percent

CATEGORIES = (1, 6, 0, 4, 2, 5, 7, 3)
"""Colours of sources, so that neighbours differ."""


def draw_lengths(section: LengthSection) -> str:
    """Draw the share of rows and of tokens by length."""

    def plot(axes: Axes) -> None:
        edges = [each.low for each in section.bins] + [section.bins[-1].high + 1]
        for values, colour in (
            ([each.rows for each in section.bins], "ours"),
            ([each.tokens for each in section.bins], "other"),
        ):
            axes.stairs(values, edges, fill=True, color=COLOURS[colour], alpha=0.22)
            axes.stairs(values, edges, color=COLOURS[colour], linewidth=2)
        axes.set_ylim(0, 1.06 * max(max(each.rows, each.tokens) for each in section.bins))
        log_lengths(axes, edges[0], edges[-1])
        axes.yaxis.set_major_formatter(PERCENT)
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
            ring(axes, max_tokens, point.padding)
        axes.set_ylim(-0.04, 1.08 * max(point.padding for point in points) + 0.02)
        log_axis(axes, budgets)
        axes.set_xlim(budgets[0] * 0.8, budgets[-1] * max(4.0, budgets[-1] / budgets[0]) ** 0.62)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("budget of a batch, in tokens")
        label_ends(axes, budgets[-1], ends)

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
            write_above(axes, at, point.padding, percent(point.padding))
        axes.set_ylim(0, 1.35 * max(point.padding for point in ours) + 0.001)
        log_axis(axes, windows)
        axes.set_xlim(windows[0] * 0.7, windows[-1] * 1.4)
        axes.yaxis.set_major_formatter(PERCENT)
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
            axes.yaxis.set_major_formatter(SHORT)
            axes.yaxis.set_major_locator(MaxNLocator(4))

        return plot

    return (
        draw("steps", "Padded length of each batch of seqstream", bars(section.lengths, "ours"), 190, 52),
        draw("random-steps", "Padded length of each batch of random rows", bars(section.random_lengths, "pad"), 190, 52),
    )


def draw_composition(name: str, section: Composition, *, is_ordered: bool = False) -> str:
    """Draw the share of each part in any 16 consecutive batches; ordered parts have colours in order."""

    def plot(axes: Axes) -> None:
        columns = list(zip(*section.shares, strict=True))
        last = max(1, len(columns) - 1)
        order = [7 * number // last for number in range(len(columns))] if is_ordered else CATEGORIES
        colours = [COLOURS[f"part{order[number % len(order)]}"] for number in range(len(columns))]
        axes.stackplot(range(len(section.shares)), columns, colors=colours, linewidth=0)
        axes.set_xlim(0, len(section.shares) - 1)
        axes.set_ylim(0, 1)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(NullLocator())
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("from the first 16 batches of the window to the last")

    return draw(name, "Composition of any 16 consecutive batches", plot, 180)


def draw_effects(effects: Sequence[LabelEffect]) -> str:
    """Draw the design effect of the classes of steps of several batches."""

    def plot(axes: Axes) -> None:
        values = [each.effect for each in effects]
        for shift, name, colour in ((-0.2, "effect", "pad"), (0.2, "balanced", "ours")):
            own = [getattr(each, name) for each in effects]
            bars = axes.bar([at + shift for at in range(len(own))], own, width=0.36, color=COLOURS[colour])
            axes.bar_label(bars, [f"{value:.2f}" for value in own], padding=2, fontsize=11)
        axes.set_xticks(range(len(effects)), [str(each.batches) for each in effects])
        axes.axhline(1, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.22 * max(1.0, *values))
        axes.set_xlabel("batches of an optimiser step")

    return draw("effects", "Design effect of the classes by batches of a step", plot)


def draw_shapes(section: ShapeSection) -> str:
    """Draw padding against the number of shapes."""

    def plot(axes: Axes) -> None:
        numbers = [choice.num_shapes for choice in section.choices]
        axes.plot(numbers, [choice.padding for choice in section.choices], "o-", color=COLOURS["ours"], markersize=5)
        mark(axes, section.best.num_shapes, section.best.padding, f"{section.best.num_shapes}: {percent(section.best.padding)}")
        axes.set_ylim(0, 1.1 * section.choices[0].padding + 0.01)
        axes.set_xticks(numbers)
        axes.yaxis.set_major_formatter(PERCENT)
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
        log_axis(axes, lengths)
        spread = max(4.0, lengths[-1] / lengths[0])
        axes.set_xlim(lengths[0] * 0.8, lengths[-1] * spread**0.35)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("slots of a packed row")
        label_ends(axes, lengths[-1], ends)

    return draw("packing", "Fill of packed rows against their length", plot)


def draw_ranks(ranks: Sequence[Straggling]) -> str:
    """Draw how much longer a run takes because ranks wait, for two models and two ways."""

    def plot(axes: Axes) -> None:
        many = [each for each in ranks if each.world_size > 1]
        groups = [(each.world_size, model) for model in ("rnn", "transformer") for each in many]
        for shift, prefix, colour in ((-0.2, "", "ours"), (0.2, "random_", "pad")):
            values = [getattr(each, prefix + model) for model in ("rnn", "transformer") for each in many]
            bars = axes.bar([at + shift for at in range(len(groups))], values, width=0.36, color=COLOURS[colour])
            axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=11)
        axes.axhline(1, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        names = {"rnn": "RNN", "transformer": "transformer"}
        axes.set_xticks(range(len(groups)), [f"{names[model]}\n{size} ranks" for size, model in groups], fontsize=12)
        axes.set_ylim(0, 1.16 * max(each.random_transformer for each in ranks) + 0.05)

    return draw("ranks", "Straggler factors of an RNN and of a transformer", plot, 250)


def draw_shares(section: MixtureSection) -> str:
    """Draw the share that each source is asked for and gives."""

    def plot(axes: Axes) -> None:
        at = range(len(section.sources))
        axes.barh([each + 0.19 for each in at], [each.asked for each in section.sources], 0.34, color=COLOURS["pad"])
        bars = axes.barh([each - 0.19 for each in at], [each.given for each in section.sources], 0.34, color=COLOURS["ours"])
        axes.bar_label(bars, [f"{each.given:.1%}" for each in section.sources], padding=3, **BOLD)
        axes.set_yticks(list(at), [_cut(each.name) for each in section.sources])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_xlim(0, 1.2 * max(max(each.asked, each.given) for each in section.sources))

    return draw("shares", "Share of each source asked and given", plot, 70 + 38 * len(section.sources), 120)


def draw_epochs(section: MixtureSection) -> str:
    """Draw how often each source is read, against the tokens of a run."""

    def plot(axes: Axes) -> None:
        ends = []
        for number, source in enumerate(section.sources):
            colour = f"part{CATEGORIES[number % 8]}"
            axes.plot(section.run_tokens, source.epochs, "o-", color=COLOURS[colour], markersize=4)
            ends.append((source.epochs[-1], _cut(source.name), colour))
        axes.set_yscale("log")
        axes.axhline(4, color=COLOURS["ink"], linewidth=1.2, linestyle=(0, (4, 3)))
        log_axis(axes, list(section.run_tokens))
        axes.set_xlim(section.run_tokens[0] * 0.85, section.run_tokens[-1] * 6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("tokens of a run")
        axes.set_ylabel("epochs of the source")
        label_ends(axes, section.run_tokens[-1], ends)

    return draw("epochs", "Epochs of each source against the tokens of a run", plot, 260, 62)


def _cut(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
