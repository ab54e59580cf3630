"""Several models are hashed at a time; whoever stops does not wait for what is left."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import write_tiny

from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelInfo, read_model_info
from quantprobe.sweep import inputs
from quantprobe.sweep.inputs import SILENT, identify_all


class Counting:
    """What a progress was told."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None

    def start(self, label: str, total: int | None, unit: str) -> None:
        self.total += total or 0

    def advance(self, n: int = 1) -> None:
        self.done += n


def models(folder: Path, n: int) -> list[ModelInfo]:
    return [read_model_info(write_tiny(folder / f"m{i}.gguf", n_layer=1, seed=i)) for i in range(n)]


@pytest.mark.parametrize("n_cores", [1, 2])
def test_every_model_gets_its_own_digest_and_all_bytes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_cores: int
) -> None:
    monkeypatch.setattr(inputs.os, "cpu_count", lambda: n_cores)
    infos, progress = models(tmp_path, 3), Counting()
    found = identify_all(infos, progress)
    assert [each.sha256 for each in found] == [hashlib.sha256(i.path.read_bytes()).hexdigest() for i in infos]
    assert progress.done == progress.total == sum(i.size_bytes for i in infos)
    assert identify_all([], SILENT) == []


def test_two_are_read_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=5)
    monkeypatch.setattr(inputs.os, "cpu_count", lambda: 2)

    def hashed(info: ModelInfo, on_bytes: Any) -> ModelInfo:
        both.wait()
        return replace(info, sha256="a")

    monkeypatch.setattr(inputs, "hash_model", hashed)
    assert len(identify_all(models(tmp_path, 2), SILENT)) == 2


def test_an_error_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = models(tmp_path, 2)
    started, pieces = threading.Event(), []
    monkeypatch.setattr(inputs.os, "cpu_count", lambda: 2)

    def hashed(info: ModelInfo, on_bytes: Callable[[int], None]) -> ModelInfo:
        if info.path == infos[0].path:
            started.wait(5)
            raise InputError("cannot read")
        started.set()
        for _ in range(100_000):
            pieces.append(1)
            on_bytes(1)
            threading.Event().wait(0.001)
        return info

    monkeypatch.setattr(inputs, "hash_model", hashed)
    with pytest.raises(InputError, match="cannot read"):
        identify_all(infos, SILENT)
    assert 0 < len(pieces) < 100_000
