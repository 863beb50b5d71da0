"""Blocks -> windows: which blocks are planned together, on all ranks, and the rows and batches that this rank has of them.

In the order of the data:

- `block_reader`: the blocks of an epoch in their order, from any cursor on; `row_ids`: the numbers of their records
- `block_states`: what is known of a block as it is read, given to a rank, processed and counted
- `block_buffer`: how far the epoch was looked into, and what windows have left
- `processing`: blocks through the stages
- `first_window`: the size of the window that begins an epoch
- `settings`: where a window begins, and how blocks become windows
- `collectives`: all that ranks send each other for a window
- `counting`: blocks through the stages, and how many rows of which lengths all ranks have of them
- `collecting`: takes the blocks of a window of one source
- `source_stream`, `mixture_reader`, `mixture_columns`, `collected_mixture`, `mixture_window`: the same for a mixture: each
  source is read as far as its share of the tokens asks, wherever its blocks end
- `building`: plans the rows, exchanges them, and builds windows
- `class_balance`: the order of a window's batches where classes are balanced
- `row_lengths`: rows of Arrow -> the lengths by which they are planned; `columns`: -> columns of NumPy
- `window`: the window
- `batch_slices`: its rows in the order of the plan, from which batches take slices
- `source_totals`: what each source of a mixture has in each batch
- `label_counts`, `step_totals`: the tokens and labels of each batch and each optimiser step, on all ranks
- `worst_case`: a window of one record, repeated, for the largest batch

The folder may import `distributed`, `stages`, `planning` and `sources`; it knows nothing of batches and loaders.
"""
