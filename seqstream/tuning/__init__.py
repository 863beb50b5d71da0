"""Which budget and window suit a corpus: reports, previews, and the largest batch that fits."""
