"""Sources: records of files and Python objects, read in blocks.

The modules, in the order of the data:

- ``files/``: files are found, and their bytes are read as whole records.
- ``tables/``: records become tables with stable types.
- ``tokens/``: files of tokens.
- ``blocks``: sizes of blocks, and states that count records.
- ``numbered_records``, ``reading_hints``, ``source``: what every source has; subclass `Source` to read other data.
- ``corpus_source``, ``text``, ``conll``, ``json_lines``, ``json_arrays``: sources of text in files. ``csv_files``,
  ``table_files``, ``parquet_files``, ``arrow_files``: sources of columns. ``huggingface``, ``huggingface_streams``,
  ``generator``: sources of Python objects.
- ``choose_source``: which of them reads a path, a list, a data set or a generator function.
- ``locations``: where a record is.
- ``record_hashes``, ``split_rule``: which part of a split a record is in.
- ``token_files``: rows of token ids in files, whose formats are in ``tokens/``.
- ``random_order``: a source whose records are read by their numbers, in random order.
- ``source_group``: several sources as one. ``mixture``, ``mixture_weights``: shares of tokens for several sources.

They may import what is below ``sources``: ``records``, ``arrow``, ``arrays``, ``shuffling`` and ``options``.
"""
