"""How far each tensor type lies from given weights, by ggml's own quantizer."""

from __future__ import annotations

import ctypes
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from quantprobe.arrays import Float32Array
from quantprobe.engine.library import Functions, library_folder, llama, version_text
from quantprobe.engine.recipe import weight_type
from quantprobe.errors import IncompatibleError, InputError
from quantprobe.gguf.header import TENSOR_TYPES

MEASURABLE = (
    "F16", "Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS", "Q4_0", "IQ3_S", "Q3_K", "Q2_K",
)  # fmt: skip
"""Types that need no importance matrix: ggml ends the process where one is missing."""


def row_bytes(type_name: str, row_length: int) -> int | None:
    """Bytes of a row; None where rows of this length do not fit the type's blocks."""
    _, per_block, block_bytes = TENSOR_TYPES[weight_type(type_name)]
    return None if row_length % per_block else row_length // per_block * block_bytes


def squared_error(values: Float32Array, type_name: str) -> float:
    """sum (q - x)^2 of `[n_rows, row_length]` weights as this type, without an importance matrix.

    Raises `InputError` for a type that is not in `MEASURABLE` or rows that do not fit its blocks.
    """
    n_rows, row_length = values.shape
    width = row_bytes(type_name, row_length) if type_name in MEASURABLE else None
    if width is None:
        raise InputError(f"weights in rows of {row_length} cannot be tried as {type_name}")
    if type_name == "F16":
        quantized: Any = values.astype(np.float16).astype(np.float32)
    else:
        source = np.ascontiguousarray(values, np.float32)
        out = np.zeros((n_rows, width), np.uint8)
        _quantizer()(weight_type(type_name), source.ctypes.data, out.ctypes.data, 0, n_rows, row_length, None)
        quantized = gguf.quants.dequantize(out, GGMLQuantizationType(weight_type(type_name)))
    return float(((quantized.astype(np.float64) - values) ** 2).sum())


def _quantizer() -> Any:
    found = Functions(llama._lib, library_folder()).find("ggml_quantize_chunk")
    if found is None:
        raise IncompatibleError(f"{version_text()} has no function ggml_quantize_chunk, by which types are tried")
    found.restype = ctypes.c_size_t
    found.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return found
