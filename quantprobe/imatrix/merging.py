"""Several importance matrices as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.errors import MismatchError
from quantprobe.imatrix.matrix import Entry, Imatrix

CHUNK_SIZE = 512
"""Tokens in a chunk where no file says it: llama-imatrix's default context."""


def merge(imatrices: Sequence[Imatrix], names: Sequence[str], chunk_size: int | None = None) -> Imatrix:
    """Sums and counts added up: the matrix of all texts together, every token with the same weight.

    The lists of texts are joined. `chunk_size` (of the first file that says one) is that of the result, and of legacy
    files, whose counts are in chunks. llama-imatrix adds in float32, this in float64. `names` are for messages.

    Raises `MismatchError` for a weight of two sizes: the files belong to different models.
    """
    size = chunk_size or next((each.chunk_size for each in imatrices if each.chunk_size), CHUNK_SIZE)
    merged: dict[str, Entry] = {}
    origin: dict[str, str] = {}
    for imatrix, label in zip(imatrices, names, strict=True):
        for name, entry in imatrix.in_tokens(size).entries.items():
            if name in merged:
                merged[name] = _add(name, (merged[name], origin[name]), (entry, label))
            else:
                merged[name] = Entry(entry.sums.astype(np.float64), entry.counts)
                origin[name] = label
    most = max((int(entry.counts.max()) for entry in merged.values()), default=0)
    datasets = tuple(dataset for each in imatrices for dataset in each.datasets)
    return Imatrix(dict(sorted(merged.items())), datasets, most // size, size)


def _add(name: str, one: tuple[Entry, str], other: tuple[Entry, str]) -> Entry:
    (a, label_a), (b, label_b) = one, other
    n_matrices = max(a.n_matrices, b.n_matrices)
    if a.sums.size != b.sums.size or {a.n_matrices, b.n_matrices} - {1, n_matrices}:
        raise MismatchError(
            f"{name} has {a.n_matrices} x {a.n_columns} values in {label_a} and {b.n_matrices} x {b.n_columns} in "
            f"{label_b}; the files belong to different models"
        )
    sums = a.sums.reshape(n_matrices, -1) + b.sums.reshape(n_matrices, -1).astype(np.float64)
    return Entry(sums, _spread(a.counts, n_matrices) + _spread(b.counts, n_matrices))


def _spread(counts: Int64Array, n_matrices: int) -> Int64Array:
    """A single count (of an old file) holds for every expert."""
    return np.broadcast_to(counts, (n_matrices,)) if len(counts) == 1 else counts
