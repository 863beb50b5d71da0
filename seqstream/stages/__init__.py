"""Stages between source and batch, apart from `Tokenize`, and what is done to tables after the last of them.

In the order of the data: `map_filter` and `map_filter_records` run a function of the user, on tables or on single records.
`class_labels` turns classes into numbers. `running` runs all stages of a loader, then `data_padding` removes padding that is in
the data and `label_filter` drops rows without labels; both remove steps of lists by `step_filter`.
"""
