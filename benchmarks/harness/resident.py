"""The resident memory of this process, and its peak."""

from __future__ import annotations

import sys
from pathlib import Path


def forget_peak() -> int:
    """Return the resident bytes, and reset the peak that the kernel keeps, if it can."""
    control = Path("/proc/self/clear_refs")
    if control.exists():
        control.write_text("5", encoding="ascii")
    return peak_bytes()


def peak_bytes() -> int:
    """Return the largest resident bytes since the process began, or since the peak was reset."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest << 10
