"""What several test files about questions share: the real files, a small tokenizer, a small model."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from quantprobe.arrays import Float32Array, FloatArray, Int32Array

SHARED = Path(__file__).parents[2].parent / "shared"
BOS, N_VOCAB = 512, 516


def real_file(*parts: str) -> Path:
    """A file or folder of real questions; skips the test where there is none."""
    path = SHARED / "data" / "choice" / Path(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not here: the folder of real question files is missing")
    return path


class ByteTokenizer:
    """Bytes as tokens; a space and the byte behind it are one token; `<s>` is BOS when special text is parsed."""

    def __init__(self, add_bos: bool = True) -> None:
        self.add_bos = add_bos

    def __call__(self, text: str, add_special: bool, parse_special: bool) -> Int32Array:
        tokens = [BOS] if add_special and self.add_bos else []
        if parse_special and text.startswith("<s>"):
            tokens.append(BOS)
            text = text[3:]
        data, i = text.encode("utf-8"), 0
        while i < len(data):
            merged = data[i] == 0x20 and i + 1 < len(data) and data[i + 1] != 0x20
            tokens.append(256 + data[i + 1] if merged else data[i])
            i += 2 if merged else 1
        return np.array(tokens, dtype=np.int32)


def logits_after(tokens: Int32Array) -> Float32Array:
    """`[N_VOCAB]` float32: what a small model says after these tokens; the same for the same tokens."""
    seed = zlib.crc32(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
    return np.random.default_rng(seed).normal(0, 3, N_VOCAB).astype(np.float32)


def token_logprobs(tokens: Int32Array) -> FloatArray:
    """log P(tokens[i] | tokens[:i]) of that model, one sequence at a time, `[n_tokens]`; NaN for the first."""
    result = np.full(len(tokens), np.nan)
    for i in range(1, len(tokens)):
        logits = logits_after(tokens[:i]).astype(np.float64)
        result[i] = logits[tokens[i]] - np.logaddexp.reduce(logits)
    return result
