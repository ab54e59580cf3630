"""What llama.cpp's log lines tell and its API does not."""

from __future__ import annotations

import re
from collections.abc import Iterable

LogLine = tuple[int, str]
"""Level (1 debug, 2 info, 3 warning, 4 error) and text, as `_native.take_log` gives them."""

_STATE = re.compile(r"RS buffer size =\s+([\d.]+) MiB")
_LAYER = re.compile(r"layer\s+(\d+) assigned to device ([^,\s]+)")


def told_flash_attn(lines: Iterable[LogLine]) -> bool | None:
    """What flash attention with AUTO resolved to; None if no line tells.

    "Flash Attention enabled", "Flash Attention not supported, set to disabled", "enabling flash_attn since it is
    required for quantized V cache", "flash_attn is not compatible with Grok - forcing off" (llama-context.cpp); the
    last such line counts.
    """
    used = None
    for _, text in lines:
        lowered = text.lower()
        if "flash" not in lowered or "att" not in lowered:
            continue
        if "disabl" in lowered or "forcing off" in lowered:
            used = False
        elif "enabl" in lowered:
            used = True
    return used


def told_output_device(n_layer: int, lines: Iterable[LogLine]) -> str | None:
    """The device of the output matrix, which is layer `n_layer`; None if no line tells (llama-model.cpp)."""
    device = None
    for _, text in lines:
        found = _LAYER.search(text)
        if found is not None and int(found.group(1)) == n_layer:
            device = found.group(2)
    return device


def told_state_bytes(lines: Iterable[LogLine]) -> int | None:
    """Bytes of the recurrent states of a context, on all devices together; None if it has none
    (llama-memory-recurrent.cpp tells them in MiB of two digits; less counts as 0.01)."""
    sizes = [float(found.group(1)) for _, text in lines if (found := _STATE.search(text)) is not None]
    return int(max(sum(sizes), 0.01) * 2**20) if sizes else None
