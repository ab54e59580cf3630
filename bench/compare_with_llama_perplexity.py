"""Wall time, peak memory and file size of `capture` and `compare` beside llama-perplexity's own two passes.

    python bench/compare_with_llama_perplexity.py /path/to/llama-perplexity --base F16.gguf --quant Q4_K_M.gguf --text T
        [--sweep QUANT QUANT ...]

With `--sweep`, `compare` and `sweep` of these quants and the first are set beside as many runs of the tool. A finished
run is repeated, and `--help` asked for, without a counterpart.

Both tools run in turn (A B A B ...), with the same threads, windows and flash attention, as whole processes from start
to exit, after one unmeasured run of each that fills the page cache and compiles quantprobe's kernels. Two cases: the
models given, and a random one-layer model of 151,936 tokens whose decode is nearly free, so that all else shows.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from tiny_gguf import write_tiny

from quantprobe.engine.devices import versions
from quantprobe.settings import default_threads

N_CTX = 512
RANDOM_VOCAB = 151_936
TITLES = (
    *("case", "job", "llama-perplexity s", "quantprobe s", "ratio", "(pairs)", "CPU s", "CPU s", "ratio"),
    *("peak MB", "peak MB", "ratio", "file MB", "file MB", "ratio"),
)


@dataclass(frozen=True)
class Measured:
    """One process from start to exit."""

    seconds: float
    cpu_seconds: float
    """User and system time of all threads: on a busy machine nearer to the work done than wall time is."""
    peak_bytes: int


@dataclass(frozen=True)
class Case:
    """A base, a quant of it, a text, and how many windows of it; `more` are the quants of a sweep."""

    name: str
    base: Path
    quant: Path
    text: Path
    n_chunks: int
    more: Sequence[Path] = ()


@dataclass(frozen=True)
class Job:
    """The same work as commands of both tools, and what each leaves on disk."""

    name: str
    llama: Sequence[Sequence[str]]
    """One after the other."""
    ours: Sequence[str]
    llama_output: Path
    our_output: Path
    makes_base: bool
    n_parts: int = 1
    """Seconds are given by this many."""


def run_process(command: Sequence[str], log: Path) -> Measured:
    """Run to the end; stops the benchmark with the process's last lines if it fails."""
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}\nfailed:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return Measured(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )


def run_all(commands: Sequence[Sequence[str]], log: Path) -> Measured:
    """Processes one after the other, as one."""
    runs = [run_process(command, log) for command in commands]
    seconds, cpu = sum(run.seconds for run in runs), sum(run.cpu_seconds for run in runs)
    return Measured(seconds, cpu, max(run.peak_bytes for run in runs))


def make_jobs(case: Case, binary: Path, folder: Path, n_threads: int) -> list[Job]:
    kld, qpc, run = folder / "base.kld", folder / "base.qpc", folder / "run"
    options = ["-c", str(N_CTX), "-t", str(n_threads), "-fa", "on", "--chunks", str(case.n_chunks)]
    llama = [str(binary), "-f", str(case.text), *options, "--kl-divergence-base", str(kld)]
    ours = [sys.executable, "-m", "quantprobe"]
    capture = [*ours, "capture", str(case.base), "--text", f"text={case.text}", "-o", str(qpc), *options]
    compare = [*ours, "compare", str(qpc), str(case.quant), "-o", str(run), "-t", str(n_threads)]
    base = [*llama, "-m", str(case.base)]
    klds = [[*llama, "-m", str(quant), "--kl-divergence"] for quant in (case.quant, *case.more)]
    jobs = [
        Job("capture", [base], capture, kld, qpc, makes_base=True),
        Job("compare", klds[:1], compare, kld, run, makes_base=False),
    ]
    if case.more:
        several = [*compare[:5], *map(str, (case.quant, *case.more)), *compare[6:]]
        sweep = [*ours, "sweep", *map(str, (case.base, case.quant, *case.more)), "--text", f"text={case.text}"]
        n_quants = 1 + len(case.more)
        jobs += [
            Job(f"compare, {n_quants} quants, by quant", klds, several, kld, run, makes_base=False, n_parts=n_quants),
            Job(
                f"sweep, {n_quants} quants",
                [base, *klds],
                [*sweep, "-o", str(run), *options],
                kld,
                run,
                makes_base=True,
            ),
        ]
    return jobs


def size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure(job: Job, n_repeats: int, log: Path) -> tuple[list[Measured], list[Measured]]:
    """`n_repeats` measured runs of both commands in turn, after one of each that is not counted."""
    llama: list[Measured] = []
    ours: list[Measured] = []
    for _ in range(n_repeats + 1):
        if job.makes_base:
            delete(job.llama_output)
        llama.append(run_all(job.llama, log))
        delete(job.our_output)
        ours.append(run_process(job.ours, log))
    return llama[1:], ours[1:]


def table_row(case: Case, job: Job, llama: Sequence[Measured], ours: Sequence[Measured]) -> list[str]:
    """Medians, their ratios (quantprobe / llama-perplexity), and the range of the ratio over the pairs."""
    seconds = [statistics.median(run.seconds for run in runs) / job.n_parts for runs in (llama, ours)]
    peaks = [statistics.median(run.peak_bytes for run in runs) for runs in (llama, ours)]
    pairs = [b.seconds / a.seconds for a, b in zip(llama, ours, strict=True)]
    row = [case.name, job.name, f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"{seconds[1] / seconds[0]:.2f}"]
    row += [f"{min(pairs):.2f} to {max(pairs):.2f}"]
    cpu = [statistics.median(run.cpu_seconds for run in runs) / job.n_parts for runs in (llama, ours)]
    row += [f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", f"{cpu[1] / cpu[0]:.2f}"]
    row += [f"{peaks[0] / 1e6:.0f}", f"{peaks[1] / 1e6:.0f}", f"{peaks[1] / peaks[0]:.2f}"]
    if job.name != "capture":
        return [*row, "", "", ""]
    sizes = [size_bytes(job.llama_output), size_bytes(job.our_output)]
    return [*row, f"{sizes[0] / 1e6:.1f}", f"{sizes[1] / 1e6:.2f}", f"1/{sizes[0] / sizes[1]:.0f}"]


def random_case(folder: Path, text: Path, n_chunks: int, n_more: int) -> Case:
    """One layer of width 64 under a vocabulary of 151,936: nothing to decode, everything to compare."""
    size = {"n_vocab": RANDOM_VOCAB, "n_embd": 64, "n_layer": 1, "weight_type": "F16"}
    base = write_tiny(folder / "random-F16.gguf", **size)  # type: ignore[arg-type]
    quant = write_tiny(folder / "random-noise.gguf", **size, noise=0.05)  # type: ignore[arg-type]
    noises = [0.02 * number for number in range(1, 1 + n_more)]
    more = [write_tiny(folder / f"random-{noise:g}.gguf", **size, noise=noise) for noise in noises]  # type: ignore[arg-type]
    return Case(f"random, {RANDOM_VOCAB:,} tokens", base, quant, text, n_chunks, more)


def own_row(case: Case, name: str, command: Sequence[str], n_repeats: int, log: Path) -> list[str]:
    """A command of ours without a counterpart."""
    runs = [run_process(command, log) for _ in range(n_repeats + 1)][1:]
    seconds, cpu = (statistics.median(getattr(run, what) for run in runs) for what in ("seconds", "cpu_seconds"))
    peak = statistics.median(run.peak_bytes for run in runs)
    return [
        case.name,
        name,
        "",
        f"{seconds:.2f}",
        "",
        "",
        "",
        f"{cpu:.2f}",
        "",
        "",
        f"{peak / 1e6:.0f}",
        "",
        "",
        "",
        "",
    ]


def print_table(args: argparse.Namespace, rows: Sequence[Sequence[str]], load: float) -> None:
    known = versions()
    build = subprocess.run([str(args.binary), "--version"], capture_output=True, text=True, check=False)
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load average {load:.1f} to {psutil.getloadavg()[0]:.1f}"
    print(f"{date.today()}, {machine}; {args.note}\n")
    print(f"- quantprobe {known.quantprobe}, llama-cpp-python {known.llama_cpp_python} (llama.cpp {known.llama_cpp})")
    print(f"- llama-perplexity: {' '.join((build.stderr or build.stdout).split())}")
    print(f"- {args.threads} threads, -c {N_CTX}, --chunks {args.chunks} and {args.random_chunks}, flash attention on")
    print(f"- medians of {args.repeats} runs each, in turn; ratios are quantprobe / llama-perplexity\n")
    for line in (TITLES, ["---"] * len(TITLES), *rows):
        print("| " + " | ".join(line) + " |")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="llama-perplexity, best built from the llama.cpp that is installed")
    parser.add_argument("--base", type=Path, required=True, help="F16 model, for example SmolLM2")
    parser.add_argument("--quant", type=Path, required=True, help="a quant of it, for example Q4_K_M")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sweep", type=Path, nargs="*", default=[], metavar="QUANT", help="more quants, for a sweep")
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--random-chunks", type=int, default=16, help="windows for the random model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--note", default="not a dedicated machine", help="said in the table's first line")
    args = parser.parse_args()
    load = psutil.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [
            Case(args.base.stem, args.base, args.quant, args.text, args.chunks, args.sweep),
            random_case(folder, args.text, args.random_chunks, len(args.sweep)),
        ]
        for case in cases:
            jobs = make_jobs(case, args.binary, folder, args.threads)
            rows += [table_row(case, job, *measure(job, args.repeats, folder / "log")) for job in jobs]
            rows.append(own_row(case, f"{jobs[-1].name}, again", jobs[-1].ours, args.repeats, folder / "log"))
        help_ = [sys.executable, "-m", "quantprobe", "--help"]
        rows.append(own_row(cases[0], "--help", help_, args.repeats, folder / "log"))
    print_table(args, rows, load)


if __name__ == "__main__":
    main()
