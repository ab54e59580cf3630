"""Peak memory above the loaded model: bounded, and the same for every context length (bench/memory.py goes further)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bench() -> Any:
    path = Path(__file__).parents[2] / "bench" / "memory.py"
    if not path.is_file():
        pytest.skip("bench/ is not part of this copy")
    spec = importlib.util.spec_from_file_location("bench_memory", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_peak_memory_does_not_grow_with_the_context(bench: Any, tmp_path: Path) -> None:
    """A vocabulary of 151,936 tokens; each stage in a process of its own."""
    bench.make_inputs(tmp_path, 151_936, 16_384)
    for stage in ("capture", "compare"):
        short, long = (bench.measure(stage, tmp_path, n_ctx) - bench.kv_mb(n_ctx) for n_ctx in (512, 16_384))
        # the measurement sees: a block of logits is 97 MB, and there are two at least
        assert 150 < short <= bench.BOUND_MB
        assert 150 < long <= bench.BOUND_MB
        # pieces of a window of 512 are smaller, and buffers meet by chance: less than a block either way
        assert abs(long - short) < 97
