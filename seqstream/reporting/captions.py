"""The sentences of the page: what each picture shows, and what to do about it."""

from __future__ import annotations

from seqstream.planning.bucket import Bucket
from seqstream.reporting.drawn_batches import DrawnSection
from seqstream.reporting.epoch_steps import StepSection
from seqstream.reporting.fixed_lengths import PackSection, ShapeSection
from seqstream.reporting.lengths import LengthSection
from seqstream.reporting.mixture_shares import MixtureSection
from seqstream.reporting.sections import Sections
from seqstream.reporting.stragglers import Straggling
from seqstream.tuning.planned_epoch import Setting
from seqstream.tuning.report import Report

FAIR_EFFECT = 1.3
"""A design effect up to this is as good as random rows."""

_MOST_EPOCHS = 4
"""Reading a source more often than this teaches a language model little: Muennighoff et al., 2023."""

_ACCUMULATE = "sum several batches a step with Loader(accumulate=8)"


def times(more: float) -> str:
    """Return how many times as much something is: ``times(9.12)`` is ``"9.1 times"``."""
    return f"{more:.1f} times" if more < 10 else f"{more:.0f} times"


def percent(share: float) -> str:
    """Return a share with two digits that count: 0.9134 is ``"91%"``, 0.0034 is ``"0.34%"``."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.00995 or not share else f"{share:.2%}"


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
        f"Each box is a batch, each line in it a row, and its area is what a model computes. Blue is text and grey is padding. "
        f"These are the same {section.rows:,} rows, a fair sample, all to the same scale. Rows of similar length together need "
        f"{times(random.slots / ours.slots)} less area; packed rows suit language models, whose rows may share a line."
    )


def of_lengths(section: LengthSection) -> str:
    """Explain the histogram of lengths."""
    half = next(each for each in section.quantiles if each.share == 0.5)
    return (
        f"Half of the rows have at most {half.by_rows:,} tokens, but half of all tokens are in rows of more than "
        f"{half.by_tokens:,}. Choose max_length by the tokens that it loses, not by the rows that it cuts."
    )


def of_padding(best: Setting) -> str:
    """Explain padding against the budget."""
    window = best.spec.window_batches if isinstance(best.spec, Bucket) else None
    return (
        f"Lower is better; the ring is the recommended budget of {best.max_tokens:,} tokens"
        f"{f' with {window:,} batches planned together' if window else ''}: {percent(best.padding)} padding. Raise the budget as "
        "far as memory allows; similar lengths stay cheap, and random rows do not."
    )


def of_windows(best: Setting) -> str:
    """Explain padding against the window."""
    return (
        f"The more batches are planned together, the less they pad: about half with each doubling. The default window holds 64 MiB "
        f"of ids and at least 256 batches, so set window_batches only to save memory. Budget here: {best.max_tokens:,} tokens."
    )


def of_steps(section: StepSection) -> str:
    """Explain the lengths that steps meet."""
    off = section.by_length
    fair = (
        ""
        if off is None
        else f" Any 16 batches have the lengths of the whole window to within {off.mean_off / 2:.1%} of their tokens; with random "
        f"rows it is {off.random_off / 2:.1%}."
    )
    return (
        "Long and short batches take turns, so that no stretch of training sees only one kind; random batches are all as long as "
        f"their longest row.{fair} Nothing to do: sum losses over a step, not means of batches."
    )


def of_effects(section: StepSection) -> str:
    """Explain the design effect of classes."""
    first, last = section.label_effects[0], section.label_effects[-1]
    fair = next((each for each in section.label_effects if each.effect <= FAIR_EFFECT), None)
    what = f"The classes of {section.label!r} in a step, against random rows (the dashed line): noise of a step's gradient."
    if first.effect <= FAIR_EFFECT:
        return f"{what} {first.effect:.2f} for single batches is as good as random. Nothing to do."
    if fair is not None:
        return f"{what} A single batch has {times(first.effect)} the noise; set Loader(accumulate={fair.batches})."
    return (
        f"{what} A single batch has {times(first.effect)} the noise, {last.batches} together {times(last.effect)}: length and class "
        f"go together here. Set Bucket(balance={section.label!r}) and {_ACCUMULATE}."
    )


def of_shapes(section: ShapeSection) -> str:
    """Explain fixed shapes."""
    best = section.best
    return (
        f"torch.compile and CUDA graphs want few shapes. Bucket(shapes={best.num_shapes}) chooses the lengths that pad least: "
        f"{percent(best.padding)} padding, against {percent(section.choices[0].padding)} with one shape."
    )


def of_packing(section: PackSection) -> str:
    """Explain packed rows."""
    best = section.best
    split = f"splits {percent(best.split)} of the sequences" if best.split else "splits none of them"
    return (
        f"For a language model, Pack puts whole sequences into rows of one length. Rows of {best.row_length:,} slots are "
        f"{best.fill:.1%} full, and overflow='split' {split}."
    )


def of_ranks(ranks: tuple[Straggling, ...] | list[Straggling]) -> str:
    """Explain straggler factors."""
    most = ranks[-1]
    return (
        f"How much longer a run takes because ranks wait for the slowest (1.00: never), for a corpus of this shape that fills "
        f"their windows. On {most.world_size} ranks with random rows (grey) an RNN takes {times(most.random_rnn)} as long as it "
        f"must, with step='alike' {most.rnn:.2f}; a transformer {times(most.random_transformer)}, with step='mixed' "
        f"{most.transformer:.2f}. If long rows still cost more, add cost='attention'."
    )


def of_mixture(section: MixtureSection) -> str:
    """Explain the shares of a mixture."""
    repeated = [source for source in section.sources if source.epochs[-1] > _MOST_EPOCHS]
    what = (
        f"Grey is the share that the weights ask for, blue what an epoch of {section.tokens:,} tokens gives. On the right, how often "
        "each source is read in a longer run; above the dashed line, at four times, more reading teaches little."
    )
    if not repeated:
        return what
    most = max(repeated, key=lambda source: source.epochs[-1])
    return f"{what} {most.name} would be read {most.epochs[-1]:.0f} times: lower its weight, or cap it with epochs={{...}}."
