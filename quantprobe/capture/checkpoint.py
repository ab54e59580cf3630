"""What is there of a probe that is not finished: `NN-name.checkpoint` beside `NN-name.rows`.

Rows come in blocks. A stretch is what was written between two checkpoints: which rows, in which order, and the SHA-256
of their bytes in that order. A checkpoint is written after its rows are on disk, but a disk may promise that and lose
power; so the rows of each stretch are hashed once when the work goes on, and what does not fit is decoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from quantprobe.files import read_pieces, reading
from quantprobe.run.rows import read_arrays, write_arrays

SUFFIX = ".checkpoint"
_STATE = "state_"
"""Before the names of the caller's arrays."""


@dataclass(frozen=True)
class Stretch:
    """Rows written between two checkpoints."""

    runs: tuple[tuple[int, int], ...]
    """(first row, number of rows), in the order in which they were written."""
    n_blocks: int
    sha256: bytes
    """Of the bytes of the runs, one after the other."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything written so far, and what the caller wants to find again."""

    stretches: tuple[Stretch, ...]
    state: Mapping[str, NDArray[Any]]


def save_checkpoint(path: Path, key: str, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all; the rows must be on disk already. `key` is the digest of probe and row type."""
    stretches = checkpoint.stretches
    runs = [run for stretch in stretches for run in stretch.runs]
    arrays: dict[str, NDArray[Any]] = {
        "runs": np.array(runs, dtype=np.int64).reshape(-1, 2),
        "n_runs": np.array([len(stretch.runs) for stretch in stretches], dtype=np.int64),
        "n_blocks": np.array([stretch.n_blocks for stretch in stretches], dtype=np.int64),
        "sha256": np.frombuffer(b"".join(stretch.sha256 for stretch in stretches), dtype=np.uint8).reshape(-1, 32),
    }
    write_arrays(path, key, arrays | {_STATE + name: values for name, values in checkpoint.state.items()})


def load_checkpoint(path: Path, key: str, n_rows: int, state: Mapping[str, NDArray[Any]]) -> Checkpoint | None:
    """The checkpoint under `key`; None if there is none that is whole and fits.

    The caller's arrays must have the names, shapes and types of `state`, and rows be among `n_rows`.
    """
    names = ("runs", "n_runs", "n_blocks", "sha256")
    arrays = read_arrays(path, key, (*names, *(_STATE + name for name in state)))
    if arrays is None:
        return None
    kept = {name: arrays[_STATE + name] for name in state}
    if any(kept[name].shape != now.shape or kept[name].dtype != now.dtype for name, now in state.items()):
        return None
    runs = [(int(first), int(n)) for first, n in arrays["runs"]]
    if any(first < 0 or n < 1 or first + n > n_rows for first, n in runs) or arrays["n_runs"].sum() != len(runs):
        return None
    ends = np.cumsum(arrays["n_runs"]).tolist()
    of_stretches = zip(arrays["n_runs"].tolist(), ends, arrays["n_blocks"].tolist(), arrays["sha256"], strict=True)
    stretches = (
        Stretch(tuple(runs[end - n : end]), n_blocks, digest.tobytes()) for n, end, n_blocks, digest in of_stretches
    )
    return Checkpoint(tuple(stretches), kept)


def intact_stretches(path: Path, row_bytes: int, stretches: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    """The stretches, from the first, whose bytes are in the rows file; reads each byte once.

    Those after a damaged one are given up too, so that what is there is always the beginning of the plan.
    """
    if not path.is_file():
        return ()
    with reading(path), path.open("rb") as file:
        for number, stretch in enumerate(stretches):
            digest = hashlib.sha256()
            for piece in _pieces(file, row_bytes, stretch):
                digest.update(piece)
            if digest.digest() != stretch.sha256:
                return stretches[:number]
    return stretches


def _pieces(file: BinaryIO, row_bytes: int, stretch: Stretch) -> Iterator[bytes]:
    for first, n_rows in stretch.runs:
        file.seek(first * row_bytes)
        yield from read_pieces(file, n_rows * row_bytes)
