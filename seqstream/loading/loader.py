"""The one moving part: epochs, threads, state."""

from __future__ import annotations

import copy
import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from multiprocessing.context import BaseContext
from typing import Any, NoReturn, TypeVar

import torch

from seqstream.batches.batch import Batch
from seqstream.batches.padding import Padding
from seqstream.distributed.collectives import AllGather, Ranks, check_ranks, count_ranks, find_ranks
from seqstream.loading.arguments import DataStage, find_padding_side, pad_tokens, parse_stages
from seqstream.loading.device import Transfer
from seqstream.loading.epochs import Epochs
from seqstream.loading.pipeline import Pipeline, PreparedBatch
from seqstream.loading.prefetch import StoppedError, StopSignal
from seqstream.loading.state import Position, check_form, check_same, write
from seqstream.loading.stats import Stats
from seqstream.loading.workers import WorkerOptions
from seqstream.options import device_of, function_or_none, one_of, padding_values, whole_number, yes_or_no
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import UNEVEN, Uneven
from seqstream.records import Json
from seqstream.sources.source import Source
from seqstream.stages.row_labels import LabelRule
from seqstream.windows.settings import WindowStart

_Answer = TypeVar("_Answer")


class Loader(Iterable[Batch]):
    """Batches from a source, through stages, in an order that can be resumed.

    Iterating gives one epoch; iterate again for the next, in a new order. The same seed gives the same batches, whatever
    ``prefetch`` is.

    Args:
        source: Where records come from.
        stages: What happens to them, in this order: `Map`, `Filter`, `MapRecords`, `FilterRecords`, `ClassLabels`, `Tokenize`,
            and at last how they are batched: `Bucket`, `Pack` or `Unbucketed`.
        seed: Another seed, another order: a whole number.
        shuffle: Visit shards in an order of each epoch's own that is even: every stretch of it covers the data; and mix the
            rows and batches of a window. Lists and map-style data sets are read row by row in such an order. Without it windows
            come in source order, the same in every epoch, and batches of a `Bucket` longest first; `restore_order` undoes that.
        epochs: How many epochs one iteration runs over, with no pause between them; ``None`` for no end.
        accumulate: How many batches of each rank an optimiser step sums. They are planned as one thing, of different lengths,
            so that a step is a fair sample of the data: `Batch.step`, `Batch.is_step_end`, and with ``step_num_tokens`` and
            ``step_num_label_tokens`` what to divide their losses by, known from the first of them on. Every step has as many,
            but for the last one of an epoch or of very few rows.
        num_workers: How many processes run the stages over blocks: for stages that take long in Python. Without any, a thread
            does; the fast engines use all cores by themselves. The stream is the same for any number. A process that dies ends
            the iteration with an error; the next one starts new processes.
        multiprocessing_context: How they are started: ``"fork"``, ``"spawn"``, ``"forkserver"`` or a context of
            ``multiprocessing``; by default as Python does.
        executor: A ``concurrent.futures.Executor`` that runs the blocks instead of processes of the loader, such as one that
            several loaders share; ``num_workers`` then says how many blocks it works on at a time, by default one for each core
            here. It is neither started nor shut down by the loader.
        workers: The same as ``num_workers``.
        prefetch: How many batches are made ahead of the consumer where ``device`` or ``on_batch`` makes work of them; without,
            a batch is collated when it is asked for, in less time than it takes to hand it over. The next window is always
            made ahead. More smooth out uneven steps and hold more memory. With 0 all is done in the consumer's thread.
        device: Where the tensors of a batch go.
        pin_memory: Pass batches through page-locked memory; by default only on the way to CUDA.
        on_batch: A function ``Batch -> Batch`` that runs ahead of the consumer: labels, masking. `Batch.generator` gives it
            randomness that is the same at every resume. Rows of which nothing is a label, all of them -100 or too short for
            what ours of these functions make, are dropped, so that the loss of no batch is NaN. Labels are counted on several
            ranks by the function's attribute ``label_rule``; one around ours has to pass it on, as `CausalLabels` shows.
        pad_values: What padding holds, by column, instead of the tokenizer's pad token (else 0) and -100 for labels: ``label``,
            ``labels``, ``label_ids``, names that end so, and what `ClassLabels` makes.
        padding_side: Where padding goes: ``"right"`` or ``"left"``; by default where the tokenizer of `Tokenize` pads, its
            ``padding_side``, else right. That of `Pack` is always at the end of a row.
        layout: Which form of sequences is made ahead: ``"padded"``, or ``"jagged"`` for models that take `Batch.varlen` or
            `Batch.nested`: flat, less to copy to the device. The other is made from it when asked for. `Pack` has its own.
        progress: Show a progress bar, on the first rank.
        rank: Which of ``world_size`` processes this is. Both are those of ``torch.distributed`` where it runs when an iteration
            begins; ``rank=0, world_size=1`` makes a loader of this process alone there.
        world_size: How many processes share the data. All have the whole source and the same options, ``seed`` and ``prefetch``
            among them: before an epoch they compare what their rows depend on and some of the records, and on the way those
            records that every rank reads; where they differ, all raise. Items that are others each time they are read by their
            numbers, being drawn at random, are not compared.
        all_gather: For ranks given by hand: a function ``bytes -> list[bytes]`` that gives every rank what each of them has.
        uneven: What becomes of a step with fewer rows than ranks, which there can be at the end of a window: ``"repeat"`` gives
            the ranks left over a row of another, of weight 0; ``"drop"`` leaves its rows out. Both are counted in ``stats``.
            In a window that another number of ranks has begun, ``"drop"`` gives each rank of a step rows of other lengths where
            it would leave out more than the last few; ``step_num_tokens`` of the step at which such a window is gone on with
            may then count some rows that were part of the step before.

    Raises:
        TypeError: A stage is none, or the source is none, or an option is of another type.
        ValueError: No batch spec ends the stages, or an option has no such value.
    """

    def __init__(
        self,
        source: Source,
        *stages: DataStage | BatchSpec,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = 1,
        accumulate: int = 1,
        num_workers: int = 0,
        multiprocessing_context: str | BaseContext | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
        prefetch: int = 2,
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        on_batch: Callable[[Batch], Batch] | None = None,
        pad_values: Mapping[str, float] | None = None,
        padding_side: str | None = None,
        layout: str = "padded",
        progress: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        all_gather: AllGather | None = None,
        uneven: Uneven = "repeat",
    ) -> None:
        one_of("uneven", uneven, UNEVEN)
        rank, world_size = check_ranks(rank, world_size, all_gather)
        seed = whole_number("seed", seed)
        shuffle, progress = yes_or_no("shuffle", shuffle), yes_or_no("progress", progress)
        if epochs is not None:
            epochs = whole_number("epochs", epochs, least=1, rule="a positive number or None for no end")
        accumulate = whole_number("accumulate", accumulate, least=1, most=1 << 20, rule="a positive whole number")
        name, num_workers = ("num_workers", num_workers) if workers is None else ("workers", workers)
        num_workers = whole_number(name, num_workers, least=0, rule="0 or more processes")
        worker_options = WorkerOptions(num_workers, multiprocessing_context, executor)
        prefetch = whole_number("prefetch", prefetch, least=0, rule="0 or more batches")
        one_of("padding_side", padding_side, (None, "right", "left"))
        one_of("layout", layout, ("padded", "jagged"))
        function_or_none("on_batch", on_batch)
        pin_memory = None if pin_memory is None else yes_or_no("pin_memory", pin_memory)
        data_stages, spec = parse_stages(source, stages)
        self.source = source
        self.stages = stages
        self.seed = seed
        self.shuffle = shuffle = bool(shuffle)
        self.epochs = epochs
        self.accumulate = accumulate
        self.prefetch = prefetch
        self.progress = progress
        self.uneven = uneven
        side = find_padding_side(data_stages, padding_side)
        padding = Padding({**pad_tokens(data_stages), **padding_values(pad_values)}, side)
        transfer = Transfer(device_of(device), pin_memory)
        pad_token = padding.value("input_ids")
        self._epochs = Epochs(
            source,
            data_stages,
            spec,
            seed=seed,
            shuffle=shuffle,
            accumulate=accumulate,
            pad_token=pad_token,
            worker_options=worker_options,
            labels=LabelRule() if on_batch is None else getattr(on_batch, "label_rule", None),
        )
        self._pipeline = Pipeline(
            self._epochs, padding=padding, layout=layout, on_batch=on_batch, transfer=transfer, uneven=uneven
        )
        self._given_ranks = (rank, world_size, all_gather)
        self._known_ranks: Ranks | None = None
        self._fingerprint: str | None = None
        self._position = self._beginning(0)
        self._moved = False
        self._loaded = False
        self._last: tuple[Position | None, dict[str, Json]] = None, {}
        self._stats = Stats()
        self._counted_steps: dict[tuple[int, int], int] = {}
        self._iteration: weakref.ref[Iteration] | None = None

    def _beginning(self, epoch: int) -> Position:
        until = None if self.epochs is None else epoch + self.epochs
        return Position(epoch, until, WindowStart(blocks=0))

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, or the one that is under way."""
        return self._position.epoch

    @property
    def stats(self) -> Stats:
        """What was handed out so far, and what it cost."""
        return self._stats

    def __iter__(self) -> Iteration:
        """Begin an epoch, or continue at a loaded state once."""
        if self._iteration is not None and (older := self._iteration()) is not None:
            older.close("a newer one has begun on this loader; use one iterator at a time")
        if self._moved and not self._loaded:
            self._position = self._beginning(self._position.epoch + 1)
        self._moved = self._loaded = False
        iteration = Iteration(self, self._position)
        self._iteration = weakref.ref(iteration)
        return iteration

    def state_dict(self, *, stats: bool = False) -> dict[str, Json]:
        """Return what is needed to go on with exactly the next batch: a few hundred bytes of JSON, nothing buffered.

        Args:
            stats: Keep ``stats`` as well, so that they go on where the state is loaded. They are of this rank alone, while all
                else is the same on all of them: let each rank save its own, or none.
        """
        position, state = self._last
        state = copy.deepcopy(state) if position is self._position else self._state(self._position)
        return {**state, "stats": self._stats.to_json()} if stats else state

    def load_state_dict(self, state: Mapping[str, Json], strict: bool = True) -> None:
        """Go on where a state was saved: the next iteration continues with exactly the next batch.

        Args:
            state: What `state_dict` or `Batch.state` returned.
            strict: Refuse a state saved with other stages. Otherwise only source, seed and order must agree: the window
                under way begins again with these stages, and those of its rows that were served before are counted in
                ``stats.repeated_rows``.

        Raises:
            ValueError: The state is for other data, another tokenizer, seed or batch spec; the message names each.
        """
        check_form(state)
        same = check_same(state, self._own_fingerprint(), self.seed, strict=strict)
        position = Position.from_json(copy.deepcopy(dict(state)))
        self._epochs.check_cursor(position.window.cursor)
        if "stats" in state:
            self._stats = Stats.from_json(state["stats"])
        if same:
            self._epochs.check_choices(state["engine"], state["shapes"])
            self._epochs.use_engines(state["engine"])
            self._epochs.use_shapes(state["shapes"])
        else:
            self._stats = self._stats.plus(repeated_rows=position.window.served + position.window.skip)
            position = Position(position.epoch, position.until, WindowStart(position.window.cursor, blocks=0))
        if self.epochs is None or position.until is None:
            until = None if self.epochs is None else position.epoch + self.epochs
            position = dataclasses.replace(position, until=until)
        self._stop_iteration("a state was loaded since")
        self._position, self._loaded, self._moved = position, True, False

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the position in the one under way is dropped.

        Does nothing at that beginning, nor where a state of that epoch was just loaded: so a loop over epochs that names each
        goes on where it was.
        """
        epoch = whole_number("epoch", epoch, least=0, rule="0 or more")
        if self._loaded and epoch in (self._position.epoch, self._first_epoch()):
            return
        self._stop_iteration("set_epoch was called since")
        self._position, self._loaded, self._moved = self._beginning(epoch), False, False

    def _first_epoch(self) -> int:
        """Return the epoch in which the iteration under way began."""
        until = self._position.until
        return self._position.epoch if until is None or self.epochs is None else until - self.epochs

    def estimate_steps(self) -> int | None:
        """Estimate how many optimiser steps an epoch has, of ``accumulate`` batches of each rank.

        It is within some per cent where windows are those by default; where they hold a few batches only, or rows come in an
        order by length, within some twenty.

        Records of blocks all over the data, 2 MiB of them, are tokenised and planned. Files that are read front to back,
        compressed ones and tables, are read to count what they hold, up to 256 MiB. ``None`` where the source cannot know how
        much there is: a stream, or a function that gives items. `count_steps` counts them.
        """
        return self._look(lambda epochs: epochs.estimate_steps(count_ranks(self._given_ranks[1]), self.uneven))

    def count_steps(self) -> int:
        """Count the optimiser steps of this epoch, of ``accumulate`` batches of each rank.

        All records are read, tokenised and planned, in this process and without workers: that takes as long as an epoch whose
        batches nobody uses, and nothing a second time. Other epochs, in another order, may have some more or fewer.

        Raises:
            ValueError: Records can be read once only.
        """
        key = (self.epoch, count_ranks(self._given_ranks[1]))
        if key not in self._counted_steps:
            self._counted_steps[key] = self._look(lambda epochs: epochs.count_steps(*key, self.uneven))
        return self._counted_steps[key]

    def _look(self, question: Callable[[Epochs], _Answer]) -> _Answer:
        """Ask epochs that no thread is at work on; of what they learn, the engines are kept."""
        epochs = self._epochs.apart()
        answer = question(epochs)
        is_idle = self._iteration is None or self._iteration() is None
        if is_idle and self._epochs.engines is None and epochs.engines:
            self._epochs.use_engines(epochs.engines)
        return answer

    def shapes(self) -> list[tuple[int, int]]:
        """Return the ``(rows, length)`` that batches can have, shortest first, to warm up a compiled model.

        Where they are chosen by looking at the data, this looks at the beginning of epoch 0. Keep them for another run with
        ``json.dump(loader.shapes(), file)`` and ``Bucket(shapes="FILE")``.

        Raises:
            ValueError: Batches have no fixed shapes, or records can be read once only.
        """
        return list(self._epochs.choose_shapes())

    def worst_batch(self, *, max_tokens: int | None = None) -> Batch:
        """Return a batch of the largest shape that can occur, so that memory runs out before training and not in the middle.

        Its rows are the first record of the data over and over, brought to the longest length; it went through ``on_batch``
        and is on the device. Where `Tokenize` sets no ``max_length``, the longest row is the one that fills the budget.

        Args:
            max_tokens: A budget to try instead of the one that `Bucket` has.

        Raises:
            ValueError: The longest row cannot be known, or does not fit; or records can be read once only.
        """
        return self._pipeline.largest_batch(self.state_dict(), max_tokens)

    def _state(self, position: Position) -> dict[str, Json]:
        shapes = self._epochs.shapes
        return position.to_json(
            fingerprint=self._own_fingerprint(),
            seed=self.seed,
            engine=dict(self._epochs.engines or {}),
            shapes=None if shapes is None else [list(shape) for shape in shapes],
        )

    def _own_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = write(self._epochs.fingerprint())
        return self._fingerprint

    def _ranks(self) -> Ranks:
        """Return who takes part, as it is now: ``torch.distributed`` may begin after the loader was made."""
        if self._known_ranks is None or self._known_ranks.world_size == 1:
            self._known_ranks = find_ranks(*self._given_ranks)
        return self._known_ranks

    def _stop_iteration(self, reason: str) -> None:
        if self._iteration is not None and (iteration := self._iteration()) is not None:
            iteration.close(reason)

    def _took(self, made: PreparedBatch, waited: float, elapsed: float) -> None:
        """Move on past a batch."""
        self._position, self._moved, self._last = made.position, True, (made.position, made.state)
        if (batch := made.batch) is not None:
            self._stats = self._stats.plus(
                batches=1,
                steps=int(batch.is_step_end),
                rows=len(batch.row_ids) - batch.layout.num_made_up - batch.layout.num_repeated,
                made_up_rows=batch.layout.num_made_up,
                repeated_rows=batch.layout.num_repeated,
                tokens=batch.num_tokens,
                slots=batch.num_slots,
                seconds=elapsed,
                seconds_waited=waited,
                **made.counts,
            )

    def _ended(self, made: PreparedBatch) -> None:
        """Move on past the end of an iteration."""
        self._stats = self._stats.plus(**made.counts)
        self._position, self._moved = self._beginning(made.position.epoch + 1), False

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but what runs, so that it goes on by itself from where this loader is."""
        return {**self.__dict__, "_iteration": None, "_known_ranks": None}

    def __copy__(self) -> Loader:
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__())
        other._epochs, other._pipeline = copy.copy(self._epochs), copy.copy(self._pipeline)
        other._pipeline.epochs = other._epochs
        return other

    @property
    def dataset(self) -> NoReturn:
        """Raise: there is none, and what asks for it would skip batches one by one to go on."""
        raise AttributeError(
            "a Loader has no dataset of which batches could be skipped; load_state_dict(batch.state) goes on at once. "
            "With transformers' Trainer set ignore_data_skip=True and keep the loader's state in its checkpoints, as "
            "examples/hf_trainer.py does: with ignore_data_skip alone a new loader begins at its first batch"
        )

    def __len__(self) -> NoReturn:
        raise TypeError(
            "a seqstream.Loader has no len() and cannot be wrapped in torch.utils.data.DataLoader, it makes batches itself; "
            "iterate over it directly, and ask estimate_steps() for the number of batches"
        )

    def __repr__(self) -> str:
        parts = [repr(part) for part in (self.source, *self.stages)]
        return "Loader(\n" + "".join(f"    {part},\n" for part in parts) + f"    seed={self.seed}, shuffle={self.shuffle},\n)"


class Iteration(Iterator[Batch]):
    """One run over the epochs of a loader, from a position to the end; `Loader.__iter__` makes it."""

    def __init__(self, loader: Loader, position: Position) -> None:
        self._loader = loader
        self._pid = os.getpid()
        self._over: str | None = None
        self._lock = threading.RLock()
        self._switch = StopSignal()
        ranks = loader._ranks()
        # Before threads begin, so that what looking at the data takes does not delay them, nor is done twice.
        self._bar = _progress_bar(loader) if loader.progress and not ranks.rank else None
        self._made = loader._pipeline.run(position, loader._state, self._switch, loader.prefetch, ranks)
        self._finalizer = weakref.finalize(self, self._switch.turn_off)
        self._answered: float | None = None

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Batch:
        with self._lock:  # threads may share an iterator: each batch goes to one of them
            self._check()
            return self._take()

    def _check(self) -> None:
        if self._over:
            raise RuntimeError(f"this iterator cannot go on, {self._over}; call iter(loader) again")
        if self._over is not None:
            raise StopIteration
        if os.getpid() != self._pid:
            raise RuntimeError("this iterator cannot go on in a forked process; call iter(loader) there")

    def _take(self) -> Batch:
        asked = time.perf_counter()
        try:
            made = next(self._made)
        except StoppedError:
            self.close()
            self._check()
            raise
        except BaseException as error:
            self.close("it was interrupted or has raised")
            if isinstance(error, KeyboardInterrupt):
                self._loader._epochs.stop_workers()  # Python would wait for the blocks under way before it ends
            raise
        if made.batch is None:
            self._loader._ended(made)
            self.close("")
            raise StopIteration
        batch = self._loader._pipeline.transfer.receive(made.batch, made.event)
        answered = time.perf_counter()
        self._loader._took(made, answered - asked, answered - (self._answered or asked))
        self._answered = answered
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._loader.stats.padding:.2%} padding", refresh=False)
            self._bar.update()
        return batch

    def close(self, reason: str = "it was closed") -> None:
        """End the threads; a later request for a batch raises, giving the reason."""
        if self._over is None:
            self._over = reason
            self._finalizer()
            if self._bar is not None:
                self._bar.close()


def _progress_bar(loader: Loader) -> Any:
    from tqdm.auto import tqdm

    steps = loader.estimate_steps()
    total = None if steps is None or loader.epochs is None else steps * loader.epochs * loader.accumulate
    return tqdm(total=total, unit=" batches", dynamic_ncols=True)
