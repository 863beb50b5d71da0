"""Which budget and window suit a corpus: reports, previews, and the largest batch that fits in memory.

- `report` plans a corpus with many budgets and windows and recommends one. It reads the lengths of the rows from `survey`, the
  tokens a second from `speed`, and the recommended loader as Python code from `loader_code`.
- `preview` decodes some rows of the first batches.
- `printing` writes reports and previews for a terminal; everything else here returns data.
- `max_tokens` finds the largest budget with which a training step runs; `budget_search` decides which budget to try next.
"""
