"""Compiled functions work where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import quantprobe.compiling

FUNCTION = """
from quantprobe.compiling import compiled


@compiled("contract", nogil=True)
def half(x):
    return x / 2
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Compile and call a function of a module in `folder`, with these variables instead of a home of one's own."""
    code = "from worked import half; print(half(3.0), bool(half.stats.cache_path))"
    package = Path(quantprobe.compiling.__file__).parents[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    kept["PYTHONPATH"] = os.pathsep.join([str(folder), str(package)])
    return subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A module whose `__pycache__` cannot be made, whoever asks: a file lies in its place."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "worked.py").write_text(FUNCTION, encoding="utf-8")
    (folder / "__pycache__").write_text("a file", encoding="utf-8")
    return folder


def test_without_any_folder_to_write_it_is_compiled_each_time(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"), str(tmp_path / "home"))
    done = run(installed, **nowhere)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["1.5", "False"], "")


def test_the_cache_folder_that_is_named_may_be_unwritable(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "NUMBA_CACHE_DIR"), str(tmp_path / "home"))
    done = run(installed, **nowhere)
    assert (done.returncode, done.stdout.split()[:1], done.stderr) == (0, ["1.5"], "")


def test_where_a_folder_can_be_written_the_result_is_kept(installed: Path, tmp_path: Path) -> None:
    (installed / "__pycache__").unlink()
    done = run(installed)
    assert (done.returncode, done.stdout.split()) == (0, ["1.5", "True"])
    assert list((installed / "__pycache__").glob("*.nbi"))


def test_every_compiled_function_goes_through_here() -> None:
    modules = Path(quantprobe.compiling.__file__).parent.rglob("*.py")
    assert [m.name for m in modules if "cache=True" in m.read_text(encoding="utf-8")] == ["compiling.py"]
