"""Which rows go together in a batch, and which rank takes which batch: pure functions of lengths, and the batch specs.

May import from `arrays`, `records`, `shuffling` and `options`.

The words for positions and numbers, here and in `seqstream.distributed` and `seqstream.windows`. Every number counts from 0.

============  ==============================================  ==========================  ==========================
word          what it is                                      range, and what counts it   example
============  ==============================================  ==========================  ==========================
record        an entry of a source                            in its shard; the source    a line of a file
location      text that names a record in its file            `Source.locate`             ``"a.txt, line 18"``
row id        ``shard << 32 | record``; -1 if made up         ``int64``; the source       ``(2 << 32) | 17``
row           a record after the stages, or a piece of it     of a rank's table, in the   ``rows=[3, 0]`` of a
                                                              order of the data           table of 5 rows
piece         a part of a split record                        of its record;              the tokens from 512 on
                                                              `Tokenize`, `Pack`          are piece 1
cursor        a position in the order of an epoch             the block reader            the next shard to open,
                                                                                          and the open shards
row number    position of a row among those of all ranks,     ``N`` rows; `GlobalOrder`   lengths 3 9 4 have the
              longest first                                                               row numbers 2 0 1
place         position of a row in a global plan              ``N`` rows;                 places 0 to 3 are the
                                                              `GlobalPlan.order`          first global batch
item          a sequence, or a piece of one, in a packed row  ``I`` items;                a packed row at place 0
                                                              `PackedGlobalPlan`          has the items 0 and 1
global batch  places of rows of similar length, which all     ``G`` of them, longest      4 rows for 2 ranks
              ranks share; in a mixed plan, of one rank       first; `GlobalPlan.cuts`
part          places of one global batch that are taken at    ``E`` parts;                half of a global batch,
              a turn, by all ranks or by one                  `rank_shares`               for fewer ranks
turn          position in the order of serving; at each       ``T`` turns; `Plan.turns`   the batch of turn 0 is
              turn every rank takes one batch                                             served first
batch         the rows of one rank at a turn                  ``K`` batches; `Plan.cuts`  ``order[0:3]``
step          an optimiser step: several turns                of its window and of the    turns 0 to 3 with
                                                              epoch; the loader           ``accumulate=4``
slot          a position of a padded or packed batch, with    rows times padded length;   ``num_slots`` of 3 rows
              a token or padding                              `Plan.widths`               of length 8 is 24
============  ==============================================  ==========================  ==========================

Modules, in the order in which a plan is built:

1. `batch_spec`: the protocol of a batch spec, and what all have in common; `unbucketed`, `bucket`, `pack`: the batch specs.
2. `length_counts`: how many rows have each length; `sides`: what the numbers mean where rows are planned by several;
   `planned_search`: how many rows of a window are planned now; `tie_order`: rows longest first, with rows of equal length
   spread out. For a mixture, `token_quotas` says before how many rows each source gives.
3. Rows become global batches. In `bucket`: `batch_limits`, and `global_batches` with `bucket_cuts` (by length), `pair_cuts`
   (by several sides, and groups of rows) or `shape_choice` (into a few shapes). In `pack`: `best_fit` (into packed rows) and
   `equal_cost` (rows of equal cost for all ranks).
4. Global batches get turns. `batch_spec.turns_of`: long and short ones alternate; `mixed_turns`: each rank has its own lengths;
   `balanced_turns`: each class is spread evenly.
5. `global_plan`: the plan of all ranks, in `grouped_plan` of groups of rows. `rank_shares`: its turns, and the places of each
   rank. `plan`: the batches of one rank.

Ten rows for two ranks, in batches of at most 18 padded tokens, from lengths to batches:

>>> import numpy as np
>>> from seqstream.planning.bucket import Bucket
>>> from seqstream.planning.length_counts import LengthCounts, sorted_order
>>> from seqstream.planning.rank_shares import schedule_turns, share_of_rank
>>> lengths = np.array([3, 9, 4, 8, 2, 7, 3, 8, 4, 2])
>>> length_counts = LengthCounts.of(lengths)
>>> length_counts.lengths.tolist(), length_counts.counts.tolist()
([9, 8, 7, 4, 3, 2], [1, 2, 1, 2, 2, 2])
>>> global_plan = Bucket(18, step="alike").plan_global(length_counts, key=(0,), world_size=2)
>>> global_plan.cuts.tolist(), global_plan.turns.tolist()  # the first global batch is served last
([0, 4, 10], [1, 0])
>>> schedule = schedule_turns(global_plan, served=0, world_size=2)
>>> for rank in range(2):
...     share = share_of_rank(schedule, rank, world_size=2)
...     rows = sorted_order(lengths)[global_plan.row_numbers(share.places)]
...     print(share.places, lengths[rows], share.cuts)
[4 6 8 0 2] [4 3 2 9 8] [0 3 5]
[5 7 9 1 3] [4 3 2 8 7] [0 3 5]

So both ranks first take a batch of 3 x 4 slots, and then one of 2 x 9 or 2 x 8 slots.
"""
