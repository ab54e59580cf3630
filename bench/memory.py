"""Peak memory of capture and compare above the loaded model, over context lengths.

    python bench/memory.py --n-ctx 512 16384 131072

Each measurement is a process of its own: it notes its resident memory once the model is loaded and nothing else is
made, and its peak at the end. The model is random, one layer of width 64, so that it is small and its vocabulary is
what counts. The KV cache, which alone must grow with the context, is given beside the peak and taken off.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))  # the writer of small models; quantprobe is the installed one

N_EMBD, N_LAYER = 64, 1
BOUND_MB = 450


def peak_bytes() -> int:
    """The highest resident memory of this process. Not `ru_maxrss` on Linux, which also knows the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class LoadWatch:
    """A `Progress` that notes the resident memory when the model has been loaded."""

    def __init__(self) -> None:
        self.loaded_bytes = 0
        self._loading = False

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        pass

    def start(self, label: str, total: int | None, unit: str) -> None:
        self._loading = label.startswith("load ")

    def advance(self, n: int = 1) -> None:
        pass

    def finish(self) -> None:
        if self._loading:
            self.loaded_bytes = psutil.Process().memory_info().rss
            self._loading = False

    def note(self, message: str) -> None:
        pass


def run_stage(stage: str, folder: Path, n_ctx: int) -> None:
    """One measurement; prints it as JSON."""
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs, TextInput, capture_base, compare_quants

    watch = LoadWatch()
    settings = Settings(n_ctx=n_ctx, use_mmap=False)
    capture = folder / f"{n_ctx}.qpc"
    if stage == "capture":
        capture_base(
            folder / "base.gguf", Inputs((TextInput("t", folder / "t.txt"),), n_chunks=1), settings, capture, watch
        )
    else:
        compare_quants(capture, [folder / "quant.gguf"], settings, folder / f"run-{n_ctx}", watch)
    print(json.dumps({"peak": peak_bytes(), "loaded": watch.loaded_bytes}))


def measure(stage: str, folder: Path, n_ctx: int) -> float:
    """Peak above the loaded model in MB."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), "--n-ctx", str(n_ctx)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return float(found["peak"] - found["loaded"]) / 1e6


def kv_mb(n_ctx: int) -> float:
    """Keys and values of one sequence in float16: half of the heads hold them."""
    return 2 * 2 * N_LAYER * (N_EMBD // 2) * n_ctx / 1e6


def make_inputs(folder: Path, n_vocab: int, n_ctx: int) -> None:
    """Base, quant, and a text of at least two windows (no token of the vocabulary is longer than 4 letters)."""
    from tiny_gguf import LETTERS, write_tiny

    for name, noise in (("base", 0.0), ("quant", 0.1)):
        write_tiny(
            folder / f"{name}.gguf", vocab="bpe", n_vocab=n_vocab, n_embd=N_EMBD, n_layer=N_LAYER, weight_type="F16",
            noise=noise, n_ctx_train=262_144,
        )  # fmt: skip
    words = random.Random(0).choices(["".join(random.Random(i).choices(LETTERS, k=5)) for i in range(999)], k=n_ctx)
    text = " ".join(words)  # 6 letters with the space: two tokens at least
    (folder / "t.txt").write_text(text + " " + text[: n_ctx // 2], encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-ctx", type=int, nargs="+", default=[512, 16_384, 131_072])
    parser.add_argument("--n-vocab", type=int, default=151_936)
    parser.add_argument("--stage", choices=["capture", "compare"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        run_stage(options.stage, options.folder, options.n_ctx[0])
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        make_inputs(Path(name), options.n_vocab, max(options.n_ctx))
        print(f"vocabulary of {options.n_vocab:,}; MB above the loaded model, without the KV cache")
        print(f"{'n_ctx':>8} {'KV cache':>9} {'capture':>8} {'compare':>8}")
        for n_ctx in options.n_ctx:
            found = [measure(stage, Path(name), n_ctx) - kv_mb(n_ctx) for stage in ("capture", "compare")]
            worst = max(worst, *found)
            print(f"{n_ctx:8d} {kv_mb(n_ctx):9.1f} {found[0]:8.0f} {found[1]:8.0f}", flush=True)
    print(f"worst {worst:.0f} MB, allowed {BOUND_MB} MB")
    return int(worst > BOUND_MB)


if __name__ == "__main__":
    sys.exit(main())
