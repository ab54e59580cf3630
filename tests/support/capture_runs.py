"""Captures of tiny models that are counted, interrupted and extended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import write_letters

from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, base_decode

SETTINGS = Settings(n_ctx=32, n_ubatch=40, n_threads=1, n_gpu_layers=0)
HEADER = "the sum of two and three is five. the capital of peru is lima. "


def digests(capture: Path) -> dict[str, str]:
    """Every file of a capture: meta.json too, so null controls and counts of tokens."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(capture.iterdir())}


class Counting:
    """Counts the blocks and tokens of the base that are decoded, and ends the work after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.original = base_decode.probe_blocks
        self.error = error
        self.n_blocks = self.n_tokens = 0
        self.left: int | None = None
        monkeypatch.setattr(base_decode, "probe_blocks", self.blocks)

    def blocks(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        for block in self.original(*arguments, **options):
            if self.left is not None and self.left <= 0:
                raise self.error
            self.left = None if self.left is None else self.left - 1
            self.n_blocks += 1
            self.n_tokens += block.n_tokens
            yield block


def questions(n: int, seed: int = 1) -> list[Question]:
    """Questions of 2 to 4 choices behind one long beginning."""
    rng = np.random.default_rng(seed)

    def words(low: int, high: int) -> str:
        return "".join(rng.choice(list("etaoin shrdlu"), rng.integers(low, high))).strip() or "a"

    return [
        Question(f"q{number}", "", HEADER + words(2, 40), tuple(words(1, 9) for _ in range(2 + number % 3)), 0)
        for number in range(n)
    ]


def text_and_task(folder: Path, n_letters: int = 32 * 5 + 3, n_questions: int = 3) -> dict[str, Inputs]:
    """A text `t` of five blocks under `SETTINGS`, and a task `q`."""
    text = TextInput("t", write_letters(folder / "t.txt", n_letters))
    write_native(folder / "q.jsonl", questions(n_questions))
    return {"text": Inputs((text,)), "task": Inputs((), (TaskInput("q", folder / "q.jsonl"),))}
