"""Resume at a state for some steps, with ranks that are threads."""

from __future__ import annotations

from collections.abc import Callable

import seqstream as ss
from seqstream.testing.rank_laws import State, Taken, take
from seqstream.testing.rank_threads import Options, run_ranks

Make = Callable[..., ss.Loader]


def go_on(make: Make, state: State | None, world_size: int, num_steps: int | None = None) -> list[Taken]:
    """Resume at a state with some ranks, in threads."""

    def job(options: Options) -> Taken:
        loader = make(**options)
        if state is not None:
            loader.load_state_dict(state)
        return take(loader, num_steps)

    return run_ranks(world_size, job)
