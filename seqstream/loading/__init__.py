"""The loader: it turns a source and stages into batches, and is the only part that moves.

Its modules, in the order of what happens:

Made once: `loader` with its arguments (`arguments`, `stage_lists`, `read_only`, `not_a_dataset`), `epochs` (what each epoch
reads, and in which order: `reading_order`, and `mixture_passes` for the sources of a mixture).

For each window: `epoch_windows` builds it, after ranks agree on their data (`rank_agreement`), with stages that run here or in
workers (`stage_runner`, `workers`, `block_executor`): its own processes (`process_pool`, `process_start`, `worker_process`), or
those of an executor (`user_executor`, `ray_executor`); all of them run `remote_blocks`. It may take their rows from a folder
(`cached_process`, `token_cache`). The first window gives the `calibration`, and warnings (`first_window_warnings`,
`class_mixing`); of a mixture also what the epoch will be like (`expected_run`).

For each batch: `pipeline` collates it and sends it to the `device`, in threads (`prefetch`) whose collectives the consumer's
thread calls (`collective_relay`). `iteration` hands it out and moves `progress`: the position and the `stats`, for a mixture
those of each source too (`source_stats`).

Asked for: `state` writes and reads states, and `fingerprints` compares them with a loader; `estimates` counts steps and shapes
from a sample (`sampling`, and `mixture_sample` for a mixture). `predict` runs a function over the batches of a loader.
`iterable` stands alone: generators for the ``DataLoader`` of PyTorch.

May import from `batches` and all folders below it.
"""
