"""Examples import one another by their own names, as Python has it where one is run."""

from __future__ import annotations

import sys

from tests.frameworks.streams import ROOT

sys.path.append(str(ROOT / "examples"))
