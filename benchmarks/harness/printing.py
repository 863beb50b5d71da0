"""Prints measurements as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.harness.records import Record


def table_of(title: str, records: Sequence[Record]) -> Table:
    """Return the table of one benchmark, with measured values and targets."""
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in ("corpus", "what"):
        table.add_column(name, overflow="fold")
    for name in ("measured", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("to", overflow="fold")
    table.add_column("target", no_wrap=True)
    before = None
    for record in records:
        if record.corpus != before and before is not None:
            table.add_section()
        shown = "" if record.corpus == before else record.corpus
        before = record.corpus
        table.add_row(shown, record.what, _value(record), _ratio(record), record.ratio_to or "", _target(record))
    return table


def machine_lines(machine: dict[str, Any]) -> str:
    """Return the machine and the versions in two lines."""
    head = ("date", "cpu", "cores", "load", "system")
    about = f"{machine['date']}  {machine['cpu']}, {machine['cores']} cores, load {machine['load']}, {machine['system']}"
    return f"{about}\n{', '.join(f'{name} {value}' for name, value in machine.items() if name not in head)}"


def summary(records: Sequence[Record]) -> str:
    """Return a text that says how many targets are reached, and which are missed."""
    aimed = [record for record in records if record.target is not None]
    missed = [record for record in aimed if not record.reached]
    lines = (f"{_name(record)}: {_bound_value(record)}, {record.target}" for record in missed)
    return "\n".join([f"{len(aimed) - len(missed)} of {len(aimed)} targets reached", *(f"missed: {line}" for line in lines)])


def _name(record: Record) -> str:
    return ", ".join((record.benchmark, record.corpus, record.what))


def _bound_value(record: Record) -> str:
    return _value(record) if record.ratio is None else f"{_ratio(record)} of {record.ratio_to}"


def _value(record: Record) -> str:
    error = "" if record.error is None else f" ± {record.error:.2g}"
    if record.unit == "%":
        return f"{record.value:.2f}{error} %"
    return f"{digits(record.value)}{error} {record.unit}".rstrip()


def _ratio(record: Record) -> str:
    return "" if record.ratio is None else f"{digits(record.ratio)}x"


def digits(value: float) -> str:
    """Return a number with three digits, or as a whole number with commas."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _target(record: Record) -> Text:
    if record.target is None:
        return Text("")
    unit = "x" if record.ratio is not None else f" {record.unit}".rstrip()
    word, style = ("reached", "green") if record.reached else ("missed", "bold red")
    return Text(f"{record.target}{unit}, {word}", style=style)
