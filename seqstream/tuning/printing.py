"""Prints reports and previews, to a terminal of any width or to a file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqstream.planning.bucket import Bucket
from seqstream.tuning.distribution import Bin, Distribution
from seqstream.tuning.planned_epoch import Setting
from seqstream.tuning.preview import Preview
from seqstream.tuning.report import Report

_MAX_BAR = 20
_LABELS_WIDTH = 40
_WIDE = 60


def print_report(report: Report, console: Console) -> None:
    """Print the lengths of a corpus, a table of the settings, and the recommended loader."""
    is_unicode = console.encoding.startswith("utf")
    bar = ("█" if is_unicode else "#") * max(0, min(_MAX_BAR, (console.width - _LABELS_WIDTH) // 2))
    console.print(_counts(report))
    console.print(_heading("Tokens of a row"))
    console.print(_lengths(report.distribution))
    console.print(_histogram(merge_bins(report.distribution.bins, report.max_length or report.distribution.longest), bar))
    console.print(_heading("An epoch of batches"))
    console.print(_settings(report.settings, report.best, "◀" if is_unicode else "<", gap=2 if console.width >= _WIDE else 1))
    console.print(Text("random: batches of the same size, of shuffled rows of any length", style="dim"))
    if report.measured_tokens:
        tokens = short_number(report.measured_tokens)
        console.print(Text(f"tokens/s: real tokens a second that a loader gives, measured on {tokens} tokens", style="dim"))
    best = f"max_tokens={report.best.max_tokens:,}"
    console.print(_heading(f"Recommended: {best}"))
    for sentence in (report.reason, *report.advice):
        console.print(Text(f"{sentence[0].upper()}{sentence[1:]}.\n"))
    for code in filter(None, (report.code, report.packed_code)):
        console.print(Text(f"{code}\n", style="cyan"), soft_wrap=True)  # code to paste keeps its lines


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _counts(report: Report) -> Text:
    survey = report.survey
    parts = [f"{survey.records:,} records", f"{report.distribution.rows:,} rows", f"{survey.tokens:,} tokens"]
    parts += [f"{survey.empty:,} empty"] if survey.empty else []
    if report.too_long:
        done = {"truncate": "truncated to", "split": "split at", "drop": "dropped above", "error": "above"}
        parts.append(f"{report.too_long:,} rows {done[report.limit.overflow]} {report.max_length:,}")
    read = "" if survey.is_whole else "the first "
    speed = "" if survey.tokens_per_second is None else f" at {short_number(survey.tokens_per_second)} tokens/s"
    return Text(f"{read}{', '.join(parts)}\ntokenised by {survey.engine}{speed}")


def _lengths(lengths: Distribution) -> Text:
    percentiles = "".join(f"  p{name} {value:,}" for name, value in lengths.percentiles.items())
    longer = ", ".join(f"{limit:,}: {share:.1%}" for limit, share in lengths.over.items())
    longer = f"\nlonger than {longer}" if longer else ""
    return Text(f"mean {lengths.mean:,.1f}{percentiles}  max {lengths.longest:,}{longer}\n")


def _histogram(bins: Sequence[Bin], bar: str) -> Table:
    rows, tokens = sum(each.rows for each in bins), sum(each.tokens for each in bins)
    table = _table("tokens", "rows", "", "of all tokens", "")
    for column in (2, 4):
        table.columns[column].justify = "left"
    for each in bins:
        label = f"{each.low:,}" if each.low == each.high else f"{each.low:,}-{each.high:,}"
        shares = each.rows / rows, each.tokens / tokens
        table.add_row(label, *(cell for share in shares for cell in (f"{share:.1%}", bar[: round(share * len(bar))])))
    return table


def merge_bins(bins: Sequence[Bin], limit: int) -> list[Bin]:
    """Return the bins, those above a limit merged into one."""
    kept = [each for each in bins if each.low <= limit]
    over = bins[len(kept) :]
    merged = Bin(over[0].low, over[-1].high, sum(e.rows for e in over), sum(e.tokens for e in over)) if over else None
    return [*kept, merged] if merged else kept


def _settings(settings: Sequence[Setting], best: Setting, mark: str, gap: int) -> Table:
    table = _table("max_tokens", "window", "batches", "rows", "padding", "tokens/s", "", gap=gap)
    previous = None
    for setting in settings:
        budget = "" if setting.max_tokens == previous else f"{setting.max_tokens:,}"
        previous = setting.max_tokens
        is_bucket = isinstance(setting.spec, Bucket)
        window = f"{setting.spec.window_batches:,}" if is_bucket else "random"
        speed = "" if setting.tokens_per_second is None else f"{short_number(setting.tokens_per_second)}"
        cells = [
            budget,
            window,
            f"{setting.batches:,}",
            f"{setting.rows:,.{int(setting.rows < 10)}f}",
            f"{setting.padding:.2%}",
            speed,
        ]
        style = "bold green" if setting is best else "" if is_bucket else "dim"
        table.add_row(*cells, mark if setting is best else "", style=style)
    return table


def print_preview(preview: Preview, number: int, console: Console) -> None:
    """Print the size of a batch on one line, and then one line for each decoded row, cut to the terminal's width."""
    size = f"{preview.rows:,} rows x {preview.width:,} = {preview.rows * preview.width:,} slots"
    console.print(Text(f"Batch {number}: {size}, {preview.tokens:,} tokens, {preview.padding:.2%} padding", style="bold"))
    locations = [_cut_left(row.location, console.width // 3) for row in preview.shown]
    width = max(map(len, locations))
    for row, location in zip(preview.shown, locations, strict=True):
        line = Text(f"{row.tokens:>7,}  ")
        line.append(location.ljust(width), style="dim").append(f"  {_one_line(row.text[: console.width])}")
        console.print(line, no_wrap=True, overflow="ellipsis")
    if preview.rows > len(preview.shown):
        console.print(Text(f"         and {preview.rows - len(preview.shown):,} more rows", style="dim"))


def _cut_left(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def short_number(number: float) -> str:
    """Return a number with two or three digits and a unit, such as 3.4M or 560k."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.{1 if number < 10 * unit else 0}f}{name}"
    return f"{number:.0f}"


def _one_line(text: str) -> str:
    r"""Return the text with all invisible characters escaped: a line break as ``\n``, an escape as ``\x1b``."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _table(*names: str, gap: int = 2) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
