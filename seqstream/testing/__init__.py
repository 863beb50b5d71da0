"""Checks of the guarantees of a loader, for the tests of seqstream and for your own sources and stages.

Each check takes a function that makes a new loader, as a new process would: ``make(**options)`` passes options on to `Loader`.
A check that fails raises `AssertionError`, which says what was expected, and where.

    from seqstream import testing

    def make(**options):
        return ss.Loader(MySource(...), ss.Tokenize(...), ss.Bucket(4096, window_batches=4), **options)

    testing.check_loader(make)
    testing.check_ranks(make, world_size=4)
    testing.check_elastic(make, world_sizes=(1, 2, 4, 3))

    testing.check_mixture(make)  # of a loader of a `Mixture`
    testing.check_groups(make)  # of a loader with `Bucket(group=...)`

The ranks are threads of this process. ``examples/own_source.py`` checks a source from end to end.
"""

from seqstream.testing.expectations import MakeLoader, Row, rows_of
from seqstream.testing.group_laws import check_groups
from seqstream.testing.laws import (
    check_budget,
    check_every_record_once,
    check_fair_sample,
    check_loader,
    check_refusal,
    check_resume,
    check_same_stream,
    check_source,
)
from seqstream.testing.mixture_laws import check_elastic_mixture, check_mixture, check_order_of_sources, check_shares
from seqstream.testing.rank_laws import check_elastic, check_ranks, check_resume_on_ranks
from seqstream.testing.rank_threads import run_ranks

__all__ = [
    "MakeLoader",
    "Row",
    "check_budget",
    "check_elastic",
    "check_elastic_mixture",
    "check_every_record_once",
    "check_fair_sample",
    "check_groups",
    "check_loader",
    "check_mixture",
    "check_order_of_sources",
    "check_ranks",
    "check_refusal",
    "check_resume",
    "check_resume_on_ranks",
    "check_same_stream",
    "check_shares",
    "check_source",
    "rows_of",
    "run_ranks",
]
