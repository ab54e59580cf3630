"""Measurements made elsewhere, as runs."""
