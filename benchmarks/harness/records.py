"""A measurement, its target, and the machine of a run."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("seqstream", "torch", "numpy", "pyarrow", "tokenizers", "fastokens", "datasets", "transformers")


@dataclasses.dataclass(frozen=True)
class Target:
    """A bound: ``Target(">=", 50)``."""

    sign: str
    limit: float

    def __post_init__(self) -> None:
        if self.sign not in ("<=", ">="):
            raise ValueError(f'sign must be "<=" or ">=", got {self.sign!r}')

    def holds(self, value: float) -> bool:
        """Return whether a value keeps the bound; NaN does not."""
        return value <= self.limit if self.sign == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement.

    Attributes:
        benchmark: Name of the benchmark.
        corpus: Name of the corpus.
        what: What was measured.
        value: The value, in ``unit``.
        unit: Unit of the value.
        ratio: The value divided by that of ``ratio_to``, measured in the same run.
        ratio_to: ``what`` of the record that it is compared with.
        target: Bound of the ratio, or of the value if there is no ratio.
        error: Standard error of the value, if it is a mean over seeds.
    """

    benchmark: str
    corpus: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    ratio_to: str | None = None
    target: Target | None = None
    error: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; ``None`` if there is none."""
        if self.target is None:
            return None
        return self.target.holds(self.value if self.ratio is None else self.ratio)

    def against(self, other: Record, sign: str | None = None, limit: float = 0.0) -> Record:
        """Return the record with its ratio to another record, and a target for the ratio."""
        target = None if sign is None else Target(sign, limit)
        ratio = self.value / other.value if other.value else float("inf")
        return dataclasses.replace(self, ratio=ratio, ratio_to=other.what, target=target)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object for the file of results."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "target": self.target and str(self.target), "reached": self.reached}


def machine() -> dict[str, Any]:
    """Return the versions and the machine; ``load`` is the mean number of processes that needed a core in the last minute."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write JSON lines to a file, and replace its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
