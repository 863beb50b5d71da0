"""The progress bar, which a notebook draws itself."""

from __future__ import annotations

from typing import Any

import pytest
import tqdm.auto

import seqstream as ss

CODE = """
import seqstream as ss
rows = [{"input_ids": [1] * (1 + item % 60)} for item in range(600)]
print(len(list(ss.Loader(rows, ss.Bucket(512), progress=True))))
"""


def test_the_bar_is_the_one_that_tqdm_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tqdm.auto`` knows whether this is a notebook; there a bar that ends before its total looks failed."""
    bars: list[Any] = []

    class Bar(tqdm.auto.tqdm):  # type: ignore[misc]  # tqdm has no types
        def close(self) -> None:
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    rows = [{"input_ids": [1] * (1 + item % 60)} for item in range(600)]
    num_batches = len(list(ss.Loader(rows, ss.Bucket(512), progress=True)))
    assert bars[0] == (num_batches, num_batches)


def test_a_notebook_shows_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real kernel of Jupyter the bar is a widget, which ends full and as a success."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # its absence is warned of
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown, printed = book.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    num_batches = int(printed["text"])
    widgets = [
        each["state"] for each in book.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    ]
    bar = next(state for state in widgets if state["_model_name"] == "FloatProgressModel")
    assert (bar["value"], bar["max"], bar["bar_style"]) == (num_batches, num_batches, "success")
    assert any("padding]" in state.get("value", "") for state in widgets if state["_model_name"] == "HTMLModel")
