"""Files of tokens: how they are written, checked and read, in seqstream's own format and in those of other libraries."""
