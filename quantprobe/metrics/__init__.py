"""Per-row and per-item metrics (numba kernels and their public faces)."""
