"""What is recorded of a run, and when two runs may be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from quantprobe.capture.meta import BaseIdentity
from quantprobe.engine.devices import list_devices, versions
from quantprobe.engine.settings import Settings
from quantprobe.errors import MismatchError
from quantprobe.gguf.model import ModelInfo

COMPARED = (
    *("n_ctx", "n_ubatch_used", "n_parallel", "flash_attn", "type_k", "type_v", "n_gpu_layers"),
    *("llama_cpp_version", "backend"),
)
"""Settings that move logits. Flash attention alone moves them by a KLD of 0.002 to 0.024 nats, as much as Q5_K_M loses.
The rest (threads, mmap, devices) is recorded and not compared: CPU results do not depend on it."""


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


def require_same_settings(captured: Mapping[str, Any], now: Mapping[str, Any], allow: bool) -> list[str]:
    """Refuse to compare rows that were computed differently, unless allowed by name.

    Returns the differences in words. Settings that the capture does not know (an imported file) are not compared.
    """
    differences = [
        f"{key} was {captured[key]} and is {now.get(key)}"
        for key in COMPARED
        if key in captured and captured[key] != now.get(key)
    ]
    if differences and not allow:
        raise MismatchError(
            f"the base was captured under other settings ({'; '.join(differences)}), which move logits by as much as a "
            "good quant does; use the same settings, or compare all the same with --allow-settings-change"
        )
    return differences


def base_identity(info: ModelInfo) -> BaseIdentity:
    return BaseIdentity(
        name=info.name,
        path=str(info.path.resolve()),
        sha256=info.sha256,
        size_bytes=info.size_bytes,
        bpw=info.bpw,
        file_type=info.file_type,
        architecture=info.architecture,
        n_vocab=info.n_vocab,
        tokenizer_sha256=info.tokenizer_sha256,
    )


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
