"""Records as Arrow tables whose types stay the same from block to block.

In the order of the data:

1. Text to tables. Delimited: `csv_quotes` (where records end), `csv_dialect` (blocks of text to tables, errors with their line).
   JSON lines: `json_parsing`; `json_keys` finds objects whose keys are data, and `json_rewriting` turns them into text;
   `json_spans` and `exact_messages` keep messages and tools as the file has them; `json_errors` names the line at fault, with
   `surrogates` for halves of emojis. Parquet: `parquet_footers` (row groups, common types of all files).
2. Python objects to tables. Items of a generator: `unpacking`, `item_values`, `item_fields`, `item_layout`. Dicts of `datasets`:
   `python_records`.
3. Tables of any origin: `nested_types` (walks over types), `rounding` (whole numbers that floats round), `schema` (casts to the
   first types), `reblocking` (tables to blocks of even size).
4. Tables to Python objects again, for templates and functions of the user: `arrow_to_python`.
"""
