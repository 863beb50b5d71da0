"""Blocks -> windows: which blocks are planned together, and the rows of them that this rank has."""
