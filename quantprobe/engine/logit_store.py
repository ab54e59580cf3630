"""The base's logits, kept from one quant for the next: the product with the output matrix is the same for all."""

from __future__ import annotations

import hashlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array
from quantprobe.limits import available_bytes

MOST_BYTES = 8 << 30
SHARE = 4
"""One part in so many of the memory that is free is taken: the others are for the quants and their pages."""


class LogitStore:
    """Blocks of logits by the rows that they were computed from, as many as `n_bytes` hold, the first that come.

    The same stored rows in the same number give the same logits, so their digest says which block it is, whatever text
    or task it belongs to. What has no room is computed again for each quant.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_left = n_bytes
        self._blocks: dict[bytes, Float32Array] = {}

    @classmethod
    def within_memory(cls, n_sharing: int = 1) -> LogitStore:
        """As large as memory allows, where `n_sharing` processes on this machine do the same."""
        return cls(min(MOST_BYTES, available_bytes() // SHARE) // n_sharing)

    def find(self, key: bytes) -> Float32Array | None:
        """The logits `[n_rows, n_vocab]` kept under a key."""
        return self._blocks.get(key)

    def keep(self, key: bytes, logits: Float32Array) -> None:
        """Copy a block, if there is room."""
        if logits.nbytes > self._n_left or logits.nbytes == 0:
            return
        # pages of its own: a third of the time that NumPy's allocation takes, and they go back to the system
        copy = np.frombuffer(mmap.mmap(-1, logits.nbytes), np.float32).reshape(logits.shape)
        copy[:] = logits
        self._blocks[key] = copy
        self._n_left -= logits.nbytes


def key_of(stored: NDArray[Any], row_dtype: str) -> bytes:
    """What tells a block of stored rows from every other."""
    digest = hashlib.blake2b(f"{row_dtype} {stored.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(stored).view(np.uint8).data)
    return digest.digest()
