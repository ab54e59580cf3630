"""Importance matrices as files: GGUF and the old `.dat`, both read and written as llama-imatrix does."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from quantprobe.arrays import Float32Array, Int64Array
from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import write_whole
from quantprobe.gguf.header import ArrayField, Header, Tensor, read_header
from quantprobe.gguf.parts import read_span
from quantprobe.imatrix.matrix import Entry, Imatrix, check_finite

SUMS, COUNTS = ".in_sum2", ".counts"
MAX_COUNT = 2.0**53
"""A float32 beyond this is no count of tokens."""
MAX_NAME = 63 - len(SUMS)
"""ggml keeps 63 bytes of a tensor's name."""
_ALIGNMENT = 32


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix in either form, told apart by the first four bytes.

    Raises `InputError` if there is no such file, and `FileFormatError` for a file that is not an importance matrix, is
    damaged, misses the partner of a tensor, or holds values that are not finite.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            imatrix = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path, file)
    except OSError as error:
        raise InputError(f"cannot read the importance matrix {path}: {error.strerror or error}") from error
    if not imatrix.entries:
        raise FileFormatError(f"the importance matrix {path} has no entries; collect it again")
    check_finite(str(path), imatrix)
    return imatrix


def _read_gguf(path: Path) -> Imatrix:
    header = read_header(path)
    kind = header.text("general.type")
    if kind != "imatrix":
        raise FileFormatError(f"{path} is a GGUF of type {kind or 'model'!r}, not an importance matrix")
    names = {name.removesuffix(suffix) for suffix in (SUMS, COUNTS) for name in header.tensors if name.endswith(suffix)}
    return Imatrix(
        entries={name: _read_entry(header, name) for name in sorted(names)},
        datasets=tuple(_read_strings(header, "imatrix.datasets")),
        n_chunks=header.integer("imatrix.chunk_count") or 0,
        chunk_size=header.integer("imatrix.chunk_size") or 0,
    )


def _read_entry(header: Header, name: str) -> Entry:
    values: dict[str, Float32Array] = {}
    for suffix, other in ((SUMS, COUNTS), (COUNTS, SUMS)):
        tensor = header.tensors.get(name + suffix)
        if tensor is None:
            raise FileFormatError(f"the importance matrix {header.path} has {name}{other} but no {name}{suffix}")
        values[suffix] = _read_floats(header.path, tensor)
    sums, counts = values[SUMS], _whole_counts(f"{header.path}: {name}", values[COUNTS])
    if not len(counts) or not sums.size or sums.size % len(counts):
        raise FileFormatError(f"{header.path}: {name} has {sums.size} sums, which {len(counts)} matrices cannot share")
    return Entry(sums.reshape(len(counts), -1), counts)


def _read_floats(path: Path, tensor: Tensor) -> Float32Array:
    if tensor.type_id != GGMLQuantizationType.F32:
        raise FileFormatError(f"{path}: {tensor.name} is of type {tensor.type_name}, expected F32")
    values: Float32Array = np.frombuffer(read_span(path, tensor.offset, tensor.n_bytes), dtype="<f4")
    return values.astype(np.float32, copy=False)


def _whole_counts(where: str, counts: Float32Array) -> Int64Array:
    if not np.isfinite(counts).all() or (np.abs(counts) > MAX_COUNT).any():
        raise FileFormatError(f"{where} has a count that is no number of tokens; collect the importance matrix again")
    return np.rint(counts).astype(np.int64)


def _read_strings(header: Header, key: str) -> Iterator[str]:
    field = header.metadata.get(key)
    if not isinstance(field, ArrayField) or field.kind != GGUFValueType.STRING:
        return
    data = read_span(header.path, field.start, field.stop - field.start)
    position = 0
    for _ in range(field.n):
        (length,) = struct.unpack_from("<Q", data, position)
        position += 8 + length
        yield data[position - length : position].decode("utf-8", "replace")


class _Legacy:
    """Reads forward through a `.dat`; nothing is allocated before the file is known to hold it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = file.seek(0, 2)
        file.seek(0)

    def take(self, n: int, what: str) -> bytes:
        if not 0 <= n <= self.left:
            raise FileFormatError(
                f"{self.path} is no importance matrix, or damaged: {what} takes {n:,} bytes and {self.left:,} are left"
            )
        data = self.file.read(n)
        if len(data) != n:
            raise FileFormatError(f"{self.path} shrank while it was read; read it again")
        self.left -= n
        return data

    def integer(self, what: str) -> int:
        return int(struct.unpack("<i", self.take(4, what))[0])

    def text(self, what: str) -> str:
        return self.take(self.integer(f"the length of {what}"), what).decode("utf-8", "replace")


def _read_legacy(path: Path, file: BinaryIO) -> Imatrix:
    reader = _Legacy(path, file)
    n_entries = reader.integer("the number of entries")
    entries: dict[str, Entry] = {}
    for number in range(n_entries):
        name = reader.text(f"the name of entry {number}")
        n_calls, n_values = reader.integer(f"the chunks of {name!r}"), reader.integer(f"the size of {name!r}")
        if name in entries or not name or n_values < 1:
            raise FileFormatError(f"{path} is no importance matrix, or damaged: entry {number} is {name!r}")
        values = np.frombuffer(reader.take(4 * n_values, f"the values of {name!r}"), dtype="<f4")
        # a count of 0 means that the values are means already
        counts = np.array([max(n_calls, 1)], dtype=np.int64)
        entries[name] = Entry(values.astype(np.float32, copy=False).reshape(1, -1), counts)
    n_chunks = reader.integer("the number of chunks") if reader.left else 0
    dataset = reader.text("the name of the text") if reader.left else ""
    return Imatrix(
        dict(sorted(entries.items())), (dataset,) if dataset else (), max(n_chunks, 0), chunk_size=0, is_legacy=True
    )


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write the GGUF form with llama-imatrix's keys and layout, whole or not at all.

    A legacy matrix must be brought to sums over tokens first (`Imatrix.in_tokens`).
    """
    tensors: dict[str, Float32Array] = {}
    for name, entry in sorted(imatrix.entries.items()):
        if len(name.encode("utf-8")) > MAX_NAME:
            raise InputError(f"the weight name {name!r} is longer than the {MAX_NAME} bytes that the file can hold")
        tensors[name + SUMS] = entry.sums.astype(np.float32, copy=False)
        tensors[name + COUNTS] = entry.counts.astype(np.float32)[:, None]
    write_whole(path, b"".join(_gguf_pieces(imatrix, tensors)))


def _gguf_pieces(imatrix: Imatrix, tensors: Mapping[str, Float32Array]) -> Iterator[bytes]:
    datasets = b"".join(map(_string, imatrix.datasets))
    keys = [
        _key("general.type", GGUFValueType.STRING, _string("imatrix")),
        _key(
            "imatrix.datasets",
            GGUFValueType.ARRAY,
            struct.pack("<IQ", GGUFValueType.STRING, len(imatrix.datasets)) + datasets,
        ),
        _key("imatrix.chunk_count", GGUFValueType.UINT32, struct.pack("<I", imatrix.n_chunks)),
        _key("imatrix.chunk_size", GGUFValueType.UINT32, struct.pack("<I", imatrix.chunk_size)),
    ]
    table, offset = [], 0
    for name, values in tensors.items():
        # ggml's order, row length first, without trailing dimensions of one
        shape = (values.shape[1], values.shape[0]) if values.shape[0] > 1 else (values.shape[1],)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        table.append(_string(name) + dims + struct.pack("<IQ", GGMLQuantizationType.F32, offset))
        offset += _padded(values.nbytes)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(table)
    yield head + bytes(_padded(len(head)) - len(head))
    for values in tensors.values():
        yield np.ascontiguousarray(values, dtype="<f4").tobytes()
        yield bytes(_padded(values.nbytes) - values.nbytes)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _key(name: str, kind: GGUFValueType, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def write_legacy(path: Path, imatrix: Imatrix, chunk_size: int) -> None:
    """Write the old `.dat` form as llama-imatrix does: means times the number of chunks begun.

    Entries without any token are left out; an expert without tokens gets 1. The tokens of each expert are lost.
    """
    entries = {name: entry for name, entry in sorted(imatrix.entries.items()) if entry.counts.max() > 0}
    pieces = [struct.pack("<i", len(entries))]
    for name, entry in entries.items():
        n_calls = int(entry.counts.max()) if imatrix.is_legacy else -(-int(entry.counts.max()) // chunk_size)
        values = entry.means() * np.float32(n_calls)
        label = name.encode("utf-8")
        pieces += [struct.pack("<i", len(label)), label, struct.pack("<ii", n_calls, values.size)]
        pieces.append(np.ascontiguousarray(values, dtype="<f4").tobytes())
    dataset = (imatrix.datasets[-1] if imatrix.datasets else "").encode("utf-8")
    pieces += [struct.pack("<ii", imatrix.n_chunks, len(dataset)), dataset]
    write_whole(path, b"".join(pieces))
