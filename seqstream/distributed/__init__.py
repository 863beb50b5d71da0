"""One window over many ranks: collectives, checks that ranks agree, and rows on their way to the rank that uses them."""
