"""Results of a function for all records, computed over batches of a loader, and given in the order of the source."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from seqstream.batches.batch import Batch
from seqstream.batches.restore_order import RowKeys, sorted_rows
from seqstream.batches.row_results import HeldRows, PerToken, check_window
from seqstream.distributed.collectives import Ranks
from seqstream.loading.loader import Loader
from seqstream.records import Json, Record
from seqstream.sources.mixture import Mixture

VERSION = 1
_ENTRIES = {"version", "loader", "after", "rank", "world_size"}


@dataclasses.dataclass(eq=False)
class _Position:
    """Where predictions are.

    Attributes:
        loader: State of the loader at the beginning of the window under way.
        after: Row id and piece of the last row that was yielded; (-1, -1) for none.
        ranks: The rank that yielded it, and how many there are; ``None`` in a new object.
    """

    loader: dict[str, Json]
    after: tuple[int, int] = (-1, -1)
    ranks: tuple[int, int] | None = None


class Predictions(Iterable[tuple[Record, Any]]):
    """Records and their results in source order, which can be resumed after any of them; `predict` makes it."""

    def __init__(self, function: Callable[[Batch], Any], loader: Loader, per_token: PerToken) -> None:
        _check(function, loader)
        self.function = function
        self.loader = loader
        self.per_token = per_token if isinstance(per_token, bool) else frozenset(_names(per_token))
        self._position: _Position | None = None
        self._is_loaded = False

    def __repr__(self) -> str:
        return f"predict({getattr(self.function, '__qualname__', self.function)!s}, {self.loader!r})"

    def __iter__(self) -> Iterator[tuple[Record, Any]]:
        """Yield all records with their results, or those after the position of a state that was loaded."""
        ranks = self.loader._ranks()
        position = self._begin(ranks)
        batches = iter(self.loader)
        position.loader = self.loader.state_dict()
        for _, window in itertools.groupby(batches, key=lambda batch: batch.window):
            held, end = [], position.loader
            for batch in window:
                end = batch.state
                if RowKeys.of(batch).has_after(*position.after):
                    held.append(HeldRows.of(batch, self._call(batch), self.per_token))
                del batch  # its tokens
            check_window(held)
            for row_id, piece, number, row in sorted_rows([each.keys for each in held]):
                if (row_id, piece) <= position.after:
                    continue
                if self._position is not position:
                    raise RuntimeError("this iterator cannot go on, a newer one has begun or a state was loaded since")
                position.after = (row_id, piece)
                yield held[number].record(row), held[number].result(row)
            position.loader = end

    def state_dict(self) -> dict[str, Json]:
        """Return what is needed to go on after the last record that was yielded: about a thousand bytes of JSON."""
        position = self._position or _Position(self.loader.state_dict())
        rank, world_size = position.ranks or (None, None)
        after = list(position.after)
        loader = copy.deepcopy(position.loader)
        return {"version": VERSION, "loader": loader, "after": after, "rank": rank, "world_size": world_size}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Go on where a state was saved: the next iteration yields exactly the records after it.

        The window under way is tokenised again, and the function is called again for those of its batches that have a record
        that was not yielded, with the same rows. After the state of the last record there is nothing to yield.

        Raises:
            TypeError: The state is not a dict.
            ValueError: The state is not one of predictions, or is of other data, another tokenizer or batch spec.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be the dict that state_dict() returned, got {type(state).__name__}")
        if missing := sorted(_ENTRIES - state.keys()):
            raise ValueError(f"state must be what state_dict() of predict returned, got one without {', '.join(missing)}")
        if state["version"] != VERSION:
            raise ValueError(f"state must be of version {VERSION}, got {state['version']!r:.80}")
        self.loader.load_state_dict(state["loader"])
        row_id, piece = state["after"]
        ranks = None if state["rank"] is None else (state["rank"], state["world_size"])
        self._position = _Position(copy.deepcopy(state["loader"]), (row_id, piece), ranks)
        self._is_loaded = True

    def _begin(self, ranks: Ranks) -> _Position:
        """Return the position of a new iteration, to which the loader goes.

        Ranks that were killed at the same time may have been one window apart; all begin with the earliest of these windows,
        and each leaves out what it has yielded.

        Raises:
            ValueError: The state that was loaded is of another rank.
        """
        loaded = self._position if self._is_loaded else None
        position = loaded or _Position(self.loader.state_dict())
        sent = json.dumps([position.ranks, loaded is not None, position.loader]).encode()
        entries = [json.loads(each) for each in ranks.all_gather(sent)]
        for rank, (saved, _, _) in enumerate(entries):
            if saved not in (None, [rank, ranks.world_size]):
                raise ValueError(
                    f"state was saved by rank {saved[0]} of {saved[1]}, and is loaded by rank {rank} of {ranks.world_size}; "
                    "load on each rank the state that it has saved"
                )
        if ranks.world_size > 1 and any(is_loaded for _, is_loaded, _ in entries):
            self.loader.load_state_dict(min((state for _, _, state in entries), key=_order))
        self._position, self._is_loaded = dataclasses.replace(position, ranks=(ranks.rank, ranks.world_size)), False
        return self._position

    def _call(self, batch: Batch) -> Any:
        """Return what the function returns; iteration goes on outside of inference mode."""
        with torch.inference_mode():
            return self.function(batch)


def predict(function: Callable[[Batch], Any], loader: Loader, *, per_token: PerToken = False) -> Predictions:
    """Run a function over the batches of a loader, and yield each record with its result, in the order of the source.

    Batches have rows of similar lengths, as in training, and results are put back in order window by window: memory holds the
    results of one window, which is as large as ``Bucket(window_bytes=...)`` or ``window_batches`` makes it. The iteration can
    be resumed after any record.

    Args:
        function: Called with each `Batch` in ``torch.inference_mode()``. Returns a tensor or an array whose first dimension is
            the rows, a list of one value a row, or a dict or tuple of these. In a batch of `Pack` the sequences are the rows.
        loader: It has ``shuffle=False`` and ``epochs=1``.
        per_token: Whether results have a value for each token, ``(B, L, ...)`` or in the form of `Batch.flat`; rows are then
            cut to their lengths, ``(length, ...)``. Or the names of those results in a dict, or their numbers in a tuple.

    Returns:
        An iterable of ``(record, result)``, with ``state_dict()`` and ``load_state_dict()``. A record is a dict of its
        ``row_id``, by which ``loader.source.locate`` and ``loader.source.record`` find it, its ``piece`` where it was split,
        else 0, and the columns of the batch that have one value for each row, such as ``id`` or ``label``. Results are on the
        CPU, and may be used with gradients. Records that the loader leaves out have none: those without a token, and those
        without a label, which for a `Pack` of ``causal=True`` are also those of one token.

        On several ranks each yields the records of its own batches, in source order; together they yield each once. To resume,
        each rank loads the state that it has saved.

    Raises:
        TypeError: ``function`` is not a function, ``loader`` is no `Loader`, or a result has a type that has no rows.
        ValueError: The loader shuffles, or a result has not one value for each row.

    Example:
        >>> loader = ss.Loader("texts.txt", ss.Tokenize(tokenizer, max_length=512), ss.Bucket(16_384), shuffle=False)
        >>> for record, logits in ss.predict(lambda batch: model(**batch).logits, loader):
        ...     print(loader.source.locate(record["row_id"]), logits.argmax().item())
    """
    return Predictions(function, loader, per_token)


def _check(function: object, loader: object) -> None:
    if not callable(function):
        raise TypeError(f"function must be a function of a batch, got {type(function).__name__}")
    if not isinstance(loader, Loader):
        raise TypeError(f"loader must be a seqstream.Loader, got {type(loader).__name__}; pass predict(function, Loader(...))")
    if loader.shuffle:
        raise ValueError("loader must have shuffle=False, so that its windows are in source order, got shuffle=True")
    if loader.epochs != 1:
        raise ValueError(f"loader must have epochs=1, so that each record has one result, got epochs={loader.epochs}")
    if isinstance(loader.source, Mixture):
        raise ValueError("loader must not have a Mixture, whose records have no order of their own; predict for each source")


def _names(per_token: Any) -> Iterable[str | int]:
    if isinstance(per_token, str) or not isinstance(per_token, Iterable):
        raise TypeError(f"per_token must be True, False or a list of names of results, got {per_token!r:.80}")
    return per_token


def _order(state: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the key by which states of one run come in the order in which they were saved."""
    position = state["position"]
    return position["epoch"], position["window"]["step"], position["window"]["served"]
