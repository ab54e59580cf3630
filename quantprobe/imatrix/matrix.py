"""What an importance matrix holds, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array, Int64Array
from quantprobe.errors import FileFormatError

Sums: TypeAlias = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)  # no comparison: arrays have no single truth value
class Entry:
    """Squared activations of one weight's inputs.

    `sums` is `[n_matrices, n_columns]`: the sum of x_j^2 over all tokens, of each expert by itself. `counts` is
    `[n_matrices]`: over how many tokens. A dense weight is one matrix; one of three dimensions that is not an expert
    tensor has its matrices side by side in one row, with one count.
    """

    sums: Sums
    counts: Int64Array

    @property
    def n_matrices(self) -> int:
        return int(self.sums.shape[0])

    @property
    def n_columns(self) -> int:
        return int(self.sums.shape[1])

    def means(self) -> Float32Array:
        """Mean squared activation of each column, `[n_matrices, n_columns]` float32, as llama-quantize has it.

        A matrix that saw no token (an expert never chosen) gets 1 in every column.
        """
        counts = self.counts.astype(np.float32)[:, None]
        sums = self.sums.astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite sums are refused by `check_finite`
            means: Float32Array = np.where(counts > 0, sums / np.maximum(counts, np.float32(1)), np.float32(1))
        return means


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix.

    In the old `.dat` form `is_legacy`: sums are means times the number of chunks, and that number is the count of each
    entry; the tokens of each expert are not known, nor is `chunk_size` (0).
    """

    entries: Mapping[str, Entry]
    """By the name of the weight, sorted."""
    datasets: tuple[str, ...] = ()
    """Paths of the calibration texts, in the order of merging."""
    n_chunks: int = 0
    chunk_size: int = 0
    """Tokens in a chunk."""
    is_legacy: bool = False

    def in_tokens(self, chunk_size: int) -> Imatrix:
        """The same in sums over tokens; of a legacy matrix with `chunk_size` tokens in a chunk, as llama-imatrix does.

        Chunks were rounded up when the file was written, so these counts are at most a chunk too large.
        """
        if not self.is_legacy:
            return self
        entries = {
            name: Entry(entry.sums * np.float32(chunk_size), entry.counts * chunk_size)
            for name, entry in self.entries.items()
        }
        return Imatrix(entries, self.datasets, self.n_chunks, chunk_size)


def check_finite(where: str, imatrix: Imatrix) -> None:
    """Raise `FileFormatError` for the first entry with NaN, infinity, or a negative sum or count."""
    for name, entry in imatrix.entries.items():
        if not np.isfinite(entry.sums).all():
            raise FileFormatError(f"{where}: {name} holds NaN or infinity; collect the importance matrix again")
        if entry.sums.size and entry.sums.min() < 0:
            raise FileFormatError(
                f"{where}: {name} holds a negative sum of squares; collect the importance matrix again"
            )
        if entry.counts.size and entry.counts.min() < 0:
            raise FileFormatError(f"{where}: {name} has a negative count; collect the importance matrix again")
