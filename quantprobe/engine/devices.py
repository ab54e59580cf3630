"""What llama.cpp sees on this machine: backends, devices, memory, CPU features."""

from __future__ import annotations

from dataclasses import dataclass

import quantprobe
from quantprobe import _native
from quantprobe.engine import abi
from quantprobe.engine.abi import llama

_KINDS = ("CPU", "GPU", "IGPU", "ACCEL", "META")


@dataclass(frozen=True)
class Device:
    """One device that llama.cpp can compute on; memory in bytes."""

    index: int
    name: str
    description: str
    kind: str
    backend: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True)
class Versions:
    """What took part in a measurement."""

    quantprobe: str
    llama_cpp_python: str
    llama_cpp: str
    backends: tuple[str, ...]


def list_devices() -> list[Device]:
    """Every device, in llama.cpp's order."""
    return [
        Device(
            index, name, description.strip(), _KINDS[kind] if kind < len(_KINDS) else str(kind), backend, free, total
        )
        for index, (name, description, kind, backend, free, total) in enumerate(_native.list_devices())
    ]


def system_info() -> str:
    """llama.cpp's one line on CPU features and backends."""
    info = llama.llama_print_system_info()
    return str(info.decode() if isinstance(info, bytes) else info)


def versions() -> Versions:
    backends = tuple(dict.fromkeys(device.backend for device in list_devices()))
    return Versions(quantprobe.__version__, abi.python_version(), abi.llama_cpp_version(), backends)
