"""What a row is made of: one text, words, a pair, a prompt and its answer, or a chat; one file per form."""
