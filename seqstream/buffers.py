"""Tables as one flat buffer each, to cross to another process: the format of Arrow streams."""

from __future__ import annotations
