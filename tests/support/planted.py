"""Files to validate: a sound base and quant, and one planted fault at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from ggml_blocks import NAN, TYPE_IDS, overwrite, put_number, tensor_in

from quantprobe.checks.outcome import FileReport
from quantprobe.checks.validate import Task, validate_files
from quantprobe.gguf.block_layouts import LAYOUTS
from quantprobe.gguf.header import TENSOR_TYPES, read_header
from quantprobe.gguf.tensors import read_inventory
from quantprobe.sweep.inputs import SILENT

TENSOR = "blk.1.ffn_up.weight"


def validate(path: Path, base: Path | None, decode: bool = False) -> FileReport:
    """The report of one file."""
    task = Task(base=None if base is None else read_inventory(base), decode=decode)
    return validate_files([path], task, SILENT)[0]


def failures(report: FileReport) -> Mapping[str, str]:
    """Reasons by name of the checks that failed."""
    return {check.name: check.reason for check in report.checks if check.status == "fail"}


def noticed(report: FileReport) -> Mapping[str, str]:
    """Reasons by name of the checks that failed or warn."""
    return {check.name: check.reason for check in report.checks if check.status in ("fail", "warn")}


def plant_bad_scale(path: Path, name: str = TENSOR, bits: Mapping[str, int] = NAN, block: int = 7) -> None:
    """NaN (or what `bits` holds) in the first field of one block of a tensor."""
    tensor = tensor_in(path, name)
    size = TENSOR_TYPES[tensor.type_id][2]
    field = LAYOUTS[tensor.type_name][0]
    offset = tensor.offset + block * size
    data = np.frombuffer(path.read_bytes()[offset : offset + size], np.uint8).copy()
    put_number(data, field, bits["f16" if field.format == "iq1_m" else field.format])
    overwrite(path, offset, data.tobytes())


def zero_tensor(path: Path, name: str = TENSOR) -> None:
    tensor = tensor_in(path, name)
    overwrite(path, tensor.offset, bytes(tensor.n_bytes))


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first `old` by `new` of the same length."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


def retype(path: Path, type_name: str, name: str = TENSOR) -> None:
    """Give a tensor another type in the table, so that its bytes no longer fit."""
    data = path.read_bytes()
    tensor = read_header(path).tensors[name]
    entry = data.index(name.encode()) + len(name) + 4 + 8 * len(tensor.shape)
    assert int.from_bytes(data[entry : entry + 4], "little") == tensor.type_id
    overwrite(path, entry, TYPE_IDS[type_name].to_bytes(4, "little"))


def flip_bits(path: Path, n: int, seed: int) -> None:
    """Flip random bits of the weights."""
    start = min(tensor.offset for tensor in read_header(path).tensors.values())
    data = np.fromfile(path, np.uint8)
    rng = np.random.default_rng(seed)
    places = rng.integers(start, len(data), n)
    np.bitwise_xor.at(data, places, (1 << rng.integers(0, 8, n)).astype(np.uint8))
    data.tofile(path)


Plant = Callable[[Path], None]
