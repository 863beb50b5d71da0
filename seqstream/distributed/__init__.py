"""What the ranks of a run exchange to share each window: collectives, checks that ranks agree, and rows.

Modules, in the order in which a window needs them:

- `collectives`: the ranks, and how they exchange bytes: `all_gather` and `all_to_all`.
- `digests`: checksums of tables and of functions; `agreement`: what all ranks must have in common, and errors that name what
  differs; `handshake`: ranks exchange their positions, their errors, and the sizes of their blocks.
- `global_order`: ranks exchange how many rows of each length they have, from which each knows the row numbers of its own rows.
  A pure plan follows; see `seqstream.planning`.
- `transport`: columns of rows to other ranks; `exchange`: every row to the rank that takes it in the plan.

May import from `planning` and below.
"""
