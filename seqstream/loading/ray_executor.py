"""Actors of Ray as an executor of ``concurrent.futures``."""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any

from seqstream.options import whole_number

_CALLS_PER_ACTOR = 2
"""An actor has one call that it runs, and one whose arguments are on their way."""

_MOST_LOSSES = 5
"""How many actors a call may lose before it fails: it may be the call that ends them."""

_CHECK_SECONDS = 1.0
"""How often the thread checks whether Ray still runs."""


class RayExecutor(Executor):
    """Runs calls in actors of Ray, for ``Loader(executor=...)``; install it with ``pip install 'seqstream[ray]'``.

    A call that was lost with its actor, or with the machine of that, is run again by another: it must have no effects but its
    result, as the blocks of a loader have. Connects to Ray if ``ray.init`` was not called before. Results and large arguments
    go through the object store of Ray.

    Args:
        max_workers: Number of actors; ``None`` for one on each CPU of the cluster.
        options: Options of the actors as Ray has them: ``num_cpus`` (1 by default), ``resources``, ``runtime_env`` and so on.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        TypeError: ``max_workers`` is not a whole number.
        ValueError: It is less than 1.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            error.add_note("RayExecutor needs Ray; install it with: pip install 'seqstream[ray]'")
            raise
        if not ray.is_initialized():
            ray.init()
        number = int(ray.cluster_resources().get("CPU", 1)) if max_workers is None else max_workers
        self._max_workers = whole_number("max_workers", number, least=1, rule="1 or more actors")
        self._pool = _ActorPool(self._max_workers, {"num_cpus": 1, **options})
        self._thread = threading.Thread(target=self._pool.run, name="seqstream-ray", daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._pool.events.put, None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self._end.alive or not self._thread.is_alive():
            raise RuntimeError("cannot schedule new futures after shutdown")
        call = _Call(functools.partial(fn, *args, **kwargs))
        self._pool.events.put(functools.partial(self._pool.add, call))
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self._pool.events.put(self._pool.cancel_waiting)
        self._end()
        if wait:
            self._thread.join()


@dataclasses.dataclass(eq=False)
class _Call:
    """A call, how often it was lost, and what it will return."""

    run: Callable[[], Any]
    future: Future[Any] = dataclasses.field(default_factory=Future)
    num_losses: int = 0


@dataclasses.dataclass(eq=False)
class _Actor:
    """An actor, and the calls that it has."""

    handle: Any
    calls: list[_Call] = dataclasses.field(default_factory=list)


class _Worker:
    """What runs in an actor."""

    def start(self) -> None:
        """Begin; its result shows that the actor runs."""
        import torch

        torch.set_num_threads(1)  # each core has its actor

    def run(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call."""
        return call()


class _ActorPool:
    """Actors and their calls, in the hands of one thread: other threads put what it is to do in a queue.

    Args:
        num_actors: Number of actors.
        options: Their options.
    """

    def __init__(self, num_actors: int, options: dict[str, Any]) -> None:
        import ray

        self.events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ray = ray
        self._class = ray.remote(_Worker).options(**options)
        self._waiting: deque[_Call] = deque()
        self._actors: list[_Actor] = []  # those that run
        self._num_lost_starts = 0
        for _ in range(num_actors):
            self._start_actor()

    def run(self) -> None:
        """Handle events until no call is left after ``None``, the last of them."""
        is_open = True
        while (
            is_open or any(actor.calls for actor in self._actors) or not all(call.future.cancelled() for call in self._waiting)
        ):
            try:
                event = self.events.get(timeout=_CHECK_SECONDS)
            except Empty:
                if not self._ray.is_initialized():
                    self._fail(RuntimeError("Ray was shut down before this call has ended"))
                    return
                continue
            if event is None:
                is_open = False
            else:
                event()
                self._distribute()
        self._actors.clear()  # actors without a handle end

    def add(self, call: _Call) -> None:
        """Queue a call."""
        self._waiting.append(call)

    def cancel_waiting(self) -> None:
        """Cancel the calls that no actor has."""
        for call in self._waiting:
            call.future.cancel()
        self._waiting.clear()

    def _distribute(self) -> None:
        """Send calls to the actors that have the fewest, up to `_CALLS_PER_ACTOR`."""
        while self._waiting and self._actors:
            actor = min(self._actors, key=lambda actor: len(actor.calls))
            if len(actor.calls) == _CALLS_PER_ACTOR:
                return
            call = self._waiting.popleft()
            if not call.num_losses and not call.future.set_running_or_notify_cancel():
                continue
            try:
                self._then(actor.handle.run.remote(call.run), functools.partial(self._finish, actor, call))
            except Exception as error:  # noqa: BLE001 - such as one of its arguments, which cannot be pickled
                call.future.set_exception(error)
            else:
                actor.calls.append(call)

    def _finish(self, actor: _Actor, call: _Call, answer: Future[Any]) -> None:
        """Set the result of a call, or queue it again if it was lost."""
        actor.calls.remove(call)
        error = answer.exception()
        if isinstance(error, self._ray.exceptions.RayActorError) and actor in self._actors:
            self._actors.remove(actor)
            self._start_actor()
        is_lost = isinstance(error, self._ray.exceptions.RayError) and not isinstance(error, self._ray.exceptions.RayTaskError)
        if error is None:
            call.future.set_result(answer.result())
        elif is_lost and call.num_losses < _MOST_LOSSES:
            call.num_losses += 1
            self._waiting.appendleft(call)
        else:
            if is_lost:
                error.add_note(f"a call was lost {call.num_losses + 1} times; it may need more memory than its actors have")
            call.future.set_exception(error)

    def _start_actor(self) -> None:
        """Start an actor, which gets calls as soon as it runs."""
        handle = self._class.remote()
        self._then(handle.start.remote(), functools.partial(self._add_actor, _Actor(handle)))

    def _add_actor(self, actor: _Actor, answer: Future[Any]) -> None:
        error = answer.exception()
        self._num_lost_starts = 0 if error is None else self._num_lost_starts + 1
        if error is None:
            self._actors.append(actor)
        elif self._num_lost_starts > _MOST_LOSSES:
            error.add_note(f"{self._num_lost_starts} actors one after the other could not start")
            self._fail(error)
        else:
            self._start_actor()

    def _then(self, answer: Any, event: Callable[[Future[Any]], None]) -> None:
        """Put an event in the queue when Ray has an answer."""
        answer.future().add_done_callback(lambda future: self.events.put(functools.partial(event, future)))

    def _fail(self, error: BaseException) -> None:
        """End all calls with an error."""
        for call in (*self._waiting, *(call for actor in self._actors for call in actor.calls)):
            call.future.set_exception(error)
        self._waiting.clear()
        self._actors.clear()
