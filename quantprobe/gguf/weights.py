"""Weights as numbers: dequantization by rows, and how far a quant's tensors lie from the base's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array, FloatArray
from quantprobe.errors import MismatchError
from quantprobe.gguf.header import TENSOR_TYPES
from quantprobe.gguf.parts import read_span
from quantprobe.gguf.tensors import PlacedTensor

BLOCK_ELEMENTS = 1 << 20
"""Elements dequantized at once by all threads together: with the temporaries of the I types about 100 MB."""
MIN_ELEMENTS = 1 << 15
"""A thread's least share, below which the calls cost more than the work."""
_READABLE = {
    "F32", "F16", "BF16", "F64", "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "TQ1_0", "TQ2_0", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
    "MXFP4", "NVFP4",
}  # fmt: skip
"""Types that the gguf package dequantizes, and the two below."""


@dataclass(frozen=True)
class WeightError:
    """How far one tensor lies from the base's, over the rows that were read.

    `relative` is sqrt(sum (q - b)^2 / sum b^2): 0 for equal tensors, 1 for a tensor of zeros, sqrt 2 for unrelated
    ones; None where the base's rows are all zero, or a value is not finite. `weighted` is the same with every square
    multiplied by the importance of its column; None without importances for this tensor.
    """

    name: str
    type_name: str
    base_type: str
    n_elements: int
    relative: float | None
    weighted: float | None
    is_finite: bool = True
    """Whether every value of both that was read is a finite number."""


def dequantize_rows(tensor: PlacedTensor, start: int, n_rows: int) -> Float32Array:
    """Rows `[start, start + n_rows)` of a tensor, `[n_rows, row_length]` float32; matrices follow one another.

    The gguf package dequantizes; Q1_0 and Q2_0, which it does not know, follow `dequantize_row_q1_0` and
    `dequantize_row_q2_0` of ggml-quants.c.
    """
    type_name, per_block, block_bytes = TENSOR_TYPES[tensor.tensor.type_id]
    row_bytes = tensor.row_length // per_block * block_bytes
    raw = read_span(tensor.path, tensor.tensor.offset + start * row_bytes, n_rows * row_bytes)
    data = np.frombuffer(raw, np.uint8).reshape(n_rows, row_bytes)
    with np.errstate(all="ignore"):  # broken scales overflow; what is not finite is the caller's to see
        if type_name in ("Q1_0", "Q2_0"):
            return _dequantize_small(data, type_name, per_block, block_bytes)
        if type_name in _PLAIN:
            return data.view(_PLAIN[type_name]).astype(np.float32)
        values: Float32Array = gguf.quants.dequantize(data, GGMLQuantizationType(tensor.tensor.type_id))
        return values


_PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def _dequantize_small(data: NDArray[np.uint8], type_name: str, per_block: int, block_bytes: int) -> Float32Array:
    """Q1_0: bit j is +d or -d. Q2_0: two bits are -d, 0, d or 2 d. Both little end first."""
    blocks = data.reshape(-1, block_bytes)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    bits = 1 if type_name == "Q1_0" else 2
    codes = (blocks[:, 2:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & ((1 << bits) - 1)
    levels = codes.reshape(-1, per_block).astype(np.float32)
    values = (2 * levels - 1 if bits == 1 else levels - 1) * scale
    return values.reshape(len(data), -1)


def compare_weights(
    pairs: Sequence[tuple[PlacedTensor, PlacedTensor]],
    importance: Mapping[str, Float32Array] | None = None,
    max_rows: int | None = None,
    n_threads: int | None = None,
    on_elements: Callable[[int], None] | None = None,
) -> tuple[WeightError, ...]:
    """The error of every (quant, base) pair of tensors of one shape, in the order given.

    Rows are streamed in blocks that together have `BLOCK_ELEMENTS`, one tensor to a thread (None: all cores). With
    `max_rows` so many rows, evenly spread, stand for a tensor. `importance` holds the mean squared activation of every
    input column, by name, `[n_matrices * row_length]` float32 (an importance matrix); `on_elements` hears of progress.
    Raises `MismatchError` for importances of another length.
    """
    for quant, _ in pairs:
        _check_importance(quant, importance or {})
    n_workers = n_threads or os.cpu_count() or 1
    share = max(BLOCK_ELEMENTS // n_workers, min(MIN_ELEMENTS, BLOCK_ELEMENTS))
    with ThreadPoolExecutor(n_workers) as pool:
        found = pool.map(lambda pair: _compare(pair[0], pair[1], importance or {}, max_rows, share), pairs)
        errors = []
        for error in found:
            errors.append(error)
            if on_elements is not None:
                on_elements(error.n_elements)
        return tuple(errors)


def _check_importance(tensor: PlacedTensor, importance: Mapping[str, Float32Array]) -> None:
    found = importance.get(tensor.name)
    if found is None:
        return
    n_matrices = tensor.tensor.shape[2] if len(tensor.tensor.shape) > 2 else 1
    if found.size not in (tensor.row_length, tensor.row_length * n_matrices):
        raise MismatchError(
            f"the importance matrix has {found.size:,} columns for {tensor.name}, expected "
            f"{tensor.row_length * n_matrices:,}; give the importance matrix of this model"
        )


def _row_blocks(tensor: PlacedTensor, max_rows: int | None, n_elements: int) -> Iterator[tuple[int, int]]:
    """Start and length of the spans of rows to read, each of about `n_elements` at most."""
    step = max(n_elements // max(tensor.row_length, 1), 1)
    if max_rows is None or tensor.n_rows <= max_rows:
        yield from ((start, min(step, tensor.n_rows - start)) for start in range(0, tensor.n_rows, step))
        return
    n_spans = min(8, max_rows)  # few reads, spread over the tensor
    length = min(max_rows // n_spans, step)
    for start in np.linspace(0, tensor.n_rows - length, n_spans).astype(int).tolist():
        yield start, length


def _compare(
    quant: PlacedTensor,
    base: PlacedTensor,
    importance: Mapping[str, Float32Array],
    max_rows: int | None,
    n_elements: int,
) -> WeightError:
    weights = importance.get(quant.name)
    columns = None if weights is None else weights.astype(np.float64).reshape(-1, max(quant.row_length, 1))
    rows_per_matrix = quant.tensor.shape[1] if len(quant.tensor.shape) > 1 else 1
    sums = np.zeros(4)
    n = 0
    for start, length in _row_blocks(quant, max_rows, n_elements):
        b = dequantize_rows(base, start, length).astype(np.float64)
        with np.errstate(all="ignore"):
            difference = (dequantize_rows(quant, start, length) - b) ** 2
            b *= b
            n += b.size
            sums[:2] += difference.sum(), b.sum()
            if columns is not None:
                matrix = np.arange(start, start + length) // rows_per_matrix
                w = columns[matrix] if len(columns) > 1 else columns
                sums[2:] += (w * difference).sum(), (w * b).sum()
    return WeightError(
        name=quant.name,
        type_name=quant.type_name,
        base_type=base.type_name,
        n_elements=n,
        relative=_ratio(sums[0], sums[1]),
        weighted=None if columns is None else _ratio(sums[2], sums[3]),
        is_finite=bool(np.isfinite(sums[:2]).all()),
    )


def _ratio(error: float, norm: float) -> float | None:
    if error == 0:
        return 0.0
    if norm == 0 or not math.isfinite(error) or not math.isfinite(norm):
        return None
    return math.sqrt(error / norm)


def is_weight(tensor: PlacedTensor) -> bool:
    """Whether a tensor holds weights that can be read as numbers; tables of integers and unknown types do not."""
    return tensor.type_name in _READABLE


def largest_first(errors: Sequence[WeightError]) -> tuple[WeightError, ...]:
    """Errors in falling order; first those that do not exist."""
    keys: FloatArray = np.array([np.inf if each.relative is None else each.relative for each in errors])
    return tuple(errors[i] for i in np.argsort(-keys, kind="stable"))
