"""The command line as ``python -m seqstream``."""

from seqstream.cli import app

app(prog_name="seqstream")
