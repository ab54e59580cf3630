"""Sweeps of tiny models in which one call to the disk fails; afterwards the same sweep must give the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from capture_runs import SETTINGS, text_and_task
from faults import Fault, Faults
from road_cases import Quiet
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.capture.meta_file import PENDING_FILE
from quantprobe.errors import QuantprobeError
from quantprobe.run.results import read_results
from quantprobe.sweep import Inputs, sweep

JOBS = ("new", "one more quant", "one more task", "done")
"""What the sweep has to do: all of it; a second quant; a task beside the text; nothing."""


@dataclass(frozen=True)
class Case:
    """One sweep, in a folder that is put back to what it was before."""

    folder: Path
    inputs: Mapping[str, Inputs]
    job: str

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def before(self) -> Path:
        return self.folder / "before" / self.job

    def prepare(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)
        if self.before.exists():
            shutil.copytree(self.before, self.run)

    def work(self) -> None:
        whole = self.job != "one more task"
        self._sweep(2 if self.job in ("one more quant", "done") else 1, ["text", "task"] if whole else ["task"])

    def make_before(self) -> None:
        """The run as it is when the sweep starts."""
        self.prepare()
        if self.job != "new":
            self._sweep(2 if self.job == "done" else 1, ["text"] if self.job == "one more task" else ["text", "task"])
            shutil.copytree(self.run, self.before)

    def _sweep(self, n_quants: int, probes: list[str]) -> None:
        chosen = [self.inputs[name] for name in probes]
        inputs = Inputs(
            tuple(text for one in chosen for text in one.texts), tuple(task for one in chosen for task in one.tasks)
        )
        quants = [self.folder / f"q{number}.gguf" for number in range(n_quants)]
        sweep(self.folder / "b.gguf", quants, inputs, SETTINGS, self.run, Quiet())


def make_case(folder: Path, job: str) -> Case:
    """Models and inputs in `folder`, and the run as the sweep of `job` finds it."""
    write_tiny(folder / "b.gguf", head_type="F16", n_layer=1)
    for number in range(2):
        write_tiny(folder / f"q{number}.gguf", head_type="F16", n_layer=1, noise=0.1 * (number + 1))
    case = Case(folder, text_and_task(folder), job)
    case.make_before()
    return case


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but locks, and the note of an extension that nothing reads but the next one."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and path.name != PENDING_FILE}  # fmt: skip


@dataclass(frozen=True)
class Calm:
    """A run before and after a sweep in which nothing fails, and how many calls to the disk that makes."""

    old: Mapping[str, bytes]
    new: Mapping[str, bytes]
    n_calls: int


def work_calmly(case: Case, reads: bool = False) -> Calm:
    faults = Faults(reads)
    case.prepare()
    old = contents(case.run) if case.run.exists() else {}
    with faults.failing(0):
        case.work()
    return Calm(old, contents(case.run), faults.n_calls)


def check_point(case: Case, calm: Calm, point: int, error: Callable[[], BaseException], reads: bool = False) -> None:
    """Let one call fail, look at what is left, and sweep again: the bytes must be those of the calm sweep."""
    case.prepare()
    try:
        with Faults(reads).failing(point, error):
            case.work()
    except (Fault, QuantprobeError):
        check_whole(case, calm)
    case.work()
    now = contents(case.run)
    differing = sorted(name for name in calm.new.keys() | now.keys() if calm.new.get(name) != now.get(name))
    assert not differing, f"point {point}: {differing}"


def check_whole(case: Case, calm: Calm) -> None:
    """After a fault: captures are whole, and results.json is the old or the new one."""
    for path in case.run.glob("*.qpc"):
        Capture.open(path).verify()
    found = case.run / "results.json"
    if found.exists():
        read_results(found)
        allowed = (calm.old.get("results.json"), calm.new["results.json"])
        assert found.read_bytes() in allowed, "results.json is a mixture"
