"""A sweep on workers: deaths, overhead and scale.

    python bench/cluster.py kills --base model-F16.gguf --quants a.gguf ... --texts wiki.txt code.txt --task arc.jsonl
    python bench/cluster.py scheduler --base model-F16.gguf --quants a.gguf ... --texts wiki.txt --task arc.jsonl
    python bench/cluster.py overhead --base model-F16.gguf --quants a.gguf ... --texts wiki.txt
    python bench/cluster.py scale

`kills`: rounds of a sweep on four worker processes, one of them killed with -9 at a random moment; every number and
every row must be those of one machine. `scheduler`: the scheduler is killed instead, and the same command must go on;
what is measured twice is counted. `overhead`: the same sweep without a cluster and with one worker, in turn. `scale`:
64 workers, 10,000 jobs of one second, one in a hundred of which fails; throughput beside the ideal, and the memory of
the scheduler.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

TOOL = [sys.executable, "-m", "quantprobe"]


class Farm:
    """A scheduler and workers as processes of their own, on loopback."""

    def __init__(self, folder: Path, threads: int, n_workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = (folder / "farm.log").open("wb")
        file = folder / "scheduler.json"
        scheduler = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        self.scheduler = self._start([sys.executable, "-m", "distributed.cli.dask_scheduler", *scheduler])
        while not (file.is_file() and b"tcp://" in file.read_bytes()):
            time.sleep(0.05)
        self.address = json.loads(file.read_text(encoding="utf-8"))["address"]
        worker = [*TOOL, "worker", self.address, "--scratch", str(folder / "scratch")]
        self.workers = [self._start(worker) for _ in range(n_workers)]

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.wait()
        self._log.close()


def worker_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that measures: Dask's nanny has it as a child, beside Python's own resource tracker."""
    while True:
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
        time.sleep(0.1)


@contextmanager
def farm(folder: Path, threads: int, n_workers: int) -> Iterator[Farm]:
    made = Farm(folder, threads, n_workers)
    try:
        yield made
    finally:
        made.end()


def numbers(run: Path) -> dict[str, Any]:
    """What results.json says of every quant, and every array of rows as bytes."""
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {quant["name"]: quant for quant in document["quants"]}
    for path in sorted(run.glob("rows/*/*.npz")):
        with np.load(path) as stored:
            found |= {f"{path.relative_to(run)} {name}": stored[name].tobytes() for name in stored.files}
    return found


def command(options: argparse.Namespace, run: Path, *more: object) -> list[str]:
    inputs: list[object] = [word for text in options.texts for word in ("--text", text)]
    inputs += ["--task", options.task] if options.task else []
    fixed = ["--chunks", options.chunks, "-t", options.threads, "-o", run]
    return [str(word) for word in (*TOOL, "sweep", options.base, *options.quants, *inputs, *fixed, *more)]


def run_quietly(words: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode(errors="replace"))
    return time.monotonic() - began


def kills(options: argparse.Namespace, folder: Path) -> bool:
    calm = folder / "calm"
    seconds = run_quietly(command(options, calm))
    expected = numbers(calm)
    n_jobs = len(list(calm.glob("rows/*/*.npz")))
    print(f"one machine: {seconds:.1f} s, {n_jobs} jobs", flush=True)
    rng = random.Random(options.seed)
    n_same = 0
    for number in range(options.rounds):
        with farm(folder / f"farm{number}", options.threads, 4) as made:
            words = command(options, folder / f"run{number}", "--cluster", made.address)
            began = time.monotonic()
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while not list((folder / f"run{number}").glob("rows/*/*.npz")):
                time.sleep(0.1)
            time.sleep(rng.uniform(0, seconds / 3))
            moment, running = time.monotonic() - began, process.poll() is None
            worker_of(rng.choice(made.workers)).kill()
            _, errors = process.communicate()
            same = process.returncode == 0 and numbers(folder / f"run{number}") == expected
        n_same += same
        told = errors.decode(errors="replace")
        took, moved = time.monotonic() - began, told.count("is gone;")
        print(f"round {number}: killed at {moment:.1f} s ({'running' if running else 'done'}), {moved} jobs moved, "
              f"{took:.1f} s: {'same' if same else 'DIFFERENT ' + told[-500:]}", flush=True)  # fmt: skip
    print(f"{n_same} of {options.rounds} rounds gave the numbers of one machine")
    return n_same == options.rounds


def scheduler(options: argparse.Namespace, folder: Path) -> bool:
    calm = folder / "calm"
    run_quietly(command(options, calm))
    expected = numbers(calm)
    n_jobs = len(list(calm.glob("rows/*/*.npz")))
    rng = random.Random(options.seed)
    good = True
    for number in range(options.rounds):
        run = folder / f"run{number}"
        with farm(folder / f"farm{number}", options.threads, 2) as made:
            process = subprocess.Popen(
                command(options, run, "--cluster", made.address), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            n_done = rng.randrange(1, n_jobs - 2)
            while len(list(run.glob("rows/*/*.npz"))) < n_done:
                time.sleep(0.1)
            made.scheduler.kill()
            _, errors = process.communicate()
        before = {path: path.stat().st_mtime_ns for path in run.glob("rows/*/*.npz")}
        told = errors.decode(errors="replace").strip().splitlines()[-1:]
        with farm(folder / f"again{number}", options.threads, 2) as made:
            run_quietly(command(options, run, "--cluster", made.address))
        again = sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items())
        same = numbers(run) == expected
        good &= same and again == 0
        n_all = len(list(run.glob("rows/*/*.npz")))
        print(f"round {number}: {len(before)} of {n_all} jobs were done, {again} measured twice, "
              f"{'same' if same else 'DIFFERENT'}; {told}", flush=True)  # fmt: skip
    return good


def overhead(options: argparse.Namespace, folder: Path) -> bool:
    plain, local, there = [], [], []
    for number in range(options.rounds):
        plain.append(run_quietly(command(options, folder / f"plain{number}")))
        if number == 0:  # beside the others it tells only what a start of the worker costs
            local.append(run_quietly(command(options, folder / "local", "--cluster", "local:1")))
        with farm(folder / f"farm{number}", options.threads, 1) as made:
            time.sleep(5)  # the worker is there before the command, as in use
            there.append(run_quietly(command(options, folder / f"there{number}", "--cluster", made.address)))
        print(
            f"no cluster {plain[-1]:.1f} s, local:1 {local[-1]:.1f} s, one waiting worker {there[-1]:.1f} s", flush=True
        )
    base = statistics.median(plain)
    for name, times in (("local:1", local), ("one waiting worker", there)):
        print(f"{name}: {statistics.median(times):.1f} s, {statistics.median(times) / base:.3f} of {base:.1f} s")
    return statistics.median(there) <= 1.05 * base


FAILED: set[int] = set()
"""Jobs that have failed as planned; all workers are threads of this process."""


def work_a_second(payload: tuple[int, bool]) -> int:
    """A job of one second; one that is to fail does so at its first try."""
    failed = vars(sys.modules["__main__"])["FAILED"]  # Dask sends a copy of this function and of what it names
    time.sleep(1.0)
    number, fails = payload
    if fails and number not in failed:
        failed.add(number)
        raise RuntimeError("as planned")
    return number


def scale(options: argparse.Namespace, folder: Path) -> bool:
    import distributed

    from quantprobe.cluster.dispatch import Dispatcher, Work

    rng = random.Random(options.seed)
    n_workers, n_jobs = 64, options.jobs
    works = [Work(f"job {n}", (n, rng.random() < 0.01), f"model {n // 10}") for n in range(n_jobs)]
    answers: list[Any] = []
    with (
        distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp",
            dashboard_address=None, memory_limit=None, silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        peak = [0, 0]
        stop = threading.Event()

        def watch() -> None:
            process = psutil.Process()
            while not stop.wait(0.5):
                peak[0] = max(peak[0], process.memory_info().rss)
                peak[1] = max(peak[1], len(cluster.scheduler.tasks))

        before = psutil.Process().memory_info().rss
        threading.Thread(target=watch, daemon=True).start()
        notes: list[str] = []
        dispatcher = Dispatcher(
            client, work_a_second, lambda work, worker, result: answers.append(result), lambda worker: True,
            lambda worker: (), notes.append,
        )  # fmt: skip
        began = time.monotonic()
        dispatcher.run_all(works)
        seconds = time.monotonic() - began
        stop.set()
    n_tries = n_jobs + sum(fails for _, fails in (work.payload for work in works))
    ideal = n_tries / n_workers
    share = ideal / seconds
    print(f"{len(answers)} of {n_jobs} jobs done, {len(notes)} failures tried again, in {seconds:.1f} s; "
          f"ideal {ideal:.1f} s: {share:.1%}")  # fmt: skip
    print(f"all in one process: {before / 1e6:.0f} MB before, {peak[0] / 1e6:.0f} MB at most; "
          f"the scheduler knew at most {peak[1]} jobs at a time")  # fmt: skip
    return sorted(answers) == list(range(n_jobs)) and share >= 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "scheduler", "overhead", "scale"))
    parser.add_argument("--base", type=Path)
    parser.add_argument("--quants", type=Path, nargs="+")
    parser.add_argument("--texts", type=Path, nargs="+")
    parser.add_argument("--task", type=Path)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if globals()[options.what](options, Path(folder)) else 1)


if __name__ == "__main__":
    main()
