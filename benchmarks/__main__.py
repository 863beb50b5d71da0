"""Run the benchmarks, all or some: ``python -m benchmarks [NAME ...]``.

Each benchmark compares seqstream with other ways in the same run, and states the ratio that it must reach.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness.printing import machine_lines, summary, table_of
from benchmarks.harness.records import Record, machine, write_lines
from benchmarks.harness.settings import QUICK, Settings

NAMES = (
    "imports",
    "throughput",
    "first_batch",
    "resume",
    "collation",
    "views",
    "waste",
    "mixing",
    "mixture",
    "tokens",
    "source_order",
    "packing",
    "equal_cost",
    "shapes",
    "remote",
    "predict",
    "memory",
    "ranks",
    "elastic",
    "workers",
    "truth",
    "device",
    "lstm",
)
KEPT = Path(__file__).parent / "results"
WIDTH = 150  # if there is no terminal
PASSING = Path(__file__).parent.parent / "runs"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(NAMES)}; by default all.")] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="File of JSON lines; by default benchmarks/results/DATE.jsonl, or in runs/ if not all is measured."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Measure little of everything; the numbers mean little.")] = False,
) -> None:
    """Measure seqstream and other ways; write one JSON object for each measurement, and print a table."""
    for name in names or ():
        if name not in NAMES:
            raise typer.BadParameter(f"benchmark must be one of {', '.join(NAMES)}, got {name!r}")
    today = f"{datetime.datetime.now(datetime.UTC).date()}.jsonl"
    path = json or (PASSING if names or quick else KEPT) / today
    about = machine()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(machine_lines(about), highlight=False)
    records: list[Record] = []
    for name in names or NAMES:
        found = list(_shown(name, QUICK if quick else Settings(), console))
        console.print(table_of(name, found))
        records += found
        write_lines(path, [{"machine": about, "quick": quick}, *(record.to_json() for record in records)])
    console.print(f"{summary(records)}\nwritten to {path}", highlight=False)


def _shown(name: str, settings: Settings, console: Console) -> Iterator[Record]:
    """Measure, and show what is being measured."""
    with console.status(name) as status:
        shown_settings = dataclasses.replace(settings, show_progress=lambda what: status.update(f"{name}: {what}"))
        measuring: Any = importlib.import_module(f"benchmarks.{name}")
        yield from measuring.measure(shown_settings)


if __name__ == "__main__":
    app()
