"""What a forkserver imports once for all processes that it forks.

Objects of modules are frozen: collections of garbage neither walk them nor copy the memory that processes share.
"""

from __future__ import annotations

import gc

gc.disable()

import torch._dynamo  # noqa: E402

import seqstream  # noqa: E402

gc.freeze()
gc.enable()

__all__ = ["seqstream", "torch"]
