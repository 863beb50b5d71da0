"""Tokens written to files once, to be read as often as they are needed.

- ``ranges``: the shards of a source, cut into ranges of even size.
- ``file_formats``: the formats of the files.
- ``write_range``: one range through the stages into its files, from where an earlier writer has stopped.
- ``write_tokens``: all ranges, here or on an executor, and the manifest.
"""
