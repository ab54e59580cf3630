"""One GGUF as numbered parts, as llama-gguf-split makes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from quantprobe.errors import FileFormatError
from quantprobe.files import read_pieces
from quantprobe.gguf.header import Cursor, Header, Tensor, check_magic, check_version, read_header, read_value


def split_gguf(path: Path, max_bytes: int) -> list[Path]:
    """Cut a GGUF into parts beside it, NAME-00001-of-0000N.gguf, and remove it; gives the parts in order.

    A part takes tensors, in their order, up to `max_bytes` of tensor data (one tensor that is larger has a part of its
    own); the first also holds the metadata. A file that fits one part stays as it is.
    """
    header = read_header(path)
    alignment = header.integer("general.alignment") or GGUF_DEFAULT_ALIGNMENT
    groups = group_tensors(list(header.tensors.values()), max_bytes, alignment)
    if len(groups) < 2:
        return [path]
    n_keys, keys = _metadata(path)
    parts = []
    with path.open("rb") as source:
        for number, tensors in enumerate(groups):
            own = _split_keys(number, len(groups), len(header.tensors))
            if number == 0:
                n_own, own = n_keys + len(_KEYS), keys + own
            else:
                n_own = len(_KEYS) + (alignment != GGUF_DEFAULT_ALIGNMENT)
                own += _alignment_key(alignment)
            part = path.with_name(f"{path.name.removesuffix('.gguf')}-{number + 1:05d}-of-{len(groups):05d}.gguf")
            with part.open("wb") as file:
                _write_part(file, source, header, tensors, (n_own, own, alignment))
            parts.append(part)
    path.unlink()
    return parts


def group_tensors(tensors: Sequence[Tensor], max_bytes: int, alignment: int) -> list[list[Tensor]]:
    """The tensors of each part."""
    groups: list[list[Tensor]] = [[]]
    n_bytes = 0
    for tensor in tensors:
        size = padded(tensor.n_bytes, alignment)
        if groups[-1] and n_bytes + size > max_bytes:
            groups.append([])
            n_bytes = 0
        groups[-1].append(tensor)
        n_bytes += size
    return groups


def _metadata(path: Path) -> tuple[int, bytes]:
    """How many keys the file has, and their bytes."""
    with path.open("rb") as file:
        cursor = Cursor(path, file, file.seek(0, 2))
        file.seek(0)
        check_magic(cursor)
        check_version(cursor)
        cursor.u64("the tensor count")
        n_keys = cursor.u64("the key count")
        start = cursor.position
        for _ in range(n_keys):
            read_value(cursor, cursor.string("a metadata key"))
        file.seek(start)
        return n_keys, file.read(cursor.position - start)


_KEYS = (
    ("split.no", GGUFValueType.UINT16, "<H"),
    ("split.count", GGUFValueType.UINT16, "<H"),
    ("split.tensors.count", GGUFValueType.INT32, "<i"),
)


def _split_keys(*values: int) -> bytes:
    return b"".join(
        pack_string(name) + struct.pack("<I", kind) + struct.pack(form, value)
        for (name, kind, form), value in zip(_KEYS, values, strict=True)
    )


def _alignment_key(alignment: int) -> bytes:
    if alignment == GGUF_DEFAULT_ALIGNMENT:
        return b""
    return pack_string("general.alignment") + struct.pack("<II", GGUFValueType.UINT32, alignment)


def _write_part(
    file: BinaryIO, source: BinaryIO, header: Header, tensors: Sequence[Tensor], keys: tuple[int, bytes, int]
) -> None:
    n_keys, key_bytes, alignment = keys
    file.write(pack_head(tensors, n_keys, key_bytes, alignment))
    for tensor in tensors:
        source.seek(tensor.offset)
        n_written = sum(file.write(piece) for piece in read_pieces(source, tensor.n_bytes))
        if n_written != tensor.n_bytes:
            raise FileFormatError(f"{header.path} ends within the tensor {tensor.name}; make it again")
        file.write(bytes(padded(tensor.n_bytes, alignment) - tensor.n_bytes))


def pack_head(tensors: Sequence[Tensor], n_keys: int, key_bytes: bytes, alignment: int) -> bytes:
    """Everything before the data of the tensors, which lie behind it in this order."""
    table, offset = [], 0
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        table.append(pack_string(tensor.name) + dims + struct.pack("<IQ", tensor.type_id, offset))
        offset += padded(tensor.n_bytes, alignment)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys) + key_bytes + b"".join(table)
    return head + bytes(padded(len(head), alignment) - len(head))


def pack_string(text: str) -> bytes:
    """A string as GGUF writes it: its length in bytes, then UTF-8."""
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def padded(n_bytes: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-n_bytes // alignment) * alignment
