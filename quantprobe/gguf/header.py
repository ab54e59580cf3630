"""The header of one GGUF file: metadata and tensor table, read without loading any tensor.

`gguf.GGUFReader` makes a memory map view for every array element: on a file with 151,936 tokens it took
9.6 s and 534 MB. This reader keeps arrays as byte spans (a hundredth of a second) and checks every
size against the file before it is used, so that a damaged file is named as such. Constants and types are
those of the gguf package. Layout: GGUF versions 2 and 3, little endian, as ggml's gguf.cpp accepts them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from quantprobe.errors import FileFormatError, InputError

MAX_STRINGS = 1 << 24  # largest string array believed; the biggest vocabularies have 262,144 tokens
MAX_DIMS = 4
PIECE = 1 << 18  # bytes of strings looked at together
SETTLED_SECONDS = 2.0
"""The coarsest clock of a file system in use, that of FAT: a younger file may change again and keep its times."""

SCALARS: Mapping[int, struct.Struct] = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}
U32, U64 = SCALARS[GGUFValueType.UINT32], SCALARS[GGUFValueType.UINT64]

# (name, elements per block, bytes per block) of each tensor type.
# Q2_0 is in llama.cpp (ggml-common.h, block_q2_0) and not yet in gguf 0.19.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {42: ("Q2_0", 64, 18)} | {
    int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType
}


@dataclass(frozen=True)
class ArrayField:
    """A metadata array, left in the file: `n` elements of GGUF value type `kind` in bytes `[start, stop)`."""

    kind: int
    n: int
    start: int
    stop: int


_known: dict[tuple[Path, int, int, int, int, int], Header] = {}
"""What was read already: a sweep asks for each file several times."""

Value: TypeAlias = int | float | bool | str | ArrayField


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: `shape` in ggml's order, row length first; `offset` counted from the file's start."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    n_bytes: int

    @property
    def type_name(self) -> str:
        return TENSOR_TYPES[self.type_id][0]

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Metadata and tensor table of one file."""

    path: Path
    size_bytes: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]

    def integer(self, key: str) -> int | None:
        """The value of `key` if it is there and is a non-negative integer."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def number(self, key: str) -> float | None:
        """The value of `key` if it is there and is an integer or a float."""
        value = self.metadata.get(key)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """The value of `key` if it is there and is a string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


class Cursor:
    """Reads forward through one file; every read names what it wants, for the error message."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.position = 0

    def error(self, problem: str) -> FileFormatError:
        return FileFormatError(f"{self.path} is damaged: {problem} (at byte {self.position:,})")

    def need(self, n: int, what: str) -> None:
        if n > self.size - self.position:
            raise FileFormatError(
                f"{self.path} is truncated or damaged: {what} at byte {self.position:,} takes {n:,} bytes "
                f"and the file ends at byte {self.size:,}; download or convert it again"
            )

    def take(self, n: int, what: str) -> bytes:
        self.need(n, what)
        data = self.file.read(n)
        if len(data) != n:
            raise self.error(f"{what} could not be read; the file shrank while it was read")
        self.position += n
        return data

    def skip(self, n: int, what: str) -> None:
        self.need(n, what)
        self.position += n
        self.file.seek(self.position)

    def u32(self, what: str) -> int:
        return int(U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(U64.unpack(self.take(8, what))[0])

    def string(self, what: str) -> str:
        return self.take(self.u64(what), what).decode("utf-8", "replace")


def read_header(path: Path) -> Header:
    """The metadata and the tensor table of one GGUF file (one part, if it is split); read once while the file stays.

    Raises `InputError` if the file cannot be read, `FileFormatError` if it is no GGUF of version 2 or 3, is big
    endian, or is truncated or inconsistent anywhere up to the last byte of its tensors.
    """
    try:
        at = path.stat()
        stamp = (path, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino, at.st_dev)
        if stamp not in _known:
            with path.open("rb") as file:
                header = parse_header(Cursor(path, file, file.seek(0, 2)))
            if max(at.st_mtime, at.st_ctime) + SETTLED_SECONDS > time.time():
                return header
            _known[stamp] = header
        return _known[stamp]
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror or error}") from error


def parse_header(cursor: Cursor) -> Header:
    """Parse from the first byte; see `read_header`."""
    cursor.file.seek(0)
    check_magic(cursor)
    check_version(cursor)
    n_tensors, n_keys = cursor.u64("the tensor count"), cursor.u64("the key count")
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = cursor.string("a metadata key")
        if not key or key in metadata:
            raise cursor.error(f"metadata key {key!r} is repeated" if key else "a metadata key is empty")
        metadata[key] = read_value(cursor, key)
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}, expected a power of two")
    return Header(cursor.path, cursor.size, metadata, read_tensor_table(cursor, n_tensors, alignment))


def check_magic(cursor: Cursor) -> None:
    magic = cursor.file.read(4)
    if magic != b"GGUF":
        found = f"starts with {magic!r}" if magic else "is empty"
        raise FileFormatError(f"{cursor.path} is not a GGUF file: it {found}, expected b'GGUF'")
    cursor.position = 4


def check_version(cursor: Cursor) -> None:
    version = cursor.u32("the version")
    if version & 0xFFFF == 0:
        raise FileFormatError(
            f"{cursor.path} is a big-endian GGUF; convert it with `gguf-convert-endian {cursor.path.name} little`"
        )
    if version not in (2, 3):
        raise FileFormatError(f"{cursor.path} has GGUF version {version}, expected 2 or 3; convert the model again")


def read_value(cursor: Cursor, key: str) -> Value:
    """One metadata value; an array is stepped over and kept as its byte span."""
    kind = cursor.u32(key)
    if kind == GGUFValueType.STRING:
        return cursor.string(key)
    if kind == GGUFValueType.ARRAY:
        return read_array(cursor, key)
    if kind not in SCALARS:
        raise cursor.error(f"{key} has the unknown value type {kind}, expected 0 to {max(GGUFValueType)}")
    scalar = SCALARS[kind]
    value: int | float | bool = scalar.unpack(cursor.take(scalar.size, key))[0]
    return value


def read_array(cursor: Cursor, key: str) -> ArrayField:
    kind, n = cursor.u32(key), cursor.u64(key)
    start = cursor.position
    if kind in SCALARS:
        cursor.skip(n * SCALARS[kind].size, f"the array {key} of {n:,} elements")
        return ArrayField(kind, n, start, cursor.position)
    if kind != GGUFValueType.STRING:
        raise cursor.error(f"the array {key} has the unknown element type {kind}")
    cursor.need(8 * n, f"the array {key} of {n:,} strings")
    if n > MAX_STRINGS:
        raise cursor.error(f"the array {key} has {n:,} strings, expected at most {MAX_STRINGS:,}")
    skip_strings(cursor, n, key)
    return ArrayField(kind, n, start, cursor.position)


def skip_strings(cursor: Cursor, n: int, key: str) -> None:
    """Step over `n` strings: there are half a million of them in a large vocabulary.

    In bulk as far as that goes; then some one by one, twice as many each time, so that no file makes it slow.
    """
    n_done, n_single = 0, 32
    while n_done < n:
        n_bulk, n_bytes = count_short_strings(cursor.file.read(PIECE), n - n_done)
        cursor.file.seek(cursor.position)
        cursor.skip(n_bytes, f"the strings of {key}")
        n_done += n_bulk
        n_single = 32 if n_bulk > n_single else 2 * n_single
        for number in range(n_done, min(n, n_done + n_single)):
            cursor.skip(cursor.u64(f"the length of string {number:,} of {key}"), f"string {number:,} of {n:,} in {key}")
        n_done = min(n, n_done + n_single)


def count_short_strings(data: bytes, n_most: int) -> tuple[int, int]:
    """How many strings of fewer than 256 bytes follow each other from the first byte on, at most `n_most`, and where
    they end.

    The length of such a string is a byte and seven zeros. Each place that looks so is a string's beginning if the first
    byte is one and each of them lies where the string before it ends; after one that does not, nothing is known.
    """
    values = np.frombuffer(data, np.uint8)
    if len(values) < 8:
        return 0, 0
    is_zero = values == 0
    n_places = len(values) - 7
    begins = np.flatnonzero(np.logical_and.reduce([is_zero[place : place + n_places] for place in range(1, 8)]))
    ends = begins + 8 + values[begins]
    wrong = np.flatnonzero(begins != np.append(0, ends)[: len(begins)])
    n = min(n_most, int(wrong[0]) if len(wrong) else len(begins))
    while n and ends[n - 1] > len(values):  # the last one may go on after the piece
        n -= 1
    return n, int(ends[n - 1]) if n else 0


def read_tensor_table(cursor: Cursor, n_tensors: int, alignment: int) -> dict[str, Tensor]:
    """The tensors by name, their offsets made absolute, each checked against the end of the file."""
    rows: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(n_tensors):
        name = cursor.string("a tensor name")
        if name in rows:
            raise cursor.error(f"the tensor {name!r} is listed twice")
        n_dims = cursor.u32(f"the shape of {name!r}")
        if n_dims > MAX_DIMS:
            raise cursor.error(f"the tensor {name!r} has {n_dims} dimensions, expected at most {MAX_DIMS}")
        shape = tuple(cursor.u64(f"the shape of {name!r}") for _ in range(n_dims))
        rows[name] = (shape, cursor.u32(f"the type of {name!r}"), cursor.u64(f"the offset of {name!r}"))
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    expected = 0
    for name, (shape, type_id, offset) in rows.items():
        if offset != expected:  # llama.cpp too accepts only tensors laid end to end
            raise cursor.error(f"the tensor {name!r} lies at data offset {offset:,}, expected {expected:,}")
        n_bytes = tensor_bytes(cursor, name, shape, type_id)
        tensors[name] = Tensor(name, shape, type_id, data_start + offset, n_bytes)
        expected += -(-n_bytes // alignment) * alignment
    check_end(cursor, tensors)
    return tensors


def tensor_bytes(cursor: Cursor, name: str, shape: tuple[int, ...], type_id: int) -> int:
    if type_id not in TENSOR_TYPES:
        raise FileFormatError(
            f"{cursor.path}: the tensor {name!r} has type {type_id}, which the installed gguf package does not know; "
            "the file is damaged, or newer than gguf (`pip install -U gguf`)"
        )
    type_name, per_block, block_bytes = TENSOR_TYPES[type_id]
    row = shape[0] if shape else 1
    if row % per_block:
        raise cursor.error(f"the tensor {name!r} ({type_name}) has rows of {row:,}, not a multiple of {per_block}")
    return prod(shape) // per_block * block_bytes


def check_end(cursor: Cursor, tensors: Mapping[str, Tensor]) -> None:
    end = max((tensor.offset + tensor.n_bytes for tensor in tensors.values()), default=0)
    if end > cursor.size:
        raise FileFormatError(
            f"{cursor.path} is truncated: its tensors end at byte {end:,} and the file at byte {cursor.size:,}, "
            f"{end - cursor.size:,} bytes are missing; download it again"
        )
