"""Bytes of files, read and decoded as whole records.

The modules, in the order of the data:

- ``listing``: paths, globs and URLs -> a table of files.
- ``fingerprints``, ``folder_columns``: what identifies files, and columns in names of their folders.
- ``remote``, ``remote_file``: byte ranges of remote files, many at a time.
- ``reading``, ``chunks``: bytes of a file, by range or from its beginning, decompressed.
- ``encodings``: detection of UTF-16 and UTF-32, for errors.
- ``boundaries``: where records start and end.
- ``spans``: whole records of a range of bytes, or of a file from its beginning.
- ``ranges``, ``aligned``: files cut into shards and blocks, and locations of records.
- ``decoding``: spans -> columns of text.
"""
