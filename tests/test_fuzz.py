"""Damaged files of every format: a result or one line, within bounds. `bench/fuzz.py` does the same 100,000 times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_targets import all_targets
from fuzzing import Target, fuzz

from quantprobe.errors import InputError

FORMATS = (
    *("gguf", "gguf-weights", "imatrix", "imatrix-dat", "policy", "chats", "chats-values"),
    *("qpc-meta", "qpc-values", "qpc-probe", "qpc-rows", "kld", "task-binary", "task-jsonl", "task-csv"),
    *("run-questions", "results", "results-values", "run-report", "items", "rows"),
    *("llama-log", "community-csv", "answers"),
)
FEWER = {"run-report": 20, "results-values": 300}
"""Slower ones: a report is written, a long document is changed."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return all_targets(tmp_path_factory.mktemp("fuzz"))


def test_every_format_is_here(targets: dict[str, Target]) -> None:
    assert set(targets) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_no_damage_is_answered_with_a_traceback(name: str, targets: dict[str, Target]) -> None:
    report = fuzz(targets[name], FEWER.get(name, 1000))
    assert not report.findings and report.n_read + report.n_refused == report.n_inputs
    assert report.n_refused > report.n_inputs // 10, "hardly anything was damaged"


def raising(error: Exception) -> Callable[[Path], object]:
    def read(_: Path) -> object:
        raise error

    return read


def hungry(_: Path) -> object:
    return bytearray(200 << 20)


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (raising(KeyError("x")), "KeyError at test_fuzz.py"),
        (raising(InputError("")), "an empty message"),
        (hungry, "an allocation beyond the bound"),
        (lambda _: spin(), "hang"),
    ],
    ids=["traceback", "nothing said", "memory", "time"],
)
def test_every_kind_of_finding_is_found(
    read: Callable[[Path], object], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzzing.TIME_LIMIT", 0.2)
    report = fuzz(Target("x", lambda rng: b"x", read, tmp_path / "x"), 1)
    assert any(found in each for each in report.findings) and report.example


def spin() -> None:
    for _ in range(10**9):
        pass
