"""The sections of a report: pure functions whose values are known by hand, or must agree with a loader."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seqstream as ss
from seqstream.planning.length_counts import LengthCounts
from seqstream.planning.run_shares import run_shares
from seqstream.reporting.batch_pictures import LINE, draw_ways, largest_scale
from seqstream.reporting.classes import Classes, mix_classes
from seqstream.reporting.design_effect import label_effect
from seqstream.reporting.drawn_batches import draw_batches, outline
from seqstream.reporting.epoch_steps import composition, token_octiles
from seqstream.reporting.fixed_lengths import choose_shapes, fill_rows
from seqstream.reporting.lengths import describe_lengths
from seqstream.reporting.mixture_shares import describe_mixture, mix_rows
from seqstream.reporting.padding_curves import greedy, length_grouped, padding_of
from seqstream.reporting.served_batches import predict_epoch, serve_first_window, serve_random, take_batches
from seqstream.reporting.stragglers import serve_random as serve_random_ranks
from seqstream.reporting.stragglers import straggle, straggler
from seqstream.reporting.wording import percent, place, times, whole

many_lengths = st.lists(st.integers(1, 600), min_size=1, max_size=300).map(lambda rows: np.array(rows, np.int64))


def lengths_like_text(num: int = 4000) -> Any:
    """Return lengths that are spread as those of texts, up to 512."""
    return np.clip(np.random.default_rng(0).lognormal(3.5, 1.0, num).astype(np.int64), 1, 512)


def test_lengths_by_hand() -> None:
    """The description of a few lengths equals one computed by hand."""
    found = describe_lengths(LengthCounts.of(np.array([4, 1, 2, 1])))
    assert (found.shortest, found.longest, found.mean) == (1, 4, 2.0)
    halves = next(each for each in found.quantiles if each.share == 0.5)
    assert (halves.by_rows, halves.by_tokens) == (1, 2)
    assert [(each.low, each.high, each.rows, each.tokens) for each in found.bins] == [
        (1, 1, 0.5, 0.25),
        (2, 2, 0.25, 0.25),
        (4, 4, 0.25, 0.5),
    ]
    assert found.cuts == ()
    (cut,) = describe_lengths(LengthCounts.of(np.array([16, 48]))).cuts
    assert (cut.max_length, cut.rows, cut.tokens) == (32, 0.5, 0.25)


@given(many_lengths)
def test_lengths_are_whole(lengths: Any) -> None:
    """Bins hold all rows and all tokens, quantiles ascend to the longest row, and no limit cuts more than a larger one."""
    found = describe_lengths(LengthCounts.of(lengths))
    assert sum(each.rows for each in found.bins) == pytest.approx(1)
    assert sum(each.tokens for each in found.bins) == pytest.approx(1)
    for each in found.bins:
        inside = lengths[(lengths >= each.low) & (lengths <= each.high)]
        assert each.rows == pytest.approx(len(inside) / len(lengths))
        assert each.tokens == pytest.approx(inside.sum() / lengths.sum())
    by_rows = [each.by_rows for each in found.quantiles]
    assert by_rows == sorted(by_rows)
    assert by_rows[-1] == found.longest == lengths.max()
    assert all(each.by_rows == np.percentile(lengths, 100 * each.share, method="inverted_cdf") for each in found.quantiles)
    for cut in found.cuts:
        assert cut.rows == pytest.approx(np.mean(lengths > cut.max_length))
        assert cut.tokens == pytest.approx(1 - np.minimum(lengths, cut.max_length).sum() / lengths.sum())


def test_padding_of_other_ways_by_hand() -> None:
    """Length-grouped batches sort within parts, greedy ones fill a budget, and padding is what is not real."""
    ordered, cuts = length_grouped(np.arange(1, 9), 1)
    assert cuts.tolist() == list(range(9))
    assert sorted(ordered.tolist()) == list(range(1, 9))
    assert (ordered[::2] > ordered[1::2]).all(), "parts of two rows, as a quarter of the rows is less than 50 batches"
    ordered, cuts = greedy(np.array([1, 4, 2]), 8)
    assert (ordered.tolist(), cuts.tolist()) == ([4, 2, 1], [0, 2, 3])
    assert padding_of(ordered, cuts) == pytest.approx(2 / 9)


def test_length_grouped_is_that_of_transformers() -> None:
    """Its parts are as large as those of `LengthGroupedSampler`, so its padding is the same but for the order of rows."""
    from benchmarks.harness.peers import length_grouped_batches

    lengths = lengths_like_text()
    theirs = [length_grouped_batches(lengths, batch_size=16, seed=seed) for seed in range(3)]
    padding = [1 - lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in batches) for batches in theirs]
    ours = [padding_of(*length_grouped(lengths, 16, seed)) for seed in range(3)]
    assert np.mean(ours) == pytest.approx(np.mean(padding), rel=0.1)


def test_runs_by_hand() -> None:
    """Two batches of one part each, in turn, give equal shares for every two."""
    assert run_shares(np.array([[4.0, 0], [0, 4], [4, 0]]), 2).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    tokens = np.tile(np.array([[4.0, 0], [0, 4]]), (8, 1))
    found = composition(tokens, ("a", "b"), tokens, num=2)
    assert found is not None
    assert (found.whole, found.mean_off) == ((0.5, 0.5), 0.0)
    assert composition(tokens[:7], ("a", "b"), tokens, num=2) is None
    assert token_octiles(np.array([8, 1, 1, 1, 1, 1, 1, 1, 1])).tolist() == [4, *[0] * 8]


def test_label_effect_by_hand() -> None:
    """Batches of one class each are the worst case; those of all classes in equal parts have no noise."""
    counts = np.array([[8, 0], [8, 0], [0, 8], [0, 8]])
    assert label_effect(counts, 1) == pytest.approx(31 / 3)
    assert label_effect(np.full((4, 2), 4), 1) == 0
    assert math.isnan(label_effect(counts, 3)), "fewer than twice as many batches"
    assert math.isnan(label_effect(np.full((4, 1), 4), 1)), "one class"


def test_label_effect_of_random_rows_is_one() -> None:
    """Batches of random rows have a design effect of 1."""
    labels = np.random.default_rng(1).integers(0, 3, 40 * 500)
    counts = np.stack([np.bincount(batch, minlength=3) for batch in labels.reshape(500, 40)])
    assert label_effect(counts, 1) == pytest.approx(1, abs=0.15)
    assert label_effect(counts, 8) == pytest.approx(1, abs=0.35)


def test_shapes_and_packed_rows_by_hand() -> None:
    """A shape for each length pads nothing; packed rows are as full as best fit makes them."""
    found = choose_shapes(np.array([1, 1, 4]), 8, numbers=(1, 2))
    assert [choice.padding for choice in found.choices] == [0.5, 0.0]
    assert found.best.shapes == ((8, 1), (2, 4))
    packed = fill_rows(np.array([3, 3, 2]), row_lengths=(5,))
    assert [(each.row_length, each.fill, each.split) for each in packed.fills] == [(5, 0.8, 0.0)]
    assert fill_rows(np.array([6, 4]), row_lengths=(5,)).fills[0].split == 0.5


def test_stragglers_by_hand() -> None:
    """Two ranks that work 3 and 1 in a step, and 2 and 2 in the next, take 5 where 4 would do."""
    assert straggler(np.array([[3.0, 1.0], [2.0, 2.0]])) == 1.25
    served = serve_random_ranks(LengthCounts.of(np.array([5, 5, 5, 5, 5])), 2, 2)
    assert (served.longest.tolist(), served.rows.tolist()) == ([[5, 5]], [[2, 2]])


def test_planned_ranks_wait_less() -> None:
    """A single rank never waits, and ranks that plan together wait less than those with random rows."""
    one, eight = straggle(lengths_like_text(), 2048, (1, 8))
    assert (one.rnn, one.transformer, one.random_rnn) == (1, 1, 1)
    assert 1 <= eight.rnn < 1.1 < eight.random_rnn
    assert 1 <= eight.transformer < 1.1 < eight.random_transformer


@pytest.mark.parametrize(
    "spec", [ss.Bucket(512), ss.Bucket(2048, window_batches=8), ss.Unbucketed(16), ss.Pack(512, rows=4)], ids=repr
)
def test_prediction_is_the_run_that_follows(spec: Any) -> None:
    """Steps, tokens and padding of an epoch are predicted to within one per cent from the lengths of its rows."""
    lengths = lengths_like_text()
    rows = [[1] * length for length in lengths.tolist()]
    loader = ss.Loader(ss.Generator(rows), spec, accumulate=4)
    loader.set_epoch(1)
    slots = tokens = steps = 0
    for batch in loader:
        slots, tokens, steps = slots + batch.num_slots, tokens + batch.num_tokens, steps + batch.is_step_end
    found = predict_epoch(lengths, spec, batches_per_step=4)
    assert found.steps == pytest.approx(steps, rel=0.01, abs=1)
    assert found.tokens == pytest.approx(tokens, rel=0.01)
    assert found.padding == pytest.approx(1 - tokens / slots, abs=0.01)


def test_prediction_by_hand() -> None:
    """Rows of 4, 4, 2 and 2 tokens under a budget of 8 make two batches without padding."""
    found = predict_epoch(np.array([4, 4, 2, 2]), ss.Bucket(8), batches_per_step=2, scale=10.0)
    assert (found.steps, found.batches, found.tokens, found.padding) == (10, 20, 120, 0.0)


@given(many_lengths, st.integers(600, 2000))
def test_served_batches_hold_every_row_once(lengths: Any, max_tokens: int) -> None:
    """The batches of a window hold its rows once, longest first, in the budget; and so do random batches."""
    for codes in (None, np.arange(len(lengths)) % 3):
        served = serve_first_window(lengths, ss.Bucket(max_tokens), codes=codes)
        assert sorted(served.rows.tolist()) == list(range(len(lengths)))
        assert served.lengths.tolist() == lengths[served.rows].tolist()
        assert served.slots.max() <= max_tokens
        assert served.tokens.sum() == lengths.sum()
        assert served.longest.tolist() == [rows.max() for rows in np.split(served.lengths, served.cuts[1:-1])]
        random = serve_random(lengths, served)
        assert sorted(random.rows.tolist()) == sorted(served.rows.tolist())
        assert served.count(np.zeros(len(lengths), np.int64), 1)[:, 0].tolist() == served.num_rows.tolist()


def test_drawn_batches_are_to_scale() -> None:
    """The boxes of all ways hold the same tokens, and their areas are their slots."""
    lengths = lengths_like_text()
    served = serve_first_window(lengths, ss.Bucket(2048))
    found = draw_batches(lengths, served, 2048, 512)
    random, similar, packed = found.ways
    for way in found.ways:
        assert sum(batch.tokens for batch in way.batches) == found.tokens
        assert way.slots == sum(batch.rows * batch.width for batch in way.batches)
        assert way.padding == pytest.approx(1 - found.tokens / way.slots)
        for batch in way.batches:
            assert sum(rows for rows, _ in batch.outline) == batch.rows
            area = sum(rows * share for rows, share in batch.outline) * batch.width
            assert area == pytest.approx(batch.tokens)
    assert found.rows == take_batches(served, 8).num_rows.sum()
    assert random.padding > 0.4
    assert similar.padding < 0.02
    assert packed.slots >= found.tokens
    assert outline(np.array([1.0, 1.0, 0.5])) == ((2, 1.0), (1, 0.5))
    pictures = draw_ways(found)
    assert [picture.count("<rect") for picture in pictures] == [len(way.batches) for way in found.ways]
    assert largest_scale([1], 1) * 1 / 84 <= LINE


def test_mixed_rows_by_hand() -> None:
    """Sources are read again to give their tokens, and each stretch has all of them."""
    lengths, sources, rows = mix_rows([np.array([2, 2]), np.array([4])], [4.0, 8.0])
    assert sorted(zip(sources.tolist(), rows.tolist(), lengths.tolist(), strict=True)) == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 4),
        (1, 0, 4),
    ]
    assert sources.tolist()[:2] == [0, 1]
    assert mix_rows([np.array([2]), np.array([4])], [2.0, 0.0])[1].tolist() == [0]


def test_classes_of_a_mixture() -> None:
    """Classes of one column are numbered over all sources, each row keeps its own, and different columns give none."""
    one = Classes("label", ("x", "y"), np.array([0, 1, -1]))
    other = Classes("label", ("y", "z"), np.array([1, 0]))
    sources, rows = np.array([0, 2, 0, 1, 2, 0]), np.array([2, 0, 1, 0, 1, 0])
    found = mix_classes([one, None, other], sources, rows)
    assert found is not None
    assert (found.column, found.names) == ("label", ("x", "y", "z"))
    assert found.codes.tolist() == [-1, 2, 1, -1, 1, 0]
    assert mix_classes([one, Classes("kind", ("y", "z"), np.array([1, 0]))], sources % 2, rows % 2) is None
    assert mix_classes([None, None], sources % 2, rows % 2) is None


def test_report_of_a_mixture_has_its_classes() -> None:
    """The design effect of the classes of a mixture is computed, as classes of a mixture follow lengths here."""
    rows = {
        name: [{"input_ids": [1] * (1 + (number + shift) % 60), "label": (number + shift) % 60 // 20} for number in range(999)]
        for name, shift in (("a", 0), ("b", 30))
    }
    mixture = ss.Mixture({name: ss.Generator(own) for name, own in rows.items()}, {"a": 1, "b": 1})
    steps = ss.report(mixture, ss.Bucket(256), is_measured=False).sections.steps
    assert (steps.label, steps.num_classes) == ("label", 3)
    assert steps.label_effects[0].effect > 2


def test_mixture_is_what_a_loader_gives() -> None:
    """Shares and epochs of the sources of a mixture are those of the run that follows."""
    rows = {name: [[number] * 5 for number in range(1, size)] for name, size in (("a", 400), ("b", 100))}
    mixture = ss.Mixture({name: ss.Generator(own) for name, own in rows.items()}, {"a": 1, "b": 1}, epochs={"a": 1, "b": 2})
    found = describe_mixture(mixture, [np.full(len(own), 5) for own in rows.values()])
    loader = ss.Loader(mixture, ss.Bucket(100))
    for _ in loader:
        pass
    given = loader.stats.by_source
    total = sum(each.tokens for each in given.values())
    assert found.tokens == pytest.approx(total, rel=0.03)
    for source in found.sources:
        assert source.asked == 0.5
        assert source.given == pytest.approx(given[source.name].tokens / total, abs=0.02)
        assert source.epochs[0] == pytest.approx(given[source.name].tokens / source.tokens, abs=0.05)


def test_wording() -> None:
    """Numbers are short, and locations have no folder."""
    assert [percent(share) for share in (0, 1, 0.9966, 0.9134, 0.0995, 0.0134)] == ["0%", "100%", "99.7%", "91%", "10%", "1.3%"]
    assert [times(more) for more in (1.26, 9.12, 12.4)] == ["1.3 times", "9.1 times", "12 times"]
    assert [whole(number) for number in (512, 65_536, 2_100_000)] == ["512", "65,536", "2.1M"]
    assert place("/a/b.txt, line 3") == "b.txt, line 3"
