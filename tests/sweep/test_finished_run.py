"""A finished run that is repeated draws nothing, scans no file and imports no compiler; what changed is made anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from road_cases import environment, files, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.report import finish
from quantprobe.sweep import comparing


@pytest.fixture
def arguments(tmp_path: Path) -> list[Any]:
    base = write_tiny(tmp_path / "base.gguf", head_type="F16")
    quants = [write_tiny(tmp_path / f"q{n}.gguf", noise=0.1 * n) for n in (1, 2)]
    text = write_letters(tmp_path / "t.txt")
    made = ["sweep", base, *quants, "--text", f"t={text}", "-c", 32, "-t", 1, "-o", tmp_path / "run"]
    succeed(*made)
    return made


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in files(run)}


def test_nothing_is_made_again(arguments: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    before = contents(tmp_path / "run")
    monkeypatch.setattr(finish, "_draw_pictures", refuse)
    monkeypatch.setattr(comparing, "file_findings", refuse)
    printed = succeed(*arguments).stdout
    assert "kld_vs_size.png, report/report.html" in printed
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("lost", ["kld_vs_size.png", "report/report.html"])
def test_what_is_lost_is_made_again(arguments: list[Any], tmp_path: Path, lost: str) -> None:
    before = contents(tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    succeed(*arguments)
    assert contents(tmp_path / "run") == before


def test_a_change_is_drawn(arguments: list[Any], tmp_path: Path) -> None:
    before = contents(tmp_path / "run")
    succeed(*arguments, "--equivalence-margin", "2%")
    after = contents(tmp_path / "run")
    assert after["report/report.html"] != before["report/report.html"]


def test_a_finished_run_imports_no_compiler(arguments: list[Any]) -> None:
    code = (
        "import sys\n"
        "from quantprobe.cli.main import main\n"
        "sys.argv = ['quantprobe', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "slow = {'numba', 'matplotlib', 'scipy.stats', 'scipy.optimize'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    words = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
