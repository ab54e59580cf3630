"""A sweep on workers gives what one machine gives, bit for bit, however files reach them and whoever dies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from road_cases import Quiet, environment, fail, results, run_process, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.cluster import ClusterPlace, Crew, workplace
from quantprobe.cluster import worker as worker_module
from quantprobe.errors import ClusterError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, measuring, sweep

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Dask's own sockets and processes
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)


class World:
    """A base, three quants, a text and a task; and what one machine finds."""

    def __init__(self, folder: Path, n_letters: int = 400) -> None:
        self.folder = folder
        self.base = write_tiny(folder / "base.gguf", n_layer=1)
        self.quants = [write_tiny(folder / f"{n}.gguf", n_layer=1, noise=0.1 * n) for n in (1, 2, 3)]
        write_letters(folder / "t.txt", n_letters)
        items = [Question(f"q{n}", "", f"{n} bottles of", ("beer", "milk", "ink"), n % 3) for n in range(30)]
        write_native(folder / "q.jsonl", items)
        self.inputs = Inputs((TextInput("t", folder / "t.txt"),), (TaskInput("q", folder / "q.jsonl"),))

    def sweep(self, name: str, crew: Crew | None = None, progress: Quiet | None = None) -> Path:
        run = self.folder / name
        sweep(self.base, self.quants, self.inputs, SETTINGS, run, progress or Quiet(), workers=crew)
        return run

    def command(self, run: Path, *more: str) -> list[str]:
        quants = [str(path) for path in self.quants]
        inputs = ["--text", f"t={self.folder / 't.txt'}", "--task", f"q={self.folder / 'q.jsonl'}"]
        return ["sweep", str(self.base), *quants, *inputs, "-c", "32", "-t", "1", "-ngl", "0", "-o", str(run), *more]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def alone(world: World) -> dict[str, Any]:
    return kept(world.sweep("alone"))


def kept(run: Path) -> dict[str, Any]:
    """All that a run says of its quants, and every array of its rows as bytes."""
    found: dict[str, Any] = {quant["name"]: quant for quant in results(run)["quants"]}
    for path in sorted(run.glob("rows/*/*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.parent.name}/{path.name}/{name}": arrays[name].tobytes() for name in arrays.files}
    return found


@contextmanager
def workers(n: int = 2) -> Iterator[ClusterPlace]:
    """Workers that are threads of this process."""
    with distributed.LocalCluster(
        n_workers=n, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None,
        silence_logs=50,
    ) as cluster:  # fmt: skip
        yield ClusterPlace(cluster.scheduler_address)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Workers that see no file of the command's; gives the folder of their store."""
    store = tmp_path / "store"
    monkeypatch.setenv("QUANTPROBE_SCRATCH", str(store))
    original = workplace.Workplace._places

    def places(self: Any, wanted: Any) -> Iterator[Path]:
        return (path for path in original(self, wanted) if path.is_relative_to(store))

    monkeypatch.setattr(workplace.Workplace, "_places", places)
    monkeypatch.setattr(workplace.Workplace, "_shared_capture", lambda self, ref: None)
    return store


def test_workers_find_what_one_machine_finds(world: World, alone: dict[str, Any]) -> None:
    progress = Quiet()
    with workers() as place:
        assert kept(world.sweep("shared", Crew(place, world.base), progress)) == alone
    assert sum("holds 3 of 3 models" in note for note in progress.notes) == 2


def test_files_are_sent_to_workers_that_lack_them(world: World, alone: dict[str, Any], blind: Path) -> None:
    progress = Quiet()
    with workers() as place:
        assert kept(world.sweep("sent", Crew(place, world.base), progress)) == alone
    assert any("sending 2.gguf" in note for note in progress.notes)
    assert {path.name for path in blind.glob("models/*/*")} == {"1.gguf", "2.gguf", "3.gguf"}
    captured = {path.suffix for path in blind.glob("captures/*/*")}
    assert captured == {".json", ".probe", ".rows", ".bin"}
    assert not list(blind.rglob("*.partial"))


def test_a_shared_folder_brings_each_file_once(
    world: World, alone: dict[str, Any], blind: Path, tmp_path: Path
) -> None:
    progress = Quiet()
    share = tmp_path / "share"
    with workers() as place:
        crew = Crew(ClusterPlace(place.address, str(share)), world.base)
        assert kept(world.sweep("through-share", crew, progress)) == alone
    assert not any("sending" in note for note in progress.notes)
    assert {path.name for path in share.glob("models/*/*")} == {"1.gguf", "2.gguf", "3.gguf"}


def test_models_in_a_worker_s_folder_need_not_be_sent(
    world: World, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hidden = [path.rename(tmp_path / path.name) for path in world.quants]
    monkeypatch.setenv("QUANTPROBE_MODELS", str(tmp_path))
    try:
        held = workplace.ModelRef("x", "", tuple((str(path), hidden[0].stat().st_size) for path in world.quants[:1]))
        worker = type("Worker", (), {"address": "w"})()
        assert workplace.Workplace(worker).holds(held)
        monkeypatch.setenv("QUANTPROBE_MODELS", "")
        assert not workplace.Workplace(worker).holds(held)
    finally:
        for path in hidden:
            path.rename(world.folder / path.name)


def other_machine(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Workers that are another kind of machine: every thread but the command's own."""
    facts = facts or {"cpu_features": "ABACUS"}
    for module in (measuring, worker_module):
        original = module.record_settings

        def record(*args: Any, original: Any = original) -> dict[str, Any]:
            found: dict[str, Any] = original(*args)
            if threading.current_thread() is threading.main_thread():
                return found
            return {**found, **facts}

        monkeypatch.setattr(module, "record_settings", record)


def test_workers_of_another_kind_are_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other_machine(monkeypatch)
    progress = Quiet()
    with workers() as place, pytest.raises(ClusterError, match="no worker of the cluster can be used"):
        world.sweep("refused", Crew(place, world.base), progress)
    (told,) = [note for note in progress.notes if "computes other logits" in note]
    assert "--allow cpu_features" in told
    assert "ABACUS" in told
    assert "there the base has a mean KLD of 0 nats to its captured rows" in told
    assert not (world.folder / "refused" / "results.json").exists()


def test_another_kind_can_be_allowed_and_is_recorded(
    world: World, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other_machine(monkeypatch)
    with workers() as place:
        run = world.sweep("mixed", Crew(place, world.base, ["cpu_features"]))
    found = kept(run)
    assert found["1"]["texts"] == alone["1"]["texts"]
    (told,) = results(run)["settings"]["settings_changed"]
    assert "ABACUS" in told
    assert found["1/t.npz/key"] != alone["1/t.npz/key"]
    progress = Quiet()
    world.sweep("mixed", None, progress)  # without leave for it, this machine measures for itself
    assert kept(run)["1/t.npz/key"] == alone["1/t.npz/key"]


def test_what_a_worker_does_not_tell_is_told_and_not_refused(
    world: World, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other_machine(monkeypatch, gpu_features=None)
    progress = Quiet()
    with workers(1) as place:
        run = world.sweep("untold", Crew(place, world.base), progress)
    assert kept(run)["1"]["texts"] == alone["1"]["texts"]
    assert any("does not tell gpu_features" in note for note in progress.notes)


def test_a_finished_run_starts_no_cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.sweep("done")
    before = kept(run)
    world.sweep("done", Crew(ClusterPlace("tcp://127.0.0.1:1"), world.base))
    assert kept(run) == before


def test_what_a_worker_gives_is_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    original = worker_module._measure

    def damaged(*args: Any) -> Any:
        found = original(*args)
        return type(found)(b"X" + found.rows[1:], found.sha256, found.seconds)

    monkeypatch.setattr(worker_module, "_measure", damaged)
    progress = Quiet()
    with workers() as place, pytest.raises(ClusterError, match=r"given up: .*came damaged.*run the same command again"):
        world.sweep("damaged", Crew(place, world.base), progress)
    assert not list((world.folder / "damaged").glob("rows/[123]/*"))


def test_a_worker_at_work_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTPROBE_SCRATCH", str(tmp_path))
    worker = type("Worker", (), {"address": "w"})()
    busy = worker_module.workplace_of(worker)
    given: list[str] = []
    monkeypatch.setattr(busy, "give_back", lambda: given.append("back"))
    with busy.lock:
        worker_module.give_back(worker)
    assert not given
    worker_module.give_back(worker)
    assert given == ["back"]
    assert not busy.lock.locked()


def test_what_only_one_machine_can_do_is_refused(world: World) -> None:
    local = ["--cluster", "local:2"]
    assert "leave out --cluster" in fail(*world.command(world.folder / "no", *local, "--decide"))
    assert "leave out --cluster" in fail(
        *world.command(world.folder / "no", *local, "--types", "Q8_0", "--keep", "none")
    )


def test_local_workers(world: World, alone: dict[str, Any]) -> None:
    run = world.folder / "local"
    ended = run_process(*world.command(run, "--cluster", "local:2"))
    assert ended.status == 0, ended.stderr
    assert kept(run) == alone
    assert not (run / "cluster").exists()


class Farm:
    """A scheduler and workers as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "farm.log").open("wb")
        self._folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self.scheduler = self._start(
            "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        self.address = self._address(file)

    def _address(self, file: Path) -> str:
        for _ in range(300):
            if file.is_file() and b"tcp://" in file.read_bytes():
                return str(file.read_text(encoding="utf-8").split('"address": "')[1].split('"')[0])
            time.sleep(0.05)
        raise TimeoutError("the scheduler did not start")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, *arguments], stdout=self._log, stderr=self._log, env=environment(), cwd=self._folder
        )
        self.processes.append(started)
        return started

    def hire(self, n: int) -> None:
        for _ in range(n):
            arguments = ["-m", "quantprobe", "worker", self.address, "--scratch", str(self._folder / "scratch")]
            self.workers.append(self._start(*arguments))

    def measuring(self, number: int) -> list[psutil.Process]:
        """The process that measures for a worker: Dask's nanny has it as a child, beside Python's resource tracker."""
        children = psutil.Process(self.workers[number].pid).children()
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]

    def end(self) -> None:
        for process in self.processes:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                child.kill()
            process.kill()
            process.wait()
        self._log.close()


def test_a_worker_killed_and_a_scheduler_killed(tmp_path: Path) -> None:
    world = World(tmp_path, n_letters=60_000)
    alone = kept(world.sweep("alone"))
    run = tmp_path / "killed"
    farm = Farm(tmp_path)
    try:
        farm.hire(2)
        command = [sys.executable, "-m", "quantprobe", *world.command(run, "--cluster", farm.address)]
        first = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment())
        wait_for(lambda: len(list(run.glob("rows/*/*.npz"))) >= 1)
        wait_for(lambda: farm.measuring(0))
        farm.measuring(0)[0].kill()
        time.sleep(0.1)
        farm.scheduler.kill()
        _, errors = first.communicate(timeout=90)
        told = errors.decode()
        assert first.returncode == 1, told
        assert "run the same command again to go on" in told
        done = {path: path.stat().st_mtime_ns for path in run.glob("rows/*/*.npz")}
        assert done
    finally:
        farm.end()
    succeed(*world.command(run, "--cluster", "local:1"))
    assert kept(run) == alone
    assert {path: path.stat().st_mtime_ns for path in done} == done


def wait_for(condition: Any, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError
