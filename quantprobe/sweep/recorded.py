"""What is recorded of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from quantprobe.engine.devices import list_devices, versions
from quantprobe.settings import Settings


def record_settings(settings: Settings) -> dict[str, Any]:
    """Everything that can change a number, as `results.json` keeps it."""
    known = versions()
    devices = [f"{device.name}: {device.description}" for device in list_devices()]
    backend = "+".join(known.backends) if settings.n_gpu_layers != 0 else "CPU"
    return {
        **settings.with_threads().to_dict(),
        "n_ubatch_used": settings.n_ubatch_used,
        "quantprobe_version": known.quantprobe,
        "llama_cpp_python_version": known.llama_cpp_python,
        "llama_cpp_version": known.llama_cpp,
        "backend": backend,
        "devices": devices,
    }


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
