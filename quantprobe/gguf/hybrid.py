"""Hybrids: a GGUF that takes some of its tensors from a base and the others from a quant of it, by raw copy.

Tensors that llama.cpp uses together move together, as one `Unit`: the weight, bias and scales of one product, and the
token embeddings with the output matrix where one of the two files has them tied. Metadata, `general.file_type`
included, stay those of the quant; a hybrid of a split model is one file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from quantprobe.errors import FileFormatError, MismatchError
from quantprobe.files import PIECE_BYTES, reading, writing
from quantprobe.gguf.header import Cursor, check_magic, check_version, read_value
from quantprobe.gguf.split import pack_head, padded
from quantprobe.gguf.tensors import Inventory, PlacedTensor

HEAD = ("token_embd", "output")
"""One matrix where they are tied."""
_ENDINGS = (".weight", ".bias", ".scale", ".input_scale")
_MAX_NAMED = 3


@dataclass(frozen=True)
class Unit:
    """Tensors that move together, as each of the two files has them."""

    name: str
    base: tuple[PlacedTensor, ...]
    quant: tuple[PlacedTensor, ...]
    differs: bool
    """Whether any byte differs, or a type."""

    def of(self, from_base: bool) -> tuple[PlacedTensor, ...]:
        """The tensors of one side."""
        return self.base if from_base else self.quant

    @property
    def extra_bytes(self) -> int:
        """Bytes of tensor data that the base's side takes more."""
        return sum(each.tensor.n_bytes for each in self.base) - sum(each.tensor.n_bytes for each in self.quant)


@dataclass(frozen=True)
class ModelPair:
    """A base and a quant of it, unit by unit, in the order of the quant's tensors."""

    base: Inventory
    quant: Inventory
    units: tuple[Unit, ...]

    @property
    def differing(self) -> tuple[Unit, ...]:
        """The units that a hybrid can change."""
        return tuple(unit for unit in self.units if unit.differs)

    @property
    def alignment(self) -> int:
        return self.quant.first.integer("general.alignment") or GGUF_DEFAULT_ALIGNMENT

    def tensors(self, restored: Collection[str]) -> list[PlacedTensor]:
        """The tensors of the hybrid whose `restored` units are the base's."""
        return [tensor for unit in self.units for tensor in unit.of(unit.name in restored)]

    def data_bytes(self, restored: Collection[str]) -> int:
        """Bytes of the tensors of a hybrid, without padding."""
        return sum(each.tensor.n_bytes for each in self.tensors(restored))


def pair_models(base: Inventory, quant: Inventory, on_bytes: Callable[[int], None] | None = None) -> ModelPair:
    """Pair the tensors of a base and its quant, comparing the bytes of those of one type.

    `on_bytes` hears how many were compared. Raises `MismatchError` where the quant is not one of this base: a tensor
    that only one of them has (but for an output matrix, a bias or a scale), or another shape.
    """
    tied = [_is_tied(side) for side in (base, quant)]
    of_base, of_quant = (_by_unit(side.tensors, tied[0] != tied[1]) for side in (base, quant))
    lone = sorted(of_base.keys() ^ of_quant.keys())
    if lone:
        raise MismatchError(
            f"{base.name} and {quant.name} do not have the same tensors: {', '.join(lone[:_MAX_NAMED])} "
            f"{'is' if len(lone) == 1 else 'are'} in one of them alone ({len(lone)} in all); give a quant of this base"
        )
    return ModelPair(base, quant, tuple(_unit(name, of_base[name], of_quant[name], on_bytes) for name in of_quant))


def _is_tied(model: Inventory) -> bool:
    return all(each.name != "output.weight" for each in model.tensors)


def _by_unit(tensors: Sequence[PlacedTensor], one_head: bool) -> dict[str, list[PlacedTensor]]:
    found: dict[str, list[PlacedTensor]] = {}
    for each in tensors:
        stem = next((each.name.removesuffix(end) for end in _ENDINGS if each.name.endswith(end)), each.name)
        found.setdefault(HEAD[0] if one_head and stem in HEAD else stem, []).append(each)
    return found


def _unit(
    name: str, base: list[PlacedTensor], quant: list[PlacedTensor], on_bytes: Callable[[int], None] | None
) -> Unit:
    of_base = {each.name: each for each in base}
    for each in quant:
        other = of_base.get(each.name)
        if other is not None and other.tensor.shape != each.tensor.shape:
            raise MismatchError(
                f"{each.name} has the shape {other.tensor.shape} in {other.path.name} and {each.tensor.shape} in "
                f"{each.path.name}; give a quant of this base"
            )
    same = len(base) == len(quant) and all(
        each.name in of_base and _is_same(of_base[each.name], each, on_bytes) for each in quant
    )
    return Unit(name, tuple(base), tuple(quant), not same)


def _is_same(a: PlacedTensor, b: PlacedTensor, on_bytes: Callable[[int], None] | None) -> bool:
    if a.tensor.type_id != b.tensor.type_id:
        return False
    for left, right in zip(_pieces(a), _pieces(b), strict=True):
        if left != right:
            return False
        if on_bytes is not None:
            on_bytes(len(left))
    return True


def _pieces(tensor: PlacedTensor) -> Iterator[bytes]:
    with reading(tensor.path), tensor.path.open("rb") as file:
        for start in range(0, tensor.tensor.n_bytes, PIECE_BYTES):
            file.seek(tensor.tensor.offset + start)
            length = min(PIECE_BYTES, tensor.tensor.n_bytes - start)
            piece = file.read(length)
            if len(piece) != length:
                raise FileFormatError(f"{tensor.path} ends within the tensor {tensor.name}; download it again")
            yield piece


def write_hybrid(pair: ModelPair, restored: Collection[str], target: Path) -> None:
    """Write the hybrid whose `restored` units (by name) are the base's, in constant memory.

    The file is written in place: a hybrid lives for one measurement, and its caller gives it a name that says so.
    Raises `InputError` if it cannot be written; what is there of it then is removed.
    """
    chosen = pair.tensors(restored)
    n_keys, keys = _metadata(pair.quant.first.path)
    head = pack_head([each.tensor for each in chosen], n_keys, keys, pair.alignment)
    n_needed = len(head) + sum(padded(each.tensor.n_bytes, pair.alignment) for each in chosen)
    try:
        with writing(target, n_needed), target.open("wb") as file:
            file.write(head)
            _copy_all(chosen, file, pair.alignment)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy_all(tensors: Sequence[PlacedTensor], file: BinaryIO, alignment: int) -> None:
    sources: dict[Path, BinaryIO] = {}
    try:
        for each in tensors:
            with reading(each.path):
                source = sources.get(each.path) or each.path.open("rb")
            sources[each.path] = source
            if _copy(source, each.tensor.offset, each.tensor.n_bytes, file) != each.tensor.n_bytes:
                raise FileFormatError(f"{each.path} ends within the tensor {each.name}; download it again")
            file.write(bytes(padded(each.tensor.n_bytes, alignment) - each.tensor.n_bytes))
    finally:
        for source in sources.values():
            source.close()


def _copy(source: BinaryIO, offset: int, n_bytes: int, target: BinaryIO) -> int:
    """Bytes copied to the target's end: within the kernel where the system can, else by reading."""
    n_done = 0
    in_kernel: Callable[..., int] | None = getattr(os, "copy_file_range", None)  # Linux alone
    target.flush()
    while in_kernel is not None and n_done < n_bytes:
        try:
            n = in_kernel(source.fileno(), target.fileno(), n_bytes - n_done, offset + n_done)
        except OSError:  # another file system, one without the call, or a fault that plain calls will name
            break
        if n == 0:
            break
        n_done += n
    target.seek(0, os.SEEK_END)
    source.seek(offset + n_done)
    while n_done < n_bytes:
        with reading(Path(source.name)):
            piece = source.read(min(PIECE_BYTES, n_bytes - n_done))
        if not piece:
            break
        target.write(piece)
        n_done += len(piece)
    return n_done


def _metadata(path: Path) -> tuple[int, bytes]:
    """How many keys the file has and their bytes, without those of a split."""
    spans: list[tuple[int, int]] = []
    with reading(path), path.open("rb") as file:
        cursor = Cursor(path, file, file.seek(0, 2))
        file.seek(0)
        check_magic(cursor)
        check_version(cursor)
        cursor.u64("the tensor count")
        for _ in range(cursor.u64("the key count")):
            start = cursor.position
            key = cursor.string("a metadata key")
            read_value(cursor, key)
            if not key.startswith("split."):
                spans.append((start, cursor.position))
        pieces = []
        for start, stop in spans:
            file.seek(start)
            pieces.append(file.read(stop - start))
    return len(spans), b"".join(pieces)
