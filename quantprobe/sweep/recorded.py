"""What is recorded of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import quantprobe
from quantprobe.engine.library import python_version
from quantprobe.engine.machine import describe_machine
from quantprobe.run.json_text import plain
from quantprobe.settings import Settings


def record_settings(settings: Settings, flash_attn_used: Any = None) -> dict[str, Any]:
    """Everything that can change a number, as `results.json` keeps it.

    `flash_attn_used` is what a context under these settings resolved flash attention to; None where none was made yet.
    """
    return {
        **settings.with_threads().to_dict(),
        "n_ubatch_used": settings.n_ubatch_used,
        "quantprobe_version": quantprobe.__version__,
        "llama_cpp_python_version": python_version(),
        **plain(describe_machine(settings)),
        "flash_attn_used": flash_attn_used if settings.flash_attn else False,
    }


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
