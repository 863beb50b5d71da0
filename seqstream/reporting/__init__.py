"""One page that shows a corpus before training: pictures of its lengths, batches, padding, steps, ranks and samples.

- `report` is what users call; it returns a `CorpusReport`, which prints, saves a page and shows itself in a notebook.
- `request` finds out what is asked for: a loader, a source or files. `corpus` reads it once, with `samples` of its rows and
  `classes` of its labels. `served_batches` plans its first window, and predicts an epoch.
- Each section of the page has a module of pure functions that return data: `lengths`, `drawn_batches`, `padding_curves`,
  `epoch_steps` with `design_effect`, `fixed_lengths`, `stragglers`, `mixture_shares`; `sections` calls them all.
- `charts`, with `svg`, and `batch_pictures` draw data as SVG. `page` puts them together with the sentences of `captions`.
"""
