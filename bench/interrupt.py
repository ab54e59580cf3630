"""Stops the measuring of a quant at random blocks, goes on, and compares with a run that was never stopped.

    python bench/interrupt.py --base model-F16.gguf --quant model-Q4_K_M.gguf --text wiki.txt --chunks 100 --rounds 20

Each round is stopped once, in turn by Ctrl-C and by an end of the process without any cleaning up (as kill -9), in a
process of its own, and continued in another. Told are the tokens decoded twice and whether all arrays have the same
bits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quantprobe.settings import Settings

MOST_SECONDS, MOST_SHARE = 300.0, 0.05


class Watch:
    """A `Progress` that counts the decoded tokens, and ends the process after `left` of them."""

    def __init__(self, left: float, end: str) -> None:
        self.left, self.end = left, end
        self.n_tokens = 0
        self.seconds = 0.0
        self._began = 0.0
        self._counts = False

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        pass

    def start(self, label: str, total: int | None, unit: str) -> None:
        self._counts = label.startswith("compare ")
        self._began = time.monotonic()

    def advance(self, n: int = 1) -> None:
        if not self._counts:
            return
        self.n_tokens += n
        if self.n_tokens < self.left:
            return
        if self.end == "ctrl-c":
            raise KeyboardInterrupt
        self.tell()
        os._exit(9)

    def finish(self) -> None:
        if self._counts:
            self.seconds += time.monotonic() - self._began
        self._counts = False

    def note(self, message: str) -> None:
        pass

    def tell(self) -> None:
        print(json.dumps({"n_tokens": self.n_tokens, "seconds": self.seconds}), flush=True)


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(n_ctx=options.ctx, n_threads=options.threads, n_gpu_layers=options.gpu_layers)


def measure(options: argparse.Namespace) -> None:
    """One process: compare the quant, up to the stop."""
    from quantprobe.sweep import checkpoint, compare_quants

    checkpoint.CHECKPOINT_SECONDS = options.checkpoint
    watch = Watch(options.stop, options.end)
    with contextlib.suppress(KeyboardInterrupt):
        compare_quants(options.folder / "base.qpc", [options.quant], settings_of(options), options.run, watch)
    watch.tell()


def child(options: argparse.Namespace, run: Path, stop: float = np.inf, end: str = "ctrl-c") -> dict[str, float]:
    more = ["--folder", options.folder, "--run", run, "--stop", stop, "--end", end]
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], *map(str, more)], stdout=subprocess.PIPE, check=False
    )
    return json.loads(done.stdout.splitlines()[-1])


def arrays(run: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(run.glob("rows/*/*.npz")):
        with np.load(path) as stored:
            found |= {f"{path.relative_to(run)} {name}": stored[name].tobytes() for name in stored.files}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--quant", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--task", type=Path)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--checkpoint", type=float, default=120.0, help="seconds between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    for hidden, kind in (("--folder", Path), ("--run", Path), ("--stop", float), ("--end", str)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        compare_rounds(options)


def compare_rounds(options: argparse.Namespace) -> None:
    from quantprobe.sweep import Inputs, TaskInput, TextInput, capture_base

    tasks = (TaskInput("task", options.task),) if options.task else ()
    inputs = Inputs((TextInput("text", options.text),), tasks, n_chunks=options.chunks)
    capture_base(options.base, inputs, settings_of(options), options.folder / "base.qpc", Watch(np.inf, "ctrl-c"))
    calm = child(options, options.folder / "calm")
    expected = arrays(options.folder / "calm")
    speed = calm["n_tokens"] / calm["seconds"]
    print(f"calm: {calm['n_tokens']:,} tokens in {calm['seconds']:.1f} s", flush=True)
    rng, worst, n_same = random.Random(options.seed), 0, 0
    for number in range(options.rounds):
        run, end = options.folder / f"run-{number}", ("ctrl-c", "kill")[number % 2]
        first = child(options, run, rng.randrange(1, int(calm["n_tokens"])), end)
        last = child(options, run)
        twice = first["n_tokens"] + last["n_tokens"] - calm["n_tokens"]
        same = arrays(run) == expected
        worst, n_same = max(worst, twice), n_same + same
        at = first["n_tokens"] / calm["n_tokens"]
        told = f"{number + 1:3} {end:7} at {at:4.0%}: {twice:,} tokens twice ({twice / speed:.1f} s), same bits: {same}"
        print(told, flush=True)
    share = f"{worst / calm['n_tokens']:.1%} or {worst / speed:.1f} s"
    print(f"most: {worst:,} tokens twice, {share}; {n_same} of {options.rounds} the same")
    allowed = worst / speed <= MOST_SECONDS or worst <= MOST_SHARE * calm["n_tokens"]
    sys.exit(0 if allowed and n_same == options.rounds else 1)


if __name__ == "__main__":
    main()
