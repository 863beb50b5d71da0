"""Masked language modelling, as BERT was trained: a function for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import flat_starts, ranges
from seqstream.batches import ragged_tensors
from seqstream.batches.batch import Batch
from seqstream.batches.labels import clear_unweighted, is_flat_only, read_ids, with_like
from seqstream.records import IGNORE_INDEX
from seqstream.stages.label_filter import LabelRule
from seqstream.tokenizing.tokenizer_reading import read_tokenizer
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec

MASK_TOKENS = ("[MASK]", "<mask>", "<|mask|>")
"""Mask tokens to look for where the tokenizer names none."""

_MASKED, _RANDOM = 0.8, 0.9
"""Of the tokens to predict, 80 % become the mask token, 10 % another token, and 10 % stay."""

_BELOW_1 = 1 - 2**-20
"""Times a probability it is less than that probability, in float32 too."""

_NEVER = 2.0
"""Larger than any draw and any probability."""


class _Vocabulary(NamedTuple):
    """The ids of a tokenizer.

    Attributes:
        mask_id: The mask token.
        special: ``int64``, ids that stand for no text, ascending.
        ordinary: ``int64``, all others, ascending.
    """

    mask_id: int
    special: Tensor
    ordinary: Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MaskTokens:
    """Mask tokens for a model to predict, as BERT does: ``labels`` are the ids to predict, -100 elsewhere.

    Of these, 80 % become the mask token, 10 % an ordinary token drawn at random, and 10 % stay. Special tokens, padding and
    rows made up stay as they are. The draws depend on the batch alone: they are the same whenever it is rebuilt, and differ
    between epochs.

    Every row has at least one token to predict: a row for which none is drawn, as happens to most rows of a few tokens, gets
    one of its tokens, each with equal probability. So every batch has a loss, and in short rows more than a share of
    ``probability`` is predicted, as in BERT's own data. Rows of special tokens alone are dropped, and counted as
    `Stats.rows_without_labels`.

    A function around it has to pass on its ``label_rule``, by which a loader drops those rows: see `CausalLabels`. The number
    of labels is random, so `Batch.global_num_label_tokens` and `Batch.step_num_label_tokens` raise an error on several ranks
    and in steps of several batches.

    Args:
        tokenizer: The tokenizer of `Tokenize`, unless that is a Python function.
        probability: Share of the tokens to predict.
        column: The ids.
        mask_token: The token that masks; by default the tokenizer's own, or ``[MASK]`` or ``<mask>``.

    Raises:
        ValueError: The tokenizer has no mask token, ``probability`` is not in (0, 1], or the batch has no such column.
        TypeError: The vocabulary of ``tokenizer`` is not known.
    """

    tokenizer: Any
    _: dataclasses.KW_ONLY
    probability: float = 0.15
    column: str = "input_ids"
    mask_token: str | None = None
    _vocabulary: _Vocabulary = dataclasses.field(init=False)
    _shown: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be more than 0 and at most 1, got {self.probability!r}")
        tokenizer_spec = read_tokenizer(self.tokenizer, special_tokens=True)
        object.__setattr__(self, "_vocabulary", _read_vocabulary(self.tokenizer, tokenizer_spec, self.mask_token))
        object.__setattr__(self, "_shown", str(tokenizer_spec))

    def __repr__(self) -> str:
        column = "" if self.column == "input_ids" else f", column={self.column!r}"
        return f"MaskTokens({self._shown}, probability={self.probability}{column})"

    @property
    def label_rule(self) -> LabelRule:
        """Which steps of a row may become labels: all that are no special tokens."""
        return LabelRule(self.column, never=tuple(self._vocabulary.special.tolist()), is_drawn=True)

    def __call__(self, batch: Batch) -> Batch:
        ids = read_ids(batch, self.column)
        generator = batch.generator()
        may_change = self._may_change(batch, ids)
        draws = torch.rand(ids.shape, generator=generator).to(ids.device, non_blocking=True)
        others = self._vocabulary.ordinary[torch.randint(len(self._vocabulary.ordinary), ids.shape, generator=generator)]
        draws = torch.where(may_change, draws, _NEVER)
        self._choose_one_per_row(batch, draws, generator)
        masked, labels = self._mask(ids, draws, others.to(ids.device, non_blocking=True))
        return with_like(batch, self.column, **{self.column: masked, "labels": labels})

    def _may_change(self, batch: Batch, ids: Tensor) -> Tensor:
        """Return where ids are real and not special, in the shape of ``ids``."""
        may_change = torch.isin(ids, self._vocabulary.special.to(ids.device, non_blocking=True), invert=True)
        if not is_flat_only(batch, self.column):
            may_change &= batch.mask_of(self.column)
        clear_unweighted(batch, self.column, may_change, False)
        return may_change

    def _choose_one_per_row(self, batch: Batch, draws: Tensor, generator: torch.Generator) -> None:
        """Choose the token of the least draw in rows in which none was chosen, and draw anew what becomes of it.

        Args:
            batch: The batch whose rows they are.
            draws: In the shape of the ids, `_NEVER` where no token may be chosen; written in place.
            generator: Draws what becomes of the tokens.
        """
        slots, starts, lengths = batch.find_rows(draws, self.column)
        num_before = np.append(0, np.cumsum((slots < self.probability).cpu().numpy()))
        rows = np.flatnonzero((num_before[starts + lengths] == num_before[starts]) & (lengths > 0))
        if not len(rows):
            return
        lengths = lengths[rows]
        row_slots = ranges(starts[rows], lengths)
        row_draws = slots[ragged_tensors.to_device(row_slots, slots.device)].cpu().numpy()
        least = np.minimum.reduceat(row_draws, flat_starts(lengths))
        row = np.repeat(np.arange(len(rows)), lengths)
        found = np.flatnonzero((row_draws == least[row]) & (row_draws < _NEVER))
        found = found[np.diff(row[found], prepend=-1) > 0]  # the first of equal draws
        redrawn = torch.rand(len(found), generator=generator).clamp_(max=_BELOW_1) * self.probability
        slots[ragged_tensors.to_device(row_slots[found], slots.device)] = redrawn.to(slots.device, non_blocking=True)

    def _mask(self, ids: Tensor, draws: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids, some of them masked, and labels; one draw decides whether a token is chosen and what becomes of it."""
        labels = ids.masked_fill(draws >= self.probability, IGNORE_INDEX)
        masked = torch.where(draws < self.probability * _RANDOM, others, ids)
        return masked.masked_fill_(draws < self.probability * _MASKED, self._vocabulary.mask_id), labels


def _read_vocabulary(tokenizer: Any, tokenizer_spec: TokenizerSpec, mask_token: str | None) -> _Vocabulary:
    """Return the ids of a tokenizer, from the object or else from its serialised form.

    Raises:
        ValueError: It has no mask token, or not the one named.
        TypeError: It is a function without a vocabulary.
    """
    if tokenizer_spec.is_function:
        if not hasattr(tokenizer, "get_vocab"):
            raise TypeError(f"tokenizer must be one whose vocabulary is known, got the function {tokenizer_spec.name}")
        vocab, special = tokenizer.get_vocab(), set()
    else:
        built = tokenizer_spec.build()
        vocab = built.get_vocab(with_added_tokens=True)
        special = {number for number, token in built.get_added_tokens_decoder().items() if token.special}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    wanted = mask_token or getattr(tokenizer, "mask_token", None)
    found = [token for token in ((wanted,) if wanted else MASK_TOKENS) if token in vocab]
    if not found:
        looked_for = f"the mask token {wanted!r}" if wanted else f"a mask token ({', '.join(MASK_TOKENS)})"
        raise ValueError(f"tokenizer {tokenizer_spec} must have {looked_for}, got none; set MaskTokens(mask_token=...)")
    special.add(vocab[found[0]])
    ordinary = sorted(set(vocab.values()) - special)
    return _Vocabulary(vocab[found[0]], torch.tensor(sorted(special)), torch.tensor(ordinary))
