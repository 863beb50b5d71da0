"""Masked language modelling, as BERT was trained: a function for ``Loader(on_batch=...)``."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqstream.arrays import flat_starts, ranges
from seqstream.batches import layouts
from seqstream.batches.batch import Batch
from seqstream.batches.labels import is_flat, put_beside
from seqstream.records import IGNORE_INDEX
from seqstream.stages.row_labels import LabelRule
from seqstream.tokenizing.tokenizer_spec import TokenizerSpec, read_tokenizer

MASK_TOKENS = ("[MASK]", "<mask>", "<|mask|>")

_MASKED, _RANDOM = 0.8, 0.9
"""Of the tokens to predict, 80 % are masked, 10 % become another one, 10 % stay."""

_LARGEST = 1 - 2**-20
"""Times a probability it is less than that in float32, too."""

_NEVER = 2.0
"""More than any draw and any probability."""


class _Vocabulary(NamedTuple):
    """What a tokenizer's ids are.

    Attributes:
        mask_id: The mask token.
        special: ``int64``, ids that stand for no text.
        ordinary: ``int64``, all others.
    """

    mask_id: int
    special: Tensor
    ordinary: Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MaskTokens:
    """Mask tokens for a model to predict, as BERT does: ``labels`` are the ids to predict, -100 elsewhere.

    Of these, 80 % become the mask token, 10 % an ordinary token drawn at random, and 10 % stay. Special tokens, padding and
    rows made up are left alone. Which ones are chosen follows from the batch: the same whenever it is made again, others in
    another epoch.

    Every row has at least one token to predict: where chance chooses none, as in most rows of a few tokens, it chooses one of
    them, each as likely as another. So a batch always has a loss, and in short rows more than a share of ``probability`` is
    predicted, as in BERT's own data. Rows of special tokens alone are dropped, counted as `Stats.rows_without_labels`.

    Args:
        tokenizer: What `Tokenize` has, unless that is a function of yours.
        probability: Share of the tokens that are to be predicted.
        column: The ids.
        mask_token: The token that masks; by default the one that the tokenizer calls so, or ``[MASK]`` or ``<mask>``.

    Raises:
        ValueError: The tokenizer has no mask token, or ``probability`` is none.
        TypeError: ``tokenizer`` is none whose vocabulary is known.
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
        """Which tokens may become labels: a row of special ones alone has none, and is dropped."""
        return LabelRule(self.column, never=tuple(self._vocabulary.special.tolist()), is_drawn=True)

    def __call__(self, batch: Batch) -> Batch:
        ids = batch.jagged[self.column] if is_flat(batch, self.column) else getattr(batch, self.column).contiguous()
        generator = batch.generator()
        may = self._may_change(batch, ids)
        draw = torch.rand(ids.shape, generator=generator).to(ids.device, non_blocking=True)
        others = self._vocabulary.ordinary[torch.randint(len(self._vocabulary.ordinary), ids.shape, generator=generator)]
        draw = torch.where(may, draw, _NEVER)
        self._choose_one_a_row(batch, draw, generator)
        masked, labels = self._mask(ids, draw, others.to(ids.device, non_blocking=True))
        return put_beside(batch, self.column, **{self.column: masked, "labels": labels})

    def _may_change(self, batch: Batch, ids: Tensor) -> Tensor:
        """Return where ids are real and not special, in the shape of ``ids``."""
        may = torch.isin(ids, self._vocabulary.special.to(ids.device, non_blocking=True), invert=True)
        if not is_flat(batch, self.column):
            may &= batch.mask_of(self.column)
        if none := batch.num_made + batch.num_repeated:  # the last rows
            slots, starts, _ = batch.find_rows(may, self.column)
            slots[starts[-none] :] = False
        return may

    def _choose_one_a_row(self, batch: Batch, draw: Tensor, generator: torch.Generator) -> None:
        """In rows in which no token was chosen, let the one of the least draw be; what becomes of it is drawn anew.

        Args:
            batch: Says where its rows are.
            draw: In the shape of the ids, `_NEVER` where no token may be chosen.
            generator: Draws what becomes of them.
        """
        slots, starts, lengths = batch.find_rows(draw, self.column)
        before = np.append(0, np.cumsum((slots < self.probability).cpu().numpy()))
        none = np.flatnonzero((before[starts + lengths] == before[starts]) & (lengths > 0))
        if not len(none):
            return
        lengths = lengths[none]
        places = ranges(starts[none], lengths)
        draws = slots[layouts.send(places, slots.device)].cpu().numpy()
        least = np.minimum.reduceat(draws, flat_starts(lengths))
        row = np.repeat(np.arange(len(none)), lengths)
        found = np.flatnonzero((draws == least[row]) & (draws < _NEVER))
        found = found[np.diff(row[found], prepend=-1) > 0]  # one of those that are equal
        fates = torch.rand(len(found), generator=generator).clamp_(max=_LARGEST) * self.probability
        slots[layouts.send(places[found], slots.device)] = fates.to(slots.device, non_blocking=True)

    def _mask(self, ids: Tensor, draw: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids, some of them masked, and labels; one draw says whether a token is chosen and what becomes of it."""
        labels = ids.masked_fill(draw >= self.probability, IGNORE_INDEX)
        masked = torch.where(draw < self.probability * _RANDOM, others, ids)
        return masked.masked_fill_(draw < self.probability * _MASKED, self._vocabulary.mask_id), labels


def _read_vocabulary(tokenizer: Any, tokenizer_spec: TokenizerSpec, mask_token: str | None) -> _Vocabulary:
    """Return what the ids of a tokenizer are, as the object says, or else as its serialised form does."""
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
