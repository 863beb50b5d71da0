"""Batches of similar lengths from text files, Hugging Face data sets and generators."""
