"""Shared by the benchmarks: corpora, other ways, fresh processes, simulated ranks, records and their printing."""
