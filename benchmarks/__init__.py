"""Measurements of seqstream beside other ways to do the same, each on the same machine in the same run."""
