"""Importance matrices as files: what llama-imatrix wrote, read for quantizing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quantprobe.arrays import Float32Array
from quantprobe.errors import FileFormatError

SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Imatrix:
    """Mean squared activation of each input column, by weight name."""

    path: Path
    datasets: tuple[str, ...]
    n_chunks: int
    weights: Mapping[str, Float32Array]
    """`[n_matrices * n_columns]` float32 each; experts one after the other."""


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix in GGUF form.

    `mean = in_sum2 / counts` for each matrix; a matrix that saw no token (an expert never chosen)
    gets 1 in every column, as in llama-quantize. Raises `FileFormatError` for any other file, for a
    missing partner tensor, and for values that are not finite.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":
            raise FileFormatError(
                f"{path} is not an importance matrix in GGUF form (it begins with {magic!r}); an old .dat file becomes "
                "one with llama-imatrix --in-file OLD.dat -o NEW.gguf"
            )
        reader: Any = gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise FileFormatError(f"cannot read the importance matrix {path}: {error}") from error
    kind = _field(reader, "general.type")
    if kind != "imatrix":
        raise FileFormatError(f"{path} is a GGUF of type {kind or 'model'!r}, not an importance matrix")
    tensors = {tensor.name: np.asarray(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if not names:
        raise FileFormatError(f"the importance matrix {path} has no entries")
    return Imatrix(
        path=path,
        datasets=tuple(_field(reader, "imatrix.datasets") or ()),
        n_chunks=int(_field(reader, "imatrix.chunk_count") or 0),
        weights={name: _mean(path, name, tensors) for name in names},
    )


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _mean(path: Path, name: str, tensors: Mapping[str, Float32Array]) -> Float32Array:
    counts = tensors.get(name + COUNTS)
    if counts is None:
        raise FileFormatError(f"the importance matrix {path} has {name}{SUMS} but no {name}{COUNTS}")
    counts = np.round(counts.reshape(-1, 1))
    sums = tensors[name + SUMS]
    if sums.size % len(counts):
        raise FileFormatError(f"{path}: {name} has {sums.size} sums, which {len(counts)} matrices cannot share")
    sums = sums.reshape(len(counts), -1)
    with np.errstate(invalid="ignore"):  # infinite sums and counts are refused below
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1))
    if not np.isfinite(mean).all():
        raise FileFormatError(f"{path}: {name} holds NaN or infinity; collect the importance matrix again")
    return np.ascontiguousarray(mean, dtype=np.float32).reshape(-1)
