"""Measures seqstream and other ways to do the same, on the same machine in the same run."""
