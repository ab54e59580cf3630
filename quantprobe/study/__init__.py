"""Findings over a cohort of quants; reads result files, runs no model."""
