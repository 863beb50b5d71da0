"""The table and the plot of `train_lstm.py`, which compare two trainings."""

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SPREAD = 2.6
"""Standard deviation of the test accuracy over seeds, in points, after half an epoch: ``python -m benchmarks lstm``, which
gives standard errors of means of five."""


class Checkpoint(NamedTuple):
    """Test accuracy and loss of a model after a number of real tokens and seconds of training."""

    tokens: int
    seconds: float
    accuracy: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its checkpoints, equally far apart in tokens, and the share of the slots that is padding."""

    name: str
    checkpoints: Sequence[Checkpoint]
    padding: float

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second."""
        return self.checkpoints[-1].tokens / self.checkpoints[-1].seconds

    def by(self, seconds: float) -> Checkpoint:
        """Return the last checkpoint within a time, at least the first."""
        reached = sum(point.seconds <= seconds for point in self.checkpoints)
        return self.checkpoints[max(reached, 1) - 1]


def report(random: Run, similar: Run, *, tokens_per_epoch: int) -> str:
    """Return a table of both runs, and a summary in three lines."""
    runs = random, similar
    shared = min(len(run.checkpoints) for run in runs) - 1
    tokens, seconds = random.checkpoints[shared].tokens, random.checkpoints[-1].seconds
    equal_tokens, equal_time = [run.checkpoints[shared] for run in runs], [run.by(seconds) for run in runs]
    by_tokens, by_time = ([f"{point.accuracy:.1%}" for point in points] for points in (equal_tokens, equal_time))
    padding = [f"{run.padding:.1%}" for run in runs]
    rows = [
        ("", *(run.name for run in runs)),
        ("padding", *padding),
        ("real tokens a second", *(f"{run.tokens_per_second:,.0f}" for run in runs)),
        ("seconds an epoch", *(f"{tokens_per_epoch / run.tokens_per_second:.1f}" for run in runs)),
        (f"test accuracy after {tokens:,} tokens", *by_tokens),
        (f"test loss after {tokens:,} tokens", *(f"{point.loss:.3f}" for point in equal_tokens)),
        (f"test accuracy after {seconds:.1f} seconds", *by_time),
        (f"test loss after {seconds:.1f} seconds", *(f"{point.loss:.3f}" for point in equal_time)),
    ]
    ratio = similar.tokens_per_second / random.tokens_per_second
    table = "\n".join(f"{name:38}{one:>22}{other:>18}" for name, one, other in rows)
    return f"""
{table}

Similar lengths: {ratio:.1f} times as many real tokens a second; {padding[1]} padding instead of {padding[0]}.
Test accuracy: after equal tokens {by_tokens[1]} (random {by_tokens[0]}), after equal time {by_time[1]} (random {by_time[0]}).
One run is one seed: others differ by {SPREAD:.1f} points (standard deviation), and so a difference by {2**0.5 * SPREAD:.1f}."""


def plot(runs: Sequence[Run], path: Path) -> str:
    """Draw accuracy against time if matplotlib is installed, and return a line with the path."""
    if not find_spec("matplotlib"):
        return "no plot: matplotlib is not installed"
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run, color in zip(runs, ("#9a9a9a", "#1f6fb4"), strict=True):
        _, seconds, accuracies, _ = zip(*run.checkpoints, strict=True)
        label = f"{run.name}: {run.tokens_per_second:,.0f} real tokens a second, {run.padding:.0%} padding"
        axes.plot(seconds, accuracies, "o-", color=color, linewidth=2, markersize=4, label=label)
    axes.set(xlabel="seconds of training", ylabel="test accuracy")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", frameon=False)
    figure.savefig(path, dpi=150)
    return f"plot: {path.resolve()}"
