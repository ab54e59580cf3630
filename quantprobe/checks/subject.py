"""A file under test and what it is compared with; its structure is the first check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantprobe.checks.outcome import FAIL, WARN, Check, passed
from quantprobe.errors import FileFormatError
from quantprobe.gguf.file_types import file_type_of
from quantprobe.gguf.header import Header
from quantprobe.gguf.model import ModelIdentity
from quantprobe.gguf.parts import read_parts
from quantprobe.gguf.tensors import Inventory, make_inventory

STRUCTURE = "structure"
QUANTIZATION_VERSION = 2
"""ggml's GGML_QNT_VERSION, which llama-quantize writes as general.quantization_version."""


@dataclass(frozen=True)
class Subject:
    """A file whose headers could be read, its base where there is one, or what a capture says of the base."""

    path: Path
    model: Inventory
    base: Inventory | None = None
    base_identity: ModelIdentity | None = None


@dataclass(frozen=True)
class Structure:
    """The check of headers, parts and tensor table, and the model where they could be read."""

    check: Check
    model: Inventory | None


def check_structure(path: Path) -> Structure:
    """Magic, version, metadata, all parts present and of one model, every tensor's bytes by type and shape within the
    file, nothing behind the last.

    Raises `InputError` where a file cannot be read at all: that is no fault of its content.
    """
    try:
        parts = read_parts(path)
        model = make_inventory(path, parts)
    except FileFormatError as error:
        return Structure(Check(STRUCTURE, FAIL, str(error)), None)
    oddities = [*_trailing_bytes(parts), *_odd_facts(model)]
    if oddities:
        return Structure(Check(STRUCTURE, WARN, "; ".join(oddities)), model)
    n_bytes = sum(each.tensor.n_bytes for each in model.tensors)
    files = f"{len(parts)} files" if len(parts) > 1 else "one file"
    reason = f"{files}, {len(model.tensors):,} tensors, {n_bytes:,} bytes of weights as types and shapes demand"
    return Structure(passed(STRUCTURE, reason), model)


def _trailing_bytes(parts: Sequence[Header]) -> list[str]:
    """Files that do not end with their last tensor, filled up to the alignment or not."""
    found = []
    for part in parts:
        end = max((each.offset + each.n_bytes for each in part.tensors.values()), default=part.size_bytes)
        alignment = part.integer("general.alignment") or 32
        if part.size_bytes - end >= alignment:
            extra = part.size_bytes - end
            found.append(f"{part.path.name} has {extra:,} bytes behind its last tensor, expected none; copy it again")
    return found


def _odd_facts(model: Inventory) -> list[str]:
    found = []
    header = model.first
    number = header.integer("general.file_type")
    if number is not None and file_type_of(number) is None:
        found.append(f"general.file_type is {number}, which this llama.cpp does not know; correct it or convert again")
    version = header.integer("general.quantization_version")
    if version is not None and version != QUANTIZATION_VERSION:
        found.append(f"general.quantization_version is {version}, expected {QUANTIZATION_VERSION}; quantize again")
    return found
