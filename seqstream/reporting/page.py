"""Puts the page together: data, sentences and pictures into one file of HTML."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import itertools
import threading
from importlib.metadata import version
from typing import Any

import numpy as np

from seqstream.planning.bucket import Bucket
from seqstream.reporting import captions
from seqstream.reporting.sections import Sections
from seqstream.reporting.stragglers import HIDDEN_SIZE, mixed_spec
from seqstream.reporting.wording import percent, place
from seqstream.tuning.printing import short_number
from seqstream.tuning.report import Report

_SUSPICIONS = {
    "empty": ("empty", "Records without a token. They are left out; look whether their field is the right one."),
    "unknown": (
        "only unknown tokens",
        "The tokenizer knows nothing of these texts. Leave them out, or take another tokenizer.",
    ),
    "repeated": ("repeated", "Rows with the same tokens as an earlier row. A model that sees them twice remembers them."),
    "cut": ("cut", "Records longer than the longest row. What is over is lost."),
    "split": ("split", "Records longer than the longest row. Each piece is a row, and nothing is lost."),
    "dropped": ("dropped", "Records longer than the longest row. They are left out."),
}


def render_page(title: str, summary: Report, sections: Sections, *, is_given: bool = False) -> str:
    """Return the page of a report.

    Args:
        title: Name of the data.
        summary: The settings that were compared.
        sections: All sections.
        is_given: Whether the loader was given, and not recommended.

    Raises:
        ModuleNotFoundError: jinja2 or matplotlib is missing.
    """
    template = load_template()
    from seqstream.reporting import charts

    rendered: str = template.render(
        title=title,
        is_given=is_given,
        summary=summary,
        sections=sections,
        best=summary.best,
        captions=captions,
        pictures={name: _markup(value) for name, value in _pictures(summary, sections).items()},
        settings=_settings(summary),
        set_on_ranks=_set_on_ranks(summary, sections),
        suspicions=_suspicions(summary, sections),
        categories=[f"part{number}" for number in charts.CATEGORIES],
        version=version("seqstream"),
    )
    return rendered


@functools.cache
def load_template() -> Any:
    """Return the compiled template, after the imports that pages need, which take most of a second the first time.

    Raises:
        ModuleNotFoundError: jinja2 or matplotlib is missing.
    """
    try:
        import jinja2

        from seqstream.reporting import charts  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the page of a report must have {error.name}, which is not installed; pip install 'seqstream[report]'",
            name=error.name,
        ) from error
    text = importlib.resources.files("seqstream.reporting").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(percent=percent, short=short_number, number=lambda value: f"{value:,}", place=place, prose=prose)
    return environment.from_string(text)


def prepare_page() -> None:
    """Begin to load what pages need, in a thread, while a corpus is read. What is missing is an error of `render_page`."""

    def load() -> None:
        with contextlib.suppress(ModuleNotFoundError):
            load_template()

    threading.Thread(target=load, name="seqstream-page", daemon=True).start()


def _pictures(summary: Report, sections: Sections) -> dict[str, Any]:
    """Return all pictures as SVG, by name; ``None`` where there is nothing to draw."""
    from seqstream.reporting import batch_pictures, charts

    best, steps, mixture = summary.best, sections.steps, sections.mixture
    window = getattr(best.spec, "window_batches", None)
    return {
        "drawn": list(zip(sections.drawn.ways, batch_pictures.draw_ways(sections.drawn), strict=True)),
        "lengths": charts.draw_lengths(sections.lengths),
        "padding": charts.draw_padding(sections.padding, best.max_tokens, window),
        "windows": charts.draw_windows(sections.padding, best.max_tokens),
        "steps": charts.draw_steps(steps),
        "by_length": steps.by_length and charts.draw_composition("by-length", steps.by_length, is_ordered=True),
        "by_source": steps.by_source and charts.draw_composition("by-source", steps.by_source),
        "effects": charts.draw_effects(steps.label_effects) if steps.label_effects else None,
        "shapes": charts.draw_shapes(sections.shapes),
        "packing": charts.draw_packing(sections.packing),
        "ranks": charts.draw_ranks(sections.ranks),
        "shares": mixture and charts.draw_shares(mixture),
        "epochs": mixture and charts.draw_epochs(mixture),
    }


def prose(sentences: str) -> Any:
    """Return sentences with what is between backticks as code, and all else escaped."""
    from markupsafe import Markup, escape

    parts = str(escape(sentences)).split("`")
    return Markup("".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts)))


def _markup(value: Any) -> Any:
    """Return SVG so that it is not escaped."""
    from markupsafe import Markup

    if isinstance(value, str):
        return Markup(value)
    return [_markup(each) for each in value] if isinstance(value, list | tuple) else value


def _settings(summary: Report) -> list[tuple[int, list[dict[str, Any]]]]:
    """Return the rows of the table of settings, by budget."""
    rows: list[dict[str, Any]] = [
        {
            "max_tokens": setting.max_tokens,
            "window": f"{setting.spec.window_batches:,}" if isinstance(setting.spec, Bucket) else "random",
            "batches": f"{setting.batches:,}",
            "rows": f"{setting.rows:,.0f}",
            "padding": percent(setting.padding),
            "speed": "" if setting.tokens_per_second is None else short_number(setting.tokens_per_second),
            "is_best": setting is summary.best,
        }
        for setting in summary.settings
    ]
    return [(budget, list(group)) for budget, group in itertools.groupby(rows, key=lambda row: row["max_tokens"])]


def _suspicions(summary: Report, sections: Sections) -> list[tuple[str, int, str, tuple[str, ...]]]:
    """Return suspicious rows: what they are, how many, what to do, and where some are."""
    totals: dict[str, tuple[int, tuple[str, ...]]] = {}
    for section in sections.samples.values():
        for each in section.suspicions:
            count, locations = totals.get(each.kind, (0, ()))
            totals[each.kind] = count + each.count, (*locations, *each.locations)
    limit = {"truncate": "cut", "split": "split", "drop": "dropped", "error": "cut"}[summary.limit.overflow]
    if totals:
        totals[limit] = summary.too_long, ()
    return [(_SUSPICIONS[kind][0], count, _SUSPICIONS[kind][1], places[:3]) for kind, (count, places) in totals.items()]


def _set_on_ranks(summary: Report, sections: Sections) -> list[tuple[str, str, float, float]]:
    """Return what to set for each model on many ranks, and its straggler factors with random rows and with that."""
    most = sections.ranks[-1]
    longest = summary.limit.apply(np.array([sections.lengths.longest])).max()
    transformer = mixed_spec(int(longest), summary.best.max_tokens)
    attention = f', cost="attention", hidden_size={HIDDEN_SIZE}' if transformer.hidden_size else ""
    return [
        ("RNN", 'Bucket(..., step="alike"), Loader(accumulate=8)', most.random_rnn, most.rnn),
        (
            "transformer",
            f'Bucket(..., step="mixed"{attention})',
            most.random_transformer,
            most.transformer,
        ),
    ]
