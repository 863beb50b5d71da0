"""Parts of the command line, which `seqstream.cli` puts together."""
