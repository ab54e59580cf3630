"""No bit depends on the number of threads, as no token is ever decoded alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_archs import ARCHS, SLIDING
from tiny_gguf import write_tiny

from quantprobe.engine.model import Model
from quantprobe.engine.runner import probe_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings

SETTINGS = Settings(n_ctx=1025, n_threads=1)


def random_tokens(n: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(3, 259, n, dtype=np.int32)


def text_probe() -> TextProbe:
    """One window of two micro-batches and one token."""
    return TextProbe("t", random_tokens(1025, 0).reshape(1, 1025), None)


def task_probe() -> TaskProbe:
    """Questions that leave single tokens: the last of 513 common ones, a branch of another length than the others, the
    last of a question of 513 more, and a question of one."""
    header = random_tokens(513, 1)

    def item(number: int, n_own: int, lengths: tuple[int, ...]) -> ChoiceItem:
        prefix = np.concatenate([header, random_tokens(n_own, 10 + number)])
        branches = tuple(random_tokens(n, 100 * (number + 1) + place) for place, n in enumerate(lengths))
        n = len(lengths)
        return ChoiceItem(str(number), "", 0, prefix, branches, 1, (len(prefix),) * n, (1,) * n, (1,) * n)

    return TaskProbe("t", "tokens", "plain", (item(0, 5, (2, 4)), item(1, 5, (2, 508)), item(2, 1, (1, 1))))


@pytest.mark.parametrize("arch", ARCHS)
def test_bits_do_not_depend_on_the_number_of_threads(tmp_path: Path, arch: str) -> None:
    window = {f"{arch}.attention.sliding_window": 16} if arch in SLIDING else None
    info = read_model_info(write_tiny(tmp_path / "m.gguf", arch, extra=window))
    found = []
    for n_threads in (1, 2, 3):
        with Model(info, replace(SETTINGS, n_threads=n_threads)) as model:
            blocks = [
                block.logits.copy() for probe in (text_probe(), task_probe()) for block in probe_blocks(model, probe)
            ]
        found.append(np.concatenate(blocks).view(np.uint32))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_two_contexts_decode_at_once(tmp_path: Path) -> None:
    """From two threads of Python, the GIL released: what `tests/sanitize.sh thread` looks at."""
    infos = [read_model_info(write_tiny(tmp_path / f"{arch}.gguf", arch)) for arch in ("llama", "gemma3")]
    tokens = random_tokens(3200, 0).reshape(50, 64)

    def decode(number: int) -> np.ndarray[Any, Any]:
        with Model(infos[number], replace(SETTINGS, n_ctx=64)) as model:
            blocks = [block.logits.copy() for block in probe_blocks(model, TextProbe("t", tokens, None), hidden=True)]
        return np.concatenate(blocks).view(np.uint32)

    alone = [decode(0), decode(1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(decode, (0, 1, 0, 1)))
    assert all(np.array_equal(rows, alone[number % 2]) for number, rows in enumerate(together))
