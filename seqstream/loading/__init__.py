"""The moving part: a loader, its threads, its workers and its state."""
