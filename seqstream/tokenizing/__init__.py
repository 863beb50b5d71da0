"""Text -> token ids: the stage `Tokenize`.

In the order of the data: `stage` holds `Tokenize` and its options. `tokenizer_spec` reads the user's tokenizer, with
`python_tokenizers` and `python_components` for what is written in Python. `engine_choice` chooses the engine, which it compares
with `tokenizers` on the texts of `probes`; `engines` holds all of them. `encoding` turns tables into tables: `formats` reads
texts from their columns, the engine returns `token_rows`, and `failing_texts` finds the text that an engine cannot encode.
"""
