"""Several processes on one run: each quant is measured once, results.json holds all, with the bits of one calm run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import Quiet, environment, results, run_process, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.locks import try_lock
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.folder import RunFolder
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, capture_base, compare_quants

SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
NAMES = ("a", "b", "c")


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = write_tiny(folder / "base.gguf", n_layer=1)
        self.quants = [write_tiny(folder / f"{name}.gguf", n_layer=1, noise=0.1 * n) for n, name in enumerate(NAMES, 1)]
        write_letters(folder / "t.txt")
        items = [Question(f"q{n}", "", f"{n} bottles of", ("beer", "milk", "ink"), n % 3) for n in range(30)]
        write_native(folder / "q.jsonl", items)
        self.capture = folder / "base.qpc"
        inputs = Inputs((TextInput("t", folder / "t.txt"),), (TaskInput("q", folder / "q.jsonl"),))
        capture_base(base, inputs, SETTINGS, self.capture, Quiet())

    def command(self, run: Path, *names: str) -> list[str]:
        quants = [str(self.folder / f"{name}.gguf") for name in names]
        return ["compare", str(self.capture), *quants, "-t", "1", "-ngl", "0", "-o", str(run)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def calm(world: World) -> dict[str, Any]:
    """The numbers of one process, by quant, and the arrays of its rows."""
    succeed(*world.command(world.folder / "calm", *NAMES))
    return kept(world.folder / "calm")


def kept(run: Path) -> dict[str, Any]:
    """All that a run says of its quants, and every array of its rows as bytes."""
    found: dict[str, Any] = {quant["name"]: quant for quant in results(run)["quants"]}
    for path in sorted(run.glob("rows/*/*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.parent.name}/{path.name}/{name}": arrays[name].tobytes() for name in arrays.files}
    return found


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "quantprobe", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())


@pytest.mark.parametrize("shares", [(NAMES, NAMES[::-1]), (("a", "b"), ("c",))], ids=["the same", "different"])
def test_two_processes_end_with_the_numbers_of_one(
    world: World, calm: dict[str, Any], shares: tuple[tuple[str, ...], ...], tmp_path: Path
) -> None:
    running = [start(*world.command(tmp_path, *names)) for names in shares]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert kept(tmp_path) == calm
    assert not list(tmp_path.rglob("*.partial"))


def test_a_killed_process_leaves_its_quant_to_others(world: World, calm: dict[str, Any], tmp_path: Path) -> None:
    killed = start(*world.command(tmp_path, *NAMES))
    while killed.poll() is None and not RunFolder(tmp_path).rows("a", "t").exists():
        pass
    killed.kill()
    killed.communicate(timeout=60)
    assert run_process(*world.command(tmp_path, *NAMES)).status == 0
    assert kept(tmp_path) == calm


def test_a_locked_quant_is_taken_last_and_waited_for(world: World, calm: dict[str, Any], tmp_path: Path) -> None:
    held = try_lock(RunFolder(tmp_path).lock("a"))
    assert held is not None

    class Releasing(Quiet):
        """Ends the other process's work when it is waited for."""

        def note(self, message: str) -> None:
            super().note(message)
            if message == "another process is measuring a; waiting for it":
                held.__exit__(None, None, None)

    progress = Releasing()
    with held:
        compare_quants(world.capture, world.quants, SETTINGS, tmp_path, progress)
    measured = [label.split()[1] for label in progress.labels if label.startswith("compare")]
    assert list(dict.fromkeys(measured)) == ["b", "c", "a"]
    assert kept(tmp_path) == calm


def test_what_another_process_added_meanwhile_is_kept(world: World, calm: dict[str, Any], tmp_path: Path) -> None:
    """results.json is read again when this process writes its own."""

    class Meanwhile(Quiet):
        def start(self, label: str, total: int | None, unit: str) -> None:
            super().start(label, total, unit)
            if label == "compare a on t":
                compare_quants(world.capture, world.quants[1:], SETTINGS, tmp_path, Quiet())

    compare_quants(world.capture, world.quants[:1], SETTINGS, tmp_path, Meanwhile())
    assert kept(tmp_path) == calm
