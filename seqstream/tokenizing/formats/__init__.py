"""What a row is made of: one text, words, a pair of texts, a prompt and its completion, or a chat.

In the order of the data: `select` chooses the format by the options of `Tokenize`. `fields` reads the columns, `two_texts` two
of them at once. `text`, `words`, `pair`, `prompt` and `chat` each hold one format, a `RowFormat` of `row_format`, which encodes
them to `EncodedRows`; `assistant_mask` finds the tokens of the assistant in a chat.
"""
