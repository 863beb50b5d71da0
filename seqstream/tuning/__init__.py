"""Which budget and window suit a corpus: reports, previews, and the largest batch that fits in memory.

- `report` sums up a corpus, compares settings and recommends one. `survey` finds the lengths of its rows, `distribution`
  describes them, `row_limit` decides how long a row may be, `planned_epoch` plans an epoch of them, `comparison` compares
  budgets and windows, `speed` measures tokens a second, and `loader_code` writes the loader as Python code.
- `preview` decodes some rows of the first batches.
- `printing` writes reports and previews for a terminal; everything else here returns data.
- `max_tokens` finds the largest budget with which a training step runs; `budget_search` decides which budget to try next.
"""
