"""Two processes on one run, killed and restarted at random; the numbers must be those of one calm run, bit for bit.

    python bench/two_processes.py --base model-F16.gguf --quant a.gguf b.gguf --text wiki.txt --chunks 40 --rounds 20

Each round starts two `quantprobe sweep` on a new folder, with the quants in opposite orders, and kills each (-9) after
a random time, three times by default; then both run to their end. With `--compare` the base is captured beforehand.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Worker:
    """One of the two processes of a round; `kills` are the times, in seconds after its start, at which it is killed."""

    command: list[str]
    kills: list[float]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    n_killed: int = 0
    has_ended: bool = False
    errors: list[str] = field(default_factory=list)

    def step(self) -> None:
        """Start, kill or watch the process."""
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.began = time.monotonic()
        status = self.process.poll()
        if status is not None:
            _, stderr = self.process.communicate()
            if status != 0:
                self.errors.append(stderr.decode(errors="replace").strip())
            self.has_ended = True
        elif self.kills and time.monotonic() - self.began > self.kills[0]:
            self.kills.pop(0)
            self.process.kill()
            self.process.communicate()
            self.process, self.n_killed = None, self.n_killed + 1


def numbers(run: Path) -> dict[str, Any]:
    """What results.json says of every quant, and every array of rows as bytes."""
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {quant["name"]: quant for quant in document["quants"]}
    found["null control"] = document["null_control"]
    for path in sorted(run.glob("rows/*/*.npz")):
        with np.load(path) as stored:
            arrays = {f"{path.relative_to(run)} {name}": stored[name].tobytes() for name in stored.files}
        found |= arrays
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--quant", type=Path, nargs="+", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--task", type=Path)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="of each process in a round")
    parser.add_argument("--compare", action="store_true", help="capture the base once, before the rounds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if all_same(options, Path(folder)) else 1)


def all_same(options: argparse.Namespace, folder: Path) -> bool:
    inputs = ["--text", options.text, *(("--task", options.task) if options.task else ())]
    fixed = ["-c", options.ctx, "-t", options.threads]
    tool = [sys.executable, "-m", "quantprobe"]
    capture = folder / "base.qpc"
    if options.compare:
        command = [*tool, "capture", options.base, *inputs, "--chunks", options.chunks, *fixed, "-o", capture]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)

    def command_of(run: Path, quants: list[Path]) -> list[str]:
        head = ["compare", capture] if options.compare else ["sweep", options.base]
        tail = ["-t", options.threads] if options.compare else [*inputs, "--chunks", options.chunks, *fixed]
        return list(map(str, [*tool, *head, *quants, *tail, "-o", run]))

    began = time.monotonic()
    subprocess.run(command_of(folder / "calm", options.quant), check=True, capture_output=True)
    seconds = time.monotonic() - began
    expected = numbers(folder / "calm")
    print(f"calm: {seconds:.1f} s", flush=True)
    rng, n_same = random.Random(options.seed), 0
    for number in range(options.rounds):
        run = folder / f"run-{number}"
        orders = (options.quant, options.quant[::-1])
        kills = [[rng.uniform(0, seconds) for _ in range(options.kills)] for _ in orders]
        workers = [Worker(command_of(run, order), times) for order, times in zip(orders, kills, strict=True)]
        while running := [worker for worker in workers if not worker.has_ended]:
            for worker in running:
                worker.step()
            time.sleep(0.02)
        errors = [error for worker in workers for error in worker.errors]
        same = not errors and numbers(run) == expected
        n_same += same
        n_killed = sum(worker.n_killed for worker in workers)
        print(f"{number + 1:3}: {n_killed} kills, same bits: {same} {'; '.join(errors)}", flush=True)
    print(f"{n_same} of {options.rounds} rounds ended with the numbers of the calm run")
    return n_same == options.rounds


if __name__ == "__main__":
    main()
