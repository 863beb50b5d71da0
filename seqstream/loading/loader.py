"""The loader: its arguments, its progress, and the methods that users call."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import torch

from seqstream.batches.batch import Batch
from seqstream.distributed.collectives import AllGather, Ranks, count_ranks, find_ranks
from seqstream.loading.arguments import LoaderArguments, parse_stages
from seqstream.loading.calibration import Calibration
from seqstream.loading.epochs import Epochs
from seqstream.loading.estimates import Estimates
from seqstream.loading.fingerprints import check_same
from seqstream.loading.iteration import Iteration, progress_bar
from seqstream.loading.not_a_dataset import NotADataset
from seqstream.loading.pipeline import Pipeline
from seqstream.loading.prefetch import StopSignal
from seqstream.loading.profile import Explains
from seqstream.loading.progress import Progress
from seqstream.loading.read_only import ReadOnlyArguments
from seqstream.loading.stage_lists import DataStage
from seqstream.loading.state import read_state
from seqstream.loading.stats import Stats
from seqstream.options import whole_number
from seqstream.planning.batch_spec import BatchSpec
from seqstream.planning.rank_shares import Uneven
from seqstream.records import Json
from seqstream.sources.choose_source import Data

_Answer = TypeVar("_Answer")


class Loader(NotADataset, ReadOnlyArguments, Explains, Iterable[Batch]):
    """Batches from a source, through stages, in an order that can be resumed.

    Iterating gives one epoch; iterate again for the next epoch, in a new order. The same seed gives the same batches, whatever
    ``prefetch``, ``num_workers`` and ``executor`` are. All arguments are attributes that can be read and not set.

    Args:
        source: Where records come from: a source, or what has one: a path, a glob or a folder of text, JSON
            lines, CSV, Parquet or tokens, a ``datasets.Dataset``, a list of strings, ids or tensors, a data set with
            ``__len__`` and ``__getitem__``, an iterable, or a generator function.
        stages: What happens to the records, in this order: any of `Map`, `Filter`, `MapRecords`, `FilterRecords` and
            `ClassLabels`, at most one `Tokenize`, and last how rows are batched: `Bucket`, `Pack` or `Unbucketed`.
        seed: Whole number; another seed gives another order.
        shuffle: Whether each epoch has an order of its own. Shards are then visited in an even order, every stretch of which
            covers the data, and the rows and batches of a window are mixed; lists and map-style data sets are read row by row
            in such an order. With ``False`` windows are in source order, the same in every epoch, and the batches of a `Bucket`
            longest first; `predict` undoes that.
        epochs: Number of epochs that one iteration runs over, with no pause between them; ``None`` for no end.
        accumulate: Number of batches of each rank that an optimiser step sums. They are planned together, of mixed lengths, so
            that each step is a fair sample of the data. `Batch.step` and `Batch.is_step_end` delimit steps; divide the
            losses by ``step_num_tokens`` or ``step_num_label_tokens``, known from the first batch of a step on. Only the last
            step of an epoch, or a step of very few rows, has fewer batches.
        num_workers: Number of processes that run the stages over blocks, for stages that take long in Python. With 0 a thread
            runs them; the fast engines use all cores by themselves. If a process dies, the iteration ends with an error, and
            the next iteration starts new processes.
        multiprocessing_context: How these processes start: ``"fork"``, ``"spawn"``, ``"forkserver"`` or a context of
            ``multiprocessing``; ``None`` for the default of Python.
        executor: A ``concurrent.futures.Executor`` that runs the stages over blocks instead of these processes, also on other
            machines: a `RayExecutor`, ``client.get_executor()`` of Dask, a pool of Python. Its workers read plain text and
            JSON lines with ``columns`` themselves where they find the same files, and are sent all other records. The loader
            never shuts it down. On several ranks each passes its own.
        workers: Another name of ``num_workers``.
        cache: A folder that keeps the rows of blocks, for later epochs, later runs and other ranks: what the same stages have
            made of the same records is read there. Batches are the same without it. Records that are read one by one, as of
            lists, are not kept.
        cache_bytes: Size of this folder above which its least used files are deleted; ``None`` for no limit.
        prefetch: Number of batches that are prepared ahead of the consumer, where ``device`` or ``on_batch`` makes that take
            time; elsewhere a batch is collated when it is asked for. More batches smooth uneven steps and hold more memory. The
            next window is always built ahead, unless it is 0: then all is done in the thread of the consumer.
        device: Where the tensors of a batch go; ``None`` leaves them on the CPU.
        pin_memory: Whether batches pass through page-locked memory; ``None`` for only on the way to CUDA.
        on_batch: A function ``Batch -> Batch`` that runs ahead of the consumer, such as `CausalLabels` or `MaskTokens`. Its
            random numbers, from `Batch.generator`, are the same after every resume. Rows without any label are dropped, so that
            no batch has a loss of NaN: rows of which all labels are -100, or which are too short for these functions. Ranks
            count labels by the attribute ``label_rule`` of the function; one that wraps another must pass that on.
        pad_values: What padding holds, by column. By default the padding token of the tokenizer, else 0; and -100 for labels:
            ``label``, ``labels``, ``label_ids``, names that end so, and columns of `ClassLabels`. Warns where 0 may be a class.
        padding_side: ``"right"`` or ``"left"``; by default the ``padding_side`` of the tokenizer, else right. `Pack` pads the
            end of a row, whatever this is.
        layout: The form of sequences that is prepared: ``"padded"``; or ``"jagged"``, flat and less to copy to the device, for
            models that take `Batch.varlen` or `Batch.nested`. A batch makes the other form when asked for it. `Pack` has its
            own.
        progress: Whether to show a progress bar, on rank 0.
        rank: Which of ``world_size`` processes this is. By default both are those of ``torch.distributed``, if it runs when an
            iteration begins; ``rank=0, world_size=1`` makes a loader for this process alone.
        world_size: Number of processes that share the data. All of them have the whole source and the same options, ``seed``
            and ``prefetch`` included. Ranks compare these and some records before each epoch, and every record that all of
            them read; where ranks differ, all raise. Items that differ each time they are read are not compared.
        all_gather: With ``rank`` and ``world_size``: a function ``bytes -> list[bytes]`` that returns on every rank what each
            rank has passed.
        uneven: What happens to a step with fewer rows than ranks, which the end of a window can have: ``"repeat"`` gives the
            ranks without a row a copy of another rank's, of weight 0; ``"drop"`` leaves out the rows of the step. ``stats``
            counts both. If other ranks go on with a window, ``"drop"`` may give the ranks of a step rows of different lengths,
            rather than leave out more than the last few; ``step_num_tokens`` of the step at which they go on may then count
            some rows of the step before.

    Raises:
        TypeError: A stage or the source has the wrong type, or an option has.
        ValueError: The last stage is not a batch spec, or an option has a value that is not allowed.
    """

    def __init__(
        self,
        source: Data,
        *stages: DataStage | BatchSpec,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = 1,
        accumulate: int = 1,
        num_workers: int = 0,
        multiprocessing_context: str | BaseContext | None = None,
        executor: Executor | None = None,
        workers: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
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
        self._arguments = LoaderArguments(**{name: value for name, value in locals().items() if name != "self"})
        self._epochs = Epochs(self._arguments, parse_stages(self._arguments))
        self._pipeline = Pipeline(self._epochs)
        self._progress = Progress.of(self.epochs, Calibration.of(self._epochs.spec))
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

    @property
    def window_stats(self) -> Stats:
        """What was handed out of the window that the last batch is of, and what it cost."""
        return self.stats.since(self._progress.before_window)

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
        """Return what is needed to go on with exactly the next batch: about a thousand bytes of JSON, without any rows.

        Args:
            stats: Whether to save ``stats`` as well, so that they go on where the state is loaded. They are of this rank alone,
                while all else is the same on every rank: let each rank save its own, or none.
        """
        progress = self._progress
        return self._pipeline.state_at(progress.position, progress.calibration, progress.stats if stats else None)

    def load_state_dict(self, state: Mapping[str, Json], strict: bool = True) -> None:
        """Go on where a state was saved: the next iteration continues with exactly the next batch.

        Args:
            state: What `state_dict` or `Batch.state` returned.
            strict: Whether to refuse a state of other stages, or of a `Mixture` with other weights or sources. With ``False``
                only data, seed and order must agree: the window under way begins again with the stages of this loader, and
                ``stats.repeated_rows`` counts those of its rows that were served before. If only weights, limits or the set of
                sources differ, the window is finished as it was planned, and no row is repeated; a source that is taken out
                should have the weight 0 until then, as the window may still need its rows.

        Raises:
            TypeError: The state is not a dict.
            ValueError: The state is of another version, is damaged, or is for other data, another tokenizer, seed or batch
                spec; the message names each entry.
        """
        saved = read_state(state)
        differing = check_same(saved.identity, self._epochs.identity, strict=strict)
        position, calibration, stats = saved.position, self._progress.calibration, saved.stats or self.stats
        self._epochs.check_start(position.window)
        others = differing - {"source", "mixture"}
        if not others:
            calibration = calibration.updated(self._epochs.calibration_of(saved.calibration, is_same=not differing))
        if others or not self._epochs.has_sources_of(position.window):
            stats = stats.plus(repeated_rows=position.window.num_repeated)
            position = position.restart_window()
        elif differing:
            position = position.with_other_mixture()
        self._stop_iteration("a state was loaded since")
        self._progress.load(position, calibration, stats)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, from wherever the loader is.

        Does nothing where a state of that epoch was just loaded, so that a loop that sets each epoch goes on where it was.

        Args:
            epoch: From 0 up.

        Raises:
            TypeError: It is not a whole number.
            ValueError: It is negative.
        """
        epoch = whole_number("epoch", epoch, least=0, rule="0 or more")
        if self._progress.origin == "loaded" and epoch in (self.epoch, self._progress.first_epoch):
            return
        self._stop_iteration("set_epoch was called since")
        self._progress.go_to(epoch)

    def estimate_steps(self) -> int | None:
        """Estimate the number of optimiser steps of an epoch, of ``accumulate`` batches of each rank.

        The estimate is within a few per cent with windows of the default size, and within 20 per cent where windows hold few
        batches or the data is sorted by length.

        It tokenizes and plans 2 MiB of records from all over the data. Files that are read front to back, which are compressed
        files and tables, are read up to 256 MiB to measure them.

        Returns:
            The number of steps; ``None`` where a source does not know its size, as a stream or a function that gives items, and
            for a mixture without ``tokens`` whose weights change. `count_steps` counts the steps of these.
        """
        return self._ask(Estimates.estimate_steps)

    def count_steps(self) -> int:
        """Count the optimiser steps of this epoch, of ``accumulate`` batches of each rank.

        It reads, tokenizes and plans all records in this process, without workers, which takes as long as an epoch in which the
        batches are not used; the second call takes no time. Other epochs, in other orders, may have a few steps more or fewer.

        Raises:
            ValueError: Records can be read once only.
        """
        key = (self.epoch, count_ranks(self.world_size))
        if key not in self._counted_steps:
            self._counted_steps[key] = self._ask(lambda estimates: estimates.count_steps(self.epoch))
        return self._counted_steps[key]

    def shapes(self) -> list[tuple[int, int]]:
        """Return the shapes ``(rows, length)`` that batches can have, shortest first, to warm up a compiled model.

        Shapes that the data decides are chosen from the beginning of epoch 0. Keep them for another run with
        ``json.dump(loader.shapes(), file)`` and ``Bucket(shapes="FILE")``.

        Raises:
            ValueError: Batches have no fixed shapes, or records can be read once only.
        """
        return list(self._ask(Estimates.shapes))

    def worst_batch(self, *, max_tokens: int | None = None) -> Batch:
        """Return a batch of the largest shape that can occur, so that memory runs out before training and not in the middle.

        All its rows are the first record of the data, repeated or cut to the longest length. It has passed through ``on_batch``
        and is on the device. Where `Tokenize` has no ``max_length``, the longest row is one that fills the budget.

        Args:
            max_tokens: A budget to try instead of that of `Bucket`, in tokens of a batch.

        Raises:
            ValueError: The longest row is not known, or does not fit; or records can be read once only.
        """
        window = self._ask(lambda estimates: estimates.largest_window(max_tokens))
        return self._pipeline.collate_alone(window, self.state_dict())

    def _ask(self, question: Callable[[Estimates], _Answer]) -> _Answer:
        """Return the answer to a question; keep what it has learned, unless an iteration is under way, which learns itself."""
        estimates = Estimates(self._epochs, self._progress.calibration, count_ranks(self.world_size))
        answer = question(estimates)
        iteration = None if self._iteration is None else self._iteration()
        if iteration is None or iteration.is_over:
            self._progress.calibration = self._progress.calibration.updated(estimates.calibration)
        return answer

    def _ranks(self) -> Ranks:
        """Return the ranks as they are now: ``torch.distributed`` may start after the loader is made."""
        if self._known_ranks is None or self._known_ranks.world_size == 1:
            self._known_ranks = find_ranks(self.rank, self.world_size, self.all_gather)
        return self._known_ranks

    def _stop_iteration(self, reason: str) -> None:
        if self._iteration is not None and (iteration := self._iteration()) is not None:
            iteration.close(reason)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but what runs, so that the copy goes on from where this loader is."""
        own = {"_iteration": None, "_known_ranks": None}
        return {**self.__dict__, **own, "_progress": copy.copy(self._progress), "_pipeline": copy.copy(self._pipeline)}

    def __copy__(self) -> Loader:
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__())
        return other

    def __repr__(self) -> str:
        parts = [repr(part) for part in (self.source, *self.stages)]
        return "Loader(\n" + "".join(f"    {part},\n" for part in parts) + f"    seed={self.seed}, shuffle={self.shuffle},\n)"
