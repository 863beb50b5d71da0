"""The one moving part: epochs, threads, state."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from multiprocessing.context import BaseContext
from typing import Any, NoReturn, TypeVar

import torch

from seqstream.batches.batch import Batch
from seqstream.distributed.collectives import AllGather, Ranks, count_ranks, find_ranks
from seqstream.loading.arguments import DataStage, LoaderArguments, parse_stages
from seqstream.loading.calibration import Calibration
from seqstream.loading.epochs import Epochs
from seqstream.loading.estimates import Estimates
from seqstream.loading.fingerprints import check_same
from seqstream.loading.iteration import Iteration, progress_bar
from seqstream.loading.option import Option
from seqstream.loading.pipeline import Pipeline
from seqstream.loading.prefetch import StopSignal
from seqstream.loading.progress import Progress
from seqstream.loading.state import Position, read_state
from seqstream.loading.stats import Stats
from seqstream.options import whole_number
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
from seqstream.records import Json
from seqstream.sources.source import Source
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
            what ours of these functions make, are dropped, so that the loss of no batch is NaN.
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

    source = Option[Source]()
    stages = Option[tuple[DataStage | BatchSpec, ...]]()
    seed = Option[int]()
    shuffle = Option[bool]()
    epochs = Option[int | None]()
    accumulate = Option[int]()
    num_workers = Option[int]()
    multiprocessing_context = Option[str | BaseContext | None]()
    executor = Option[Executor | None]()
    prefetch = Option[int]()
    device = Option[torch.device | None]()
    pin_memory = Option[bool | None]()
    on_batch = Option[Callable[[Batch], Batch] | None]()
    pad_values = Option[dict[str, float]]()
    padding_side = Option[str | None]()
    layout = Option[str]()
    progress = Option[bool]()
    rank = Option[int | None]()
    world_size = Option[int | None]()
    all_gather = Option[AllGather | None]()
    uneven = Option[Uneven]()

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
        arguments = LoaderArguments(
            source=source,
            stages=stages,
            seed=seed,
            shuffle=shuffle,
            epochs=epochs,
            accumulate=accumulate,
            num_workers=num_workers,
            multiprocessing_context=multiprocessing_context,
            executor=executor,
            workers=workers,
            prefetch=prefetch,
            device=device,
            pin_memory=pin_memory,
            on_batch=on_batch,
            pad_values=pad_values,
            padding_side=padding_side,
            layout=layout,
            progress=progress,
            rank=rank,
            world_size=world_size,
            all_gather=all_gather,
            uneven=uneven,
        )
        self._arguments = arguments
        self._epochs = Epochs(arguments, parse_stages(arguments))
        self._pipeline = Pipeline(self._epochs)
        self._progress = Progress.of(arguments.epochs, Calibration.of(self._epochs.spec))
        self._known_ranks: Ranks | None = None
        self._counted_steps: dict[tuple[int, int], int] = {}
        self._iteration: weakref.ref[Iteration] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, or the one that is under way."""
        return self._progress.position.epoch

    @property
    def stats(self) -> Stats:
        """What was handed out so far, and what it cost."""
        return self._progress.stats

    def __iter__(self) -> Iteration:
        """Begin an epoch, or continue at a loaded state once."""
        self._stop_iteration("a newer one has begun on this loader; use one iterator at a time")
        self._progress.begin()
        ranks = self._ranks()
        bar = None
        if self.progress and not ranks.rank:  # before threads begin, which would compete with the estimate
            steps = self.estimate_steps()
            bar = progress_bar(None if steps is None or self.epochs is None else steps * self.epochs * self.accumulate)
        iteration = Iteration(self._progress, self._pipeline, StopSignal(), ranks, bar)
        self._iteration = weakref.ref(iteration)
        return iteration

    def state_dict(self, *, stats: bool = False) -> dict[str, Json]:
        """Return what is needed to go on with exactly the next batch: a few hundred bytes of JSON, nothing buffered.

        Args:
            stats: Keep ``stats`` as well, so that they go on where the state is loaded. They are of this rank alone, while all
                else is the same on all of them: let each rank save its own, or none.
        """
        progress = self._progress
        state = self._pipeline.state_at(progress.position, progress.calibration)
        return {**state, "stats": progress.stats.to_json()} if stats else state

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
        saved = read_state(state)
        same = check_same(saved.identity, self._epochs.identity, strict=strict)
        position, calibration, stats = saved.position, self._progress.calibration, saved.stats or self.stats
        self._epochs.check_cursor(position.window.cursor)
        if same:
            self._epochs.check_calibration(saved.calibration)
            calibration = calibration.updated(saved.calibration)
        else:
            stats = stats.plus(repeated_rows=position.window.served + position.window.skip)
            position = Position(position.epoch, position.until, WindowStart(position.window.cursor, blocks=0))
        self._stop_iteration("a state was loaded since")
        self._progress.load(position, calibration, stats)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the position in the one under way is dropped.

        Does nothing at that beginning, nor where a state of that epoch was just loaded: so a loop over epochs that names each
        goes on where it was.
        """
        epoch = whole_number("epoch", epoch, least=0, rule="0 or more")
        if self._progress.origin == "loaded" and epoch in (self.epoch, self._progress.first_epoch):
            return
        self._stop_iteration("set_epoch was called since")
        self._progress.go_to(epoch)

    def estimate_steps(self) -> int | None:
        """Estimate how many optimiser steps an epoch has, of ``accumulate`` batches of each rank.

        It is within some per cent where windows are those by default; where they hold a few batches only, or rows come in an
        order by length, within some twenty.

        Records of blocks all over the data, 2 MiB of them, are tokenised and planned. Files that are read front to back,
        compressed ones and tables, are read to count what they hold, up to 256 MiB. ``None`` where the source cannot know how
        much there is: a stream, or a function that gives items. `count_steps` counts them.
        """
        return self._ask(Estimates.estimate_steps)

    def count_steps(self) -> int:
        """Count the optimiser steps of this epoch, of ``accumulate`` batches of each rank.

        All records are read, tokenised and planned, in this process and without workers: that takes as long as an epoch whose
        batches nobody uses, and nothing a second time. Other epochs, in another order, may have some more or fewer.

        Raises:
            ValueError: Records can be read once only.
        """
        key = (self.epoch, self._count_ranks())
        if key not in self._counted_steps:
            self._counted_steps[key] = self._ask(lambda estimates: estimates.count_steps(self.epoch))
        return self._counted_steps[key]

    def shapes(self) -> list[tuple[int, int]]:
        """Return the ``(rows, length)`` that batches can have, shortest first, to warm up a compiled model.

        Where they are chosen by looking at the data, this looks at the beginning of epoch 0. Keep them for another run with
        ``json.dump(loader.shapes(), file)`` and ``Bucket(shapes="FILE")``.

        Raises:
            ValueError: Batches have no fixed shapes, or records can be read once only.
        """
        return list(self._ask(Estimates.shapes))

    def worst_batch(self, *, max_tokens: int | None = None) -> Batch:
        """Return a batch of the largest shape that can occur, so that memory runs out before training and not in the middle.

        Its rows are the first record of the data over and over, brought to the longest length; it went through ``on_batch``
        and is on the device. Where `Tokenize` sets no ``max_length``, the longest row is the one that fills the budget.

        Args:
            max_tokens: A budget to try instead of the one that `Bucket` has.

        Raises:
            ValueError: The longest row cannot be known, or does not fit; or records can be read once only.
        """
        window = self._ask(lambda estimates: estimates.largest_window(max_tokens))
        return self._pipeline.collate_alone(window, self.state_dict())

    def _ask(self, question: Callable[[Estimates], _Answer]) -> _Answer:
        """Answer a question beside any thread; keep what was learned, unless an iteration is under way, which learns itself."""
        estimates = Estimates(self._epochs, self._progress.calibration, self._count_ranks())
        answer = question(estimates)
        iteration = None if self._iteration is None else self._iteration()
        if iteration is None or iteration.is_over:
            self._progress.calibration = estimates.calibration
        return answer

    def _ranks(self) -> Ranks:
        """Return the ranks as they are now: ``torch.distributed`` may start after the loader is made."""
        if self._known_ranks is None or self._known_ranks.world_size == 1:
            self._known_ranks = find_ranks(self.rank, self.world_size, self.all_gather)
        return self._known_ranks

    def _count_ranks(self) -> int:
        return count_ranks(self.world_size)

    def _stop_iteration(self, reason: str) -> None:
        if self._iteration is not None and (iteration := self._iteration()) is not None:
            iteration.close(reason)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but what runs, so that it goes on by itself from where this loader is."""
        own = {"_iteration": None, "_known_ranks": None}
        return {**self.__dict__, **own, "_progress": copy.copy(self._progress), "_pipeline": copy.copy(self._pipeline)}

    def __copy__(self) -> Loader:
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__())
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
