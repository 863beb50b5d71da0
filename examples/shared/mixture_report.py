"""The log, the tables and the plot of `mixture.py`: loss and share of the tokens, by source."""

import itertools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Schedule = Sequence[tuple[int, dict[str, float]]]
"""Numbers of tokens, ascending from 0, and the weights of the sources from each of them on."""


class Log:
    """Tokens and losses of each of ``S`` sources after each step, of all ranks.

    Args:
        schedule: What each source should give.

    Attributes:
        names: Names of the sources.
        totals: ``float64 (3, S)`` after each number of steps, from 0 on: tokens, label tokens, and the sum of their losses.
        windows: The window of each step.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.names = [*schedule[0][1]]
        self.totals: list[Any] = [np.zeros((3, len(self.names)))]
        self.windows: list[int] = []

    def add(self, window: int, counts: Any) -> None:
        """Add a step: its window, and its own tokens, label tokens and losses, ``float64 (3, S)``."""
        self.windows.append(window)
        self.totals.append(self.totals[-1] + counts)

    @property
    def window_ends(self) -> list[int]:
        """Numbers of steps after which a window is complete, 0 among them."""
        following = [*self.windows, None]
        return [0, *(step for step, (one, other) in enumerate(itertools.pairwise(following), 1) if one != other)]

    def asked(self, tokens: float) -> Any:
        """Return the tokens that each source should give among the first ``tokens`` of all, ``float64 (S,)``."""
        found = np.zeros(len(self.names))
        for (begin, weights), (end, _) in itertools.pairwise([*self.schedule, (np.inf, {})]):
            shares = np.array([*weights.values()]) / sum(weights.values())
            found += shares * max(0.0, min(tokens, end) - begin)
        return found


def print_progress(log: Log, num_steps: int) -> None:
    """Print the shares and the losses by source of the last steps."""
    tokens, labels, losses = log.totals[-1] - log.totals[-1 - num_steps]
    parts = zip(log.names, tokens / tokens.sum(), losses / np.maximum(labels, 1), strict=True)
    shown = "".join(f"    {name} {share:5.1%} loss {loss:.2f}" for name, share, loss in parts)
    print(f"{log.totals[-1][0].sum():9,.0f} tokens{shown}", flush=True)


def compare_shares(log: Log, longest: int) -> bool:
    """Print what was asked for and what was given; return whether no source is further off than the longest row."""
    print(f"\n{'tokens':22}" + "".join(f"{name:>30}" for name in log.names))
    given = [log.totals[step][0] for step in log.window_ends]
    changes = [min(given, key=lambda tokens, point=point: abs(tokens.sum() - point)) for point, _ in log.schedule]
    for before, after in itertools.pairwise([*changes, given[-1]]):
        first, last = before.sum(), after.sum()
        pairs = zip(log.asked(last) - log.asked(first), after - before, strict=True)
        shares = [f"asked {asked / (last - first):.2%}, given {got / (last - first):.2%}" for asked, got in pairs]
        print(f"{f'{first:,.0f} to {last:,.0f}':22}" + "".join(f"{share:>30}" for share in shares))
    worst = max(float(abs(tokens - log.asked(tokens.sum())).max()) for tokens in given)
    print(
        f"at the end of each of {len(given) - 1} windows, every source has given what was asked for, "
        f"but for at most {worst:.0f} tokens; the longest row has {longest}"
    )
    return worst <= longest


def plot(log: Log, path: Path, every: int) -> str:
    """Draw loss and share by source against tokens if matplotlib is installed, and return a line with the path."""
    if not find_spec("matplotlib"):
        return "no plot: matplotlib is not installed"
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    totals = np.array(log.totals)[sorted({*range(0, len(log.totals), every), len(log.totals) - 1})]
    served, counts = totals[1:, 0].sum(axis=1), np.diff(totals, axis=0)
    edges, weights = [*(point for point, _ in log.schedule), served[-1]], [weights for _, weights in log.schedule]
    for number, (name, color) in enumerate(zip(log.names, ("#1f6fb4", "#d1495b", "#3a9d5d"), strict=True)):
        tokens, labels, losses = counts[:, :, number].T
        asked = [each[name] / sum(each.values()) for each in (*weights, weights[-1])]
        upper.plot(served, losses / np.maximum(labels, 1), color=color, linewidth=2, label=name)
        lower.plot(served, tokens / counts[:, 0].sum(axis=1), "o", color=color, markersize=4)
        lower.plot(edges, asked, "--", color=color, drawstyle="steps-post")
    upper.set(ylabel="loss of a label token")
    lower.set(xlabel="tokens of all sources", ylabel="share: asked for (lines), given (dots)")
    lower.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
    lower.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", frameon=False, ncols=3)
    figure.savefig(path, dpi=150)
    return f"plot: {path.resolve()}"
