"""Which rows go together: pure functions of lengths, and the specs that ask for them."""
