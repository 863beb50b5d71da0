"""Files of tokens: how they are written, checked and read, in seqstream's own format and in those of other libraries.

- ``token_store``: what every format gives: blocks of rows, and rows by their numbers.
- ``manifest``, ``arrow_files``, ``arrow_store``, ``row_gather``, ``length_histogram``: seqstream's own format.
- ``file_arrays``: arrays of numbers in files, mapped or read; ``flat_tokens``: stores of files that are one array of ids.
- ``indexed_tokens``: an index says where documents lie. ``megatron``, ``datatrove``: these formats.
- ``delimited_tokens``: a token bounds documents. ``raw_tokens``: the formats of OLMo, NumPy, nanoGPT and llm.c.
- ``formats``: which format files have; opens them.
"""
