"""NaN, infinities, zeros and outliers in the tensors of a model, found at the speed of memory.

A quantized tensor has its floating-point numbers in the scales of its blocks, and nothing else of it can be NaN or
infinite: of a Q4_K block two numbers are read, of 144 bytes. The file is read in pieces into one buffer per thread, so
memory does not grow with the file, and a file that shrinks meanwhile is an error instead of a crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray
from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.block_layouts import FORMATS, ScaleField, layout_of
from quantprobe.gguf.header import TENSOR_TYPES
from quantprobe.gguf.tensors import PlacedTensor

PIECE_BYTES = 4 << 20
"""Read at once: two of these stay in the cache of a core pair, and the call costs nothing beside it."""


@dataclass(frozen=True)
class FieldScan:
    """One field over all blocks of a tensor (of a float tensor: all of its values)."""

    field: str
    n: int
    n_nan: int
    n_inf: int
    n_nonzero: int
    first_bad: int | None
    """The first block whose number is NaN or infinite."""
    octaves_above: float
    """log2 of the largest magnitude over the geometric mean of all that are not zero; 0 without any."""
    largest: int | None
    """The block with the largest finite number."""


@dataclass(frozen=True)
class TensorScan:
    """What a scan found in one tensor."""

    tensor: PlacedTensor
    fields: tuple[FieldScan, ...]

    @property
    def n_bad(self) -> int:
        return sum(field.n_nan + field.n_inf for field in self.fields)

    @property
    def is_zero(self) -> bool:
        """Every number is zero, so every weight is; False for a tensor without such numbers or without elements.

        MXFP4's exponent has no zero: there every one of them is the smallest.
        """
        return any(field.n for field in self.fields) and not any(field.n_nonzero for field in self.fields)

    def element_of(self, block: int) -> tuple[int, int]:
        """Row and column of the first element of a block."""
        first = block * TENSOR_TYPES[self.tensor.tensor.type_id][1]
        return divmod(first, max(self.tensor.row_length, 1))


@dataclass(frozen=True)
class _Piece:
    """Blocks `[start, start + n)` of the tensor number `index`."""

    index: int
    start: int
    n: int


def scan_tensors(
    tensors: Sequence[PlacedTensor], n_threads: int | None = None, on_bytes: Callable[[int], None] | None = None
) -> tuple[TensorScan, ...]:
    """Scan tensors, in their order.

    `n_threads` None: all cores. `on_bytes` gets the size of every piece, from one thread. Raises `InputError` where
    a file cannot be read and `FileFormatError` where it ends early.
    """
    totals = [_Totals(each) for each in tensors]
    with _Files() as files, ThreadPoolExecutor(n_threads or os.cpu_count() or 1) as pool:
        jobs = list(_pieces(tensors))
        results = pool.map(lambda job: _scan_piece(files, tensors[job.index], job), jobs)
        for piece, found in zip(jobs, results, strict=True):
            totals[piece.index].add(piece, found)
            if on_bytes is not None:
                on_bytes(piece.n * _block_bytes(tensors[piece.index]))
        return tuple(total.finish(files) for total in totals)


def _pieces(tensors: Sequence[PlacedTensor]) -> Iterator[_Piece]:
    for index, each in enumerate(tensors):
        if not layout_of(each.type_name):
            continue
        n_blocks, n = each.tensor.n_bytes // _block_bytes(each), max(PIECE_BYTES // _block_bytes(each), 1)
        for start in range(0, n_blocks, n):
            yield _Piece(index, start, min(n, n_blocks - start))


def _block_bytes(tensor: PlacedTensor) -> int:
    return TENSOR_TYPES[tensor.tensor.type_id][2]


class _Files:
    """Every thread's own handles and buffer; all handles are closed at the end."""

    def __init__(self) -> None:
        self._own = local()
        self._opened: list[Any] = []

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._opened:
            file.close()

    def read(self, path: Path, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        """Bytes of a file in this thread's buffer: gone at its next call."""
        if not hasattr(self._own, "files"):
            self._own.files, self._own.buffer = {}, np.empty(PIECE_BYTES, np.uint8)
        if len(self._own.buffer) < n_bytes:
            self._own.buffer = np.empty(n_bytes, np.uint8)
        view: NDArray[np.uint8] = self._own.buffer[:n_bytes]
        try:
            file = self._own.files.get(path)
            if file is None:
                file = self._own.files[path] = path.open("rb", buffering=0)
                self._opened.append(file)
            file.seek(offset)
            n_read = 0
            while n_read < n_bytes and (n := file.readinto(view[n_read:])):
                n_read += n
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; check the disk") from error
        if n_read != n_bytes:
            raise FileFormatError(f"{path} shrank while it was read; {n_bytes:,} bytes expected at byte {offset:,}")
        return view


def _scan_piece(files: _Files, tensor: PlacedTensor, piece: _Piece) -> list[NDArray[np.int64]]:
    """The statistics of each field: `[n_bad, n_inf, highest finite key, sum of finite keys, n finite not zero]`."""
    from quantprobe.gguf.scan_kernels import field_stats

    size = _block_bytes(tensor)
    data = files.read(tensor.path, tensor.tensor.offset + piece.start * size, piece.n * size)
    return [field_stats(data, size, field, piece.n) for field in layout_of(tensor.type_name)]


class _Totals:
    """One tensor, while its pieces come in order."""

    def __init__(self, tensor: PlacedTensor) -> None:
        self.tensor = tensor
        fields = layout_of(tensor.type_name)
        self.stats = [np.zeros(5, np.int64) for _ in fields]
        self.bad: list[_Piece | None] = [None] * len(fields)
        """The first piece with a bad number, by field."""
        self.high: list[_Piece | None] = [None] * len(fields)
        self.n = 0

    def add(self, piece: _Piece, found: Sequence[NDArray[np.int64]]) -> None:
        self.n += piece.n
        for i, new in enumerate(found):
            total = self.stats[i]
            if new[0] and self.bad[i] is None:
                self.bad[i] = piece
            if new[2] > total[2]:
                self.high[i] = piece
            highest = max(total[2], new[2])
            total += new
            total[2] = highest

    def finish(self, files: _Files) -> TensorScan:
        fields = layout_of(self.tensor.type_name)
        return TensorScan(self.tensor, tuple(self._field(files, i, field) for i, field in enumerate(fields)))

    def _field(self, files: _Files, i: int, field: ScaleField) -> FieldScan:
        n_bad, n_inf, highest, total, n_nonzero = (int(value) for value in self.stats[i])
        kind = FORMATS[field.format]
        above = (highest - total / n_nonzero) / kind.per_octave if n_nonzero else 0.0
        return FieldScan(
            field=field.name,
            n=self.n,
            n_nan=n_bad - n_inf,
            n_inf=n_inf,
            n_nonzero=n_nonzero + n_bad,
            first_bad=self._find(files, self.bad[i], field, lambda keys: keys >= kind.bad),
            octaves_above=above,
            largest=self._find(files, self.high[i], field, lambda keys: keys == highest) if above > 8 else None,
        )

    def _find(
        self,
        files: _Files,
        piece: _Piece | None,
        field: ScaleField,
        wanted: Callable[[NDArray[Any]], BoolArray],
    ) -> int | None:
        """The first block of a piece with a wanted key; the piece is read once more."""
        if piece is None:
            return None
        from quantprobe.gguf.scan_kernels import field_keys

        size = _block_bytes(self.tensor)
        data = files.read(self.tensor.path, self.tensor.tensor.offset + piece.start * size, piece.n * size)
        return piece.start + int(np.argmax(wanted(field_keys(data, size, field, piece.n))))
