"""The run folder: its files, its records, and when two runs may be compared."""
