"""The sentences of the page: what each picture shows, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from seqstream.planning.bucket import Bucket
from seqstream.reporting.drawn_batches import DrawnSection
from seqstream.reporting.epoch_steps import StepSection
from seqstream.reporting.fixed_lengths import PackSection, ShapeSection
from seqstream.reporting.lengths import LengthSection
from seqstream.reporting.mixture_shares import MixtureSection
from seqstream.reporting.sections import Sections
from seqstream.reporting.stragglers import Straggling
from seqstream.reporting.wording import percent, times, whole
from seqstream.tuning.planned_epoch import Setting
from seqstream.tuning.report import Report

FAIR_EFFECT = 1.3
"""A design effect up to this is as good as random rows."""

FEW_WAIT = 1.1
"""A straggler factor up to this is hardly any waiting."""

_MOST_EPOCHS = 4
"""Reading a source more often than this teaches a language model little: Muennighoff et al., 2023."""


def lead(summary: Report, sections: Sections) -> str:
    """Sum up the page in two sentences."""
    padding, random = sections.prediction.padding, sections.random.padding
    saved = (1 - padding) / (1 - random)
    lengths = sections.lengths
    what = f"{summary.survey.rows:,} rows of {lengths.shortest:,} to {lengths.longest:,} tokens"
    if saved < 1.02:
        return f"{what}. Their lengths are so alike that random batches pad as little as any: {percent(random)}."
    return (
        f"{what}. In random batches {percent(random)} of what a model computes is padding, in batches of similar lengths "
        f"{percent(padding)}: the same epoch computes {times(saved)} less."
    )


def of_drawn(section: DrawnSection) -> str:
    """Explain the picture of batches."""
    random, ours, _ = section.ways
    return (
        f"Each box is a batch, each line in it a row, and its area is what a model computes. Blue is text, grey is padding. "
        f"These are the same {section.rows:,} rows, a fair sample, all to the same scale. Rows of similar length together need "
        f"{times(random.slots / ours.slots)} less area; packed rows suit language models, whose rows may share a line."
    )


def of_lengths(section: LengthSection) -> str:
    """Explain the histogram of lengths."""
    half = next(each for each in section.quantiles if each.share == 0.5)
    return (
        f"Half of the rows have at most {half.by_rows:,} tokens, but half of all tokens are in rows of more than "
        f"{half.by_tokens:,}. Choose `max_length` by the tokens that it loses, not by the rows that it cuts."
    )


def of_padding(best: Setting) -> str:
    """Explain padding against the budget."""
    window = best.spec.window_batches if isinstance(best.spec, Bucket) else None
    planned = f" with {window:,} batches planned together" if window else ""
    return (
        f"Lower is better. The ring is the recommended budget of {best.max_tokens:,} tokens{planned}: {percent(best.padding)} "
        "padding. Raise the budget as far as memory allows; similar lengths stay cheap, and random rows do not. Length-grouped "
        "batches are those of `LengthGroupedSampler`; cut greedily are sorted windows."
    )


def of_windows(best: Setting) -> str:
    """Explain padding against the window."""
    return (
        "The more batches are planned together, the less they pad. The default window holds 64 MiB of ids and at least 256 "
        f"batches, so set `window_batches` only to save memory. Here the budget is {best.max_tokens:,} tokens."
    )


def of_steps(section: StepSection) -> str:
    """Explain the lengths that steps meet."""
    fair = ""
    if section.by_length is not None:
        ours, random = (f"{off / 2:.1%}" for off in (section.by_length.mean_off, section.by_length.random_off))
        fair = (
            f" Any 16 batches have the lengths of the whole window to within {ours} of their tokens; random batches {random}."
        )
    return (
        "Long and short batches take turns, so that no stretch of training sees only one kind; random batches are all as long "
        f"as their longest row.{fair} Divide losses by the tokens or rows of a step, not of a batch."
    )


def of_effects(section: StepSection) -> str:
    """Explain the design effect of classes."""
    first, last = section.label_effects[0], section.label_effects[-1]
    what = f"How noisy a step's gradient is because of the classes in `{section.label}`, against random rows (the dashed line)."
    fair = next((each for each in section.label_effects if each.effect <= FAIR_EFFECT), None)
    if first.effect <= FAIR_EFFECT:
        return f"{what} Single batches are as good as random ones, or better: {first.effect:.2f}. Nothing to do."
    if fair is not None:
        noise = f"A single batch has {times(first.effect)} the noise, {fair.batches} together {fair.effect:.2f}"
        return f"{what} {noise}: set `Loader(accumulate={fair.batches})`."
    return (
        f"{what} Length and class go together here: {last.batches} batches as they are have {times(last.effect)} the noise, "
        f'and {last.balanced:.2f} with `Bucket(balance="{section.label}")`. Set it, and `Loader(accumulate=8)`.'
    )


def of_shapes(section: ShapeSection) -> str:
    """Explain fixed shapes."""
    best = section.best
    return (
        f"`torch.compile` and CUDA graphs want few shapes. `Bucket(shapes={best.num_shapes})` chooses the lengths that pad "
        f"least: {percent(best.padding)} padding, against {percent(section.choices[0].padding)} with one shape."
    )


def of_packing(section: PackSection) -> str:
    """Explain packed rows."""
    best = section.best
    split = f"splits {percent(best.split)} of the sequences" if best.split else "splits none of them"
    return (
        f"For a language model, `Pack` puts whole sequences into rows of one length. Rows of {best.row_length:,} slots are "
        f'{percent(best.fill)} full, and `overflow="split"` {split}.'
    )


def of_ranks(ranks: Sequence[Straggling]) -> str:
    """Explain straggler factors."""
    most = ranks[-1]
    what = (
        "How much longer a run takes because ranks wait for the slowest one (1.00: they never wait), for a corpus like this "
        f"that fills the windows of all. With steps planned together {most.world_size} ranks take {most.rnn:.2f} for an RNN "
        f"and {most.transformer:.2f} for a transformer;"
    )
    if most.random_rnn < FEW_WAIT and most.random_transformer < FEW_WAIT:
        return f"{what} with random rows they hardly wait either, as every batch is padded to about the longest row there is."
    return f"{what} with random rows {most.random_rnn:.2f} and {most.random_transformer:.2f}."


def of_mixture(section: MixtureSection) -> str:
    """Explain the shares of a mixture."""
    repeated = [source for source in section.sources if source.epochs[-1] > _MOST_EPOCHS]
    what = (
        f"Grey is the share that the weights ask for, blue what an epoch of {section.tokens:,} tokens gives. How often a "
        "source is read grows with the run: above the dashed line, at four times, reading it again teaches little."
    )
    if not repeated:
        return what
    most = max(repeated, key=lambda source: source.epochs[-1])
    reads = f"A run of {whole(section.run_tokens[-1])} tokens reads {most.name} {most.epochs[-1]:.0f} times"
    return f"{what} {reads}: lower its weight, or limit it with `epochs=`."
