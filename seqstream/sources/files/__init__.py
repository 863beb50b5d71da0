"""Bytes of files as whole records: found, cut into ranges where records begin, read in chunks, decoded."""
