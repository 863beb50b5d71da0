"""Window -> batch: rows padded or packed into tensors, the forms in which models take them, and labels.

In the order of the data:

- `padding` and `ragged_tensors` hold the arithmetic: rows of a window gathered and padded, rows of a batch padded and packed.
- `collate` and `collate_packed` make a `Batch` from a window, turn by turn.
- `batch` is what a loader yields, with its columns in a `batch_layout`; `views` are the forms it computes from them, with
  `varlen` for rows one after the other and `document_mask` for FlexAttention.
- `labels` and `masking` are functions for ``Loader(on_batch=...)``.
- `restore_order` puts predictions back in the order of the source, and `row_results` holds those of a function until then.

It imports `windows` and what that imports, and knows nothing of loaders, threads and processes.
"""
