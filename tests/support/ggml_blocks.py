"""Blocks of every ggml type: quantized by ggml itself, written as models, and damaged on purpose."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny_gguf
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from quantprobe.gguf.block_layouts import FORMATS, LAYOUTS, ScaleField
from quantprobe.gguf.header import TENSOR_TYPES, Tensor, read_header
from quantprobe.gguf.tensors import PlacedTensor, place_of

TYPE_IDS: Mapping[str, int] = {name: type_id for type_id, (name, _, _) in TENSOR_TYPES.items()}
FLOATS = ("F32", "F16", "BF16", "F64")
INTERNAL = ("Q8_1", "Q8_K")
"""Types of activations: no file has them, and ggml quantizes no weights to them."""
SCANNED = tuple(name for name, fields in LAYOUTS.items() if fields)
MADE = tuple(name for name in SCANNED if name not in (*FLOATS, *INTERNAL))
"""Types that `ggml_quantize_chunk` makes."""
ROWS = 8
"""Rows that are quantized; every dimension of `write_of_type` is a multiple of it."""
NAN = {"f16": 0x7E01, "bf16": 0x7FC1, "f32": 0x7FC00001, "f64": 0x7FF80000_00000001, "e8m0": 0xFF, "ue4m3": 0x7F}
INF = {"f16": 0xFC00, "bf16": 0x7F80, "f32": 0xFF800000, "f64": 0x7FF00000_00000000}


def ggml_function(name: str) -> Any:
    """A function of ggml in the library that llama_cpp has loaded."""
    from quantprobe.engine import abi
    from quantprobe.engine.library import Functions, library_folder

    function = Functions(abi.llama._lib, library_folder()).find(name)
    assert function is not None
    return function


def quantize_rows(values: NDArray[np.float32], type_name: str) -> NDArray[np.uint8]:
    """`[n_rows, row_bytes]` of a ggml type, made by ggml with an importance of 1 everywhere."""
    _, per_block, block_bytes = TENSOR_TYPES[TYPE_IDS[type_name]]
    n_rows, n_columns = values.shape
    made = np.zeros((n_rows, n_columns // per_block * block_bytes), np.uint8)
    importance = np.ones(n_columns, np.float32)
    chunk = ggml_function("ggml_quantize_chunk")
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    source = np.ascontiguousarray(values)
    written = chunk(
        TYPE_IDS[type_name], source.ctypes.data, made.ctypes.data, 0, n_rows, n_columns, importance.ctypes.data
    )
    assert written == made.nbytes
    return made


def ggml_says_valid(data: NDArray[np.uint8], type_name: str) -> bool:
    """What `ggml_validate_row_data` says of whole blocks."""
    check = ggml_function("ggml_validate_row_data")
    check.restype, check.argtypes = ctypes.c_bool, [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return bool(check(TYPE_IDS[type_name], np.ascontiguousarray(data).ctypes.data, data.nbytes))


def finite_blocks(type_name: str, n: int, seed: int = 0) -> NDArray[np.uint8]:
    """`[n, block_bytes]` random, with numbers that are all finite and within one octave."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, TENSOR_TYPES[TYPE_IDS[type_name]][2]), dtype=np.uint8)
    for field in LAYOUTS[type_name]:
        kind = FORMATS[field.format]
        start = int(kind.bad * 0.4)
        keys = rng.integers(start, start + max(int(kind.per_octave), 2), n)
        for i, key in enumerate(keys):
            put_number(blocks[i], field, int(key) << (32 if field.format == "f64" else 0))
    return blocks


def put_number(block: NDArray[np.uint8], field: ScaleField, bits: int) -> None:
    """Write the bits of one number into a block; IQ1_M's nibbles go where ggml looks for them."""
    if field.format == "iq1_m":
        words = block[field.offset : field.offset + 8].view("<u2")
        words &= 0x0FFF
        words |= (np.array([bits << 12, bits << 8, bits << 4, bits]) & 0xF000).astype(np.uint16)
        return
    size = FORMATS[field.format].n_bytes
    block[field.offset : field.offset + size] = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)


def bits_of(field: ScaleField, table: Mapping[str, int]) -> int | None:
    """The bits of NaN or infinity in a field; None where its format has none."""
    return table.get("f16" if field.format == "iq1_m" else field.format)


def write_blocks(path: Path, blocks: NDArray[np.uint8], type_name: str) -> PlacedTensor:
    """A file of nothing but blocks, as one tensor of rows of one block."""
    path.write_bytes(blocks.tobytes())
    shape = (TENSOR_TYPES[TYPE_IDS[type_name]][1], len(blocks))
    tensor = Tensor("blk.0.made.weight", shape, TYPE_IDS[type_name], 0, blocks.nbytes)
    return PlacedTensor(path, tensor, place_of(tensor.name))


def write_of_type(path: Path, type_name: str, **more: Any) -> Path:
    """A tiny llama, 256 wide, whose layers are of one type; embedding and output are F16.

    Every matrix repeats its first rows, so that ggml has only those to quantize: IQ1_S takes seconds for a whole layer.
    """
    before = tiny_gguf.quantized

    def quantized(values: NDArray[np.float32], kind: Type) -> tuple[NDArray[Any], Type]:
        if values.ndim < 2:
            return before(values, kind)
        times = (len(values) // ROWS, 1)
        rows = values[:ROWS]
        if kind != Type.Q4_0 or type_name == "F32":
            tiled, kind = before(np.tile(rows, times), Type.F32 if kind == Type.Q4_0 else kind)
            return tiled, kind
        return np.tile(quantize_rows(rows, type_name), times), Type[type_name]

    tiny_gguf.quantized = quantized
    try:
        return tiny_gguf.write_tiny(path, n_vocab=264, n_embd=256, weight_type="Q4_0", head_type="F16", **more)
    finally:
        tiny_gguf.quantized = before


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Replace bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def tensor_in(path: Path, name: str) -> Tensor:
    return read_header(path).tensors[name]
