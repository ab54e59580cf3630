"""A graph that ends at the hidden rows leaves every bit as it is: these rows, the memory, and later logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_resume import SETTINGS, task, text
from test_task_engine import HEADER
from tiny_archs import ARCHS, SLIDING
from tiny_gguf import write_tiny

from quantprobe.engine.model import Model
from quantprobe.engine.runner import probe_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe

Blocks = list[tuple[bytes, bytes, bytes]]


@pytest.fixture(params=list(ARCHS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    """Micro-batches shorter than a window: later ones read the keys and states that a cut graph has left."""
    arch = request.param
    window = {f"{arch}.attention.sliding_window": 16} if arch in SLIDING else None
    path = write_tiny(tmp_path / "m.gguf", arch, extra=window, n_ctx_train=512)
    with Model(read_model_info(path), replace(SETTINGS, n_ubatch=24)) as loaded:
        yield loaded


def decode(model: Model, probe: TextProbe | TaskProbe, wants_logits: Callable[[int], bool] | None) -> Blocks:
    """Row ids, hidden rows and logits of every block."""
    found = []
    for block in probe_blocks(model, probe, hidden=True, wants_logits=wants_logits):
        assert block.hidden is not None
        found.append((block.row_ids.tobytes(), block.hidden.tobytes(), block.logits.tobytes()))
    return found


def check(model: Model, probe: TextProbe | TaskProbe) -> None:
    whole = decode(model, probe, None)
    assert len(whole) > 4
    some = decode(model, probe, lambda number: number % 3 == 2)
    for number, (found, expected) in enumerate(zip(some, whole, strict=True)):
        assert found[:2] == expected[:2]
        assert found[2] == (expected[2] if number % 3 == 2 else b"")


def test_windows(model: Model) -> None:
    check(model, text(7))


@pytest.mark.parametrize("header", ["", HEADER], ids=["no header", "header"])
def test_questions(model: Model, header: str) -> None:
    check(model, task(model, header))


@pytest.mark.model
def test_the_real_model(smollm2: Path) -> None:
    with Model(read_model_info(smollm2), replace(SETTINGS, n_ctx=64, n_ubatch=48, n_threads=2)) as model:
        check(model, TextProbe("t", text(8, 64).tokens, None))
        check(model, task(model, HEADER * 3, 16))


def test_without_hidden_rows_every_block_has_logits(model: Model) -> None:
    blocks = [len(block.logits) for block in probe_blocks(model, text(3), wants_logits=lambda number: False)]
    assert np.all(np.array(blocks) > 0)
