"""Importance matrices: files, sums, means, comparison. Arithmetic alone; collecting one is in the engine."""
