"""Records as Arrow tables whose types stay the same from block to block.

In the order of the data:

1. Text to tables.
   Delimited: `csv_quotes` finds where records end, `csv_dialect` parses blocks of them and names the line of an error.
   JSON lines: `json_parsing`; `json_keys` finds objects whose keys are data, which `json_rewriting` turns into strings;
   `exact_messages`, with `json_spans`, keeps messages and tools as the file has them; `json_errors`, with `surrogates`, names
   the line at fault; `json_arrays` makes lines of arrays. CoNLL: `conll_columns`. Parquet and Arrow files: `table_parts`,
   `parquet_footers`.
2. Python objects to tables.
   Items of a generator: `unpacking`, `item_values`, `item_fields`, `item_layout`. Dicts of `datasets`: `python_records`.
3. Tables of any origin.
   `nested_types` walks over types, `rounding` finds whole numbers that floats round, `schema` casts to the types of the first
   records, `reblocking` makes blocks of even size.
4. Tables to Python objects, for chat templates and the user's functions: `arrow_to_python`.
"""
