"""Estimates with honest uncertainty: clustered, paired, corrected."""
