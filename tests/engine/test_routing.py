"""What a mixture of experts adds to the difference between two geometries: another expert, now and then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_gguf import write_tiny

from quantprobe.engine.model import Model
from quantprobe.engine.runner import probe_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings

WINDOWS = 128
JUMP = 0.05
"""Nats; more than the attention of batches of 32 and of 64 tokens differ by (ggml has another kernel below 64)."""


def differences(path: Path, **chosen: Any) -> np.ndarray[Any, Any]:
    """Of each row the largest change of a log-probability between micro-batches of 32 and of 512 tokens."""
    tokens = np.random.default_rng(0).integers(3, 259, (WINDOWS, 64), dtype=np.int32)
    probe, found = TextProbe("t", tokens, None), []
    for n_ubatch in (32, 512):
        with Model(read_model_info(path), Settings(n_ctx=64, n_ubatch=n_ubatch, n_threads=1, **chosen)) as model:
            logits = np.concatenate([block.logits.copy() for block in probe_blocks(model, probe)]).astype(np.float64)
        found.append(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return np.abs(found[0] - found[1]).max(axis=1)


def test_a_few_tokens_go_to_another_expert(tmp_path: Path) -> None:
    """Two of four experts: a handful of rows jumps by nats, as two experts' scores lie next to each other; all four, or
    attention in float32: none does."""
    two = write_tiny(tmp_path / "two.gguf", "olmoe", "bpe")
    all_four = write_tiny(tmp_path / "four.gguf", "olmoe", "bpe", extra={"olmoe.expert_used_count": 4})
    moved = differences(two)
    assert moved.max() > 10 * JUMP and 0 < np.mean(moved > JUMP) < 0.05
    assert differences(all_four).max() < JUMP
    assert differences(two, flash_attn=False, type_k="f32", type_v="f32").max() < 1e-4
