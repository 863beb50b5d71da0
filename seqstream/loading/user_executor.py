"""An executor of the user, of any kind: its workers get stages and sources with a block, and are not ended here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec

from seqstream.loading.block_executor import BlockExecutor
from seqstream.loading.process_pool import HELP
from seqstream.loading.ray_executor import RayExecutor
from seqstream.loading.remote_blocks import BlockProgram, forget, pack, remember


class UserExecutor(BlockExecutor):
    """Processes blocks in an executor of the user.

    Args:
        executor: The executor.
        program: What its workers do with blocks.
    """

    def __init__(self, executor: Executor, program: BlockProgram) -> None:
        super().__init__(program)
        self._given = executor

    @property
    def num_workers(self) -> int:
        client = getattr(self._given, "_client", None)  # of dask.distributed
        number = sum(client.nthreads().values()) if client is not None else getattr(self._given, "_max_workers", None)
        return number or os.cpu_count() or 1

    def start(self) -> None:
        self._reset_after_fork()
        if self._executor is None:
            remember(self._objects)  # for threads, and processes that are forked from now on
            self._executor = self._given

    def stop(self) -> None:
        if os.getpid() == self._pid and self._executor is not None:
            self._executor = None
            forget(self._keys)
            self._remove_folder()

    @functools.cached_property
    def _keys(self) -> tuple[str, str]:
        """Hashes, so that workers open equal stages of several loaders once; random ones where nothing need be sent."""
        if isinstance(self._given, ThreadPoolExecutor):
            return super()._keys
        try:
            stages, sources = (hashlib.blake2b(each, digest_size=16).hexdigest() for each in self._contents)
        except Exception:
            if isinstance(self._given, ProcessPoolExecutor):  # processes that are forked from now on have the objects
                return super()._keys
            raise
        return stages, sources

    @property
    def _packed(self) -> dict[str, bytes]:
        return dict(zip(self._keys, self._contents, strict=True))

    @functools.cached_property
    def _contents(self) -> tuple[bytes, bytes]:
        try:
            return pack(self._program.stage_lists, self._pickler), pack(self._program.sources, self._pickler)
        except Exception as error:
            error.add_note(HELP)
            raise

    @property
    def _pickler(self) -> str:
        """Pickle for workers that import the script of the user again; for others what pickles its functions by value."""
        if isinstance(self._given, RayExecutor):
            return "ray.cloudpickle"
        is_standard = isinstance(self._given, ThreadPoolExecutor | ProcessPoolExecutor)
        return "pickle" if is_standard or find_spec("cloudpickle") is None else "cloudpickle"

    @property
    def _uses_files(self) -> bool:
        return isinstance(self._given, ProcessPoolExecutor)

    def _stop_at_exit(self) -> None:
        """Leave the executor as it is: the user shuts it down."""

    @contextlib.contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            yield
        except BrokenExecutor as error:
            self.stop()
            raise RuntimeError("a worker process has died; this executor cannot go on, so give the loader a new one") from error
        except CancelledError as error:
            self.stop()
            raise RuntimeError(
                f"executor must run as long as the loader does, but {self._given!r} has cancelled a block; give the loader a "
                "new one if it was shut down"
            ) from error
