"""Multiple-choice tasks: wall time and peak memory beside llama-perplexity, and decode time beside a bare decode.

    python bench/tasks.py /path/to/llama-perplexity --base F16.gguf --hellaswag hellaswag_val.txt --arc arc_easy_300.bin

Both tools score the same questions with the same model, threads and flash attention, as whole processes from start to
exit, in turn (llama-perplexity, capture, compare, ...), after a capture and a comparison of a few questions that fill
the page cache and compile quantprobe's kernels. Then the decode alone, in this process: all batches of a task beside
batches of one sequence of 512 tokens with as many tokens and as many rows. On two cores a round takes six minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import psutil
from compare_with_llama_perplexity import Measured, cpu_name, delete, run_process

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from road_cases import Quiet

from quantprobe.engine.devices import versions
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.engine.runner import n_probe_tokens, probe_blocks, run_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.items import TaskProbe
from quantprobe.settings import Settings, default_threads
from quantprobe.sweep import Inputs, TaskInput
from quantprobe.sweep.tasks import make_task_probe, read_tasks

N_PARALLEL = 16
N_BATCH = 512
TITLES = (
    *("task", "job", "llama-perplexity s", "quantprobe s", "ratio", "(rounds)"),
    *("processor s", "processor s", "ratio", "peak MB", "peak MB", "ratio"),
)
DECODE_TITLES = ("task", "tokens", "naive", "rows", "batches", "bare s", "decode s", "ratio", "(rounds)")


@dataclass(frozen=True)
class Case:
    """One task, and how llama-perplexity is asked for it."""

    task: TaskInput
    llama: Sequence[str]


@dataclass(frozen=True)
class Run:
    """One process and the processor time of its threads."""

    measured: Measured
    processor_seconds: float


def make_cases(args: argparse.Namespace) -> list[Case]:
    hellaswag = TaskInput("hellaswag", args.hellaswag, n_items=args.items)
    arc = TaskInput("arc", args.arc)
    options = ["-f", str(args.hellaswag), "--hellaswag", "--hellaswag-tasks", str(args.items)]
    return [Case(hellaswag, options), Case(arc, ["-bf", str(args.arc), "--multiple-choice"])]


def run_timed(command: Sequence[str], log: Path) -> Run:
    """A process with the processor time of its threads, which a busy machine moves less than the wall time."""
    before = _children_seconds()
    measured = run_process(command, log)
    return Run(measured, _children_seconds() - before)


def _children_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def measure_case(case: Case, args: argparse.Namespace, folder: Path) -> dict[str, list[Run]]:
    """Runs of each command in turn, after a small one of ours."""
    qpc, run, log = folder / "base.qpc", folder / "run", folder / "log"
    threads = ["-t", str(args.threads)]
    ours = [sys.executable, "-m", "quantprobe"]
    task = f"{case.task.name}={case.task.path}"
    capture = [*ours, "capture", str(args.base), "--task", task, "-o", str(qpc), *threads]
    commands: dict[str, Sequence[str]] = {
        "llama": [str(args.binary), "-m", str(args.base), *case.llama, "-np", str(N_PARALLEL), "-fa", "on", *threads],
        "capture": [*capture, *([] if case.task.n_items is None else ["--task-items", str(case.task.n_items)])],
        "compare": [*ours, "compare", str(qpc), str(args.base), "-o", str(run), *threads],
    }
    run_timed([*capture, "--task-items", "8"], log)
    run_timed(commands["compare"], log)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        delete(qpc)
        delete(run)
        for name, command in commands.items():
            runs[name].append(run_timed(command, log))
    delete(qpc)
    delete(run)
    return runs


def table_rows(case: Case, runs: dict[str, list[Run]]) -> Iterator[list[str]]:
    """A row for each of our two jobs: medians, ratios (quantprobe / llama-perplexity), range of the wall ratio."""
    for job in ("capture", "compare"):
        row = [case.task.name, job]
        wall: Callable[[Run], float] = lambda run: run.measured.seconds  # noqa: E731
        pairs = [wall(b) / wall(a) for a, b in zip(runs["llama"], runs[job], strict=True)]
        row += [*_cells(runs, job, wall, 2), f"{min(pairs):.2f} to {max(pairs):.2f}"]
        row += _cells(runs, job, lambda run: run.processor_seconds, 2)
        row += _cells(runs, job, lambda run: run.measured.peak_bytes / 1e6, 0)
        yield row


def _cells(runs: dict[str, list[Run]], job: str, value: Callable[[Run], float], digits: int) -> list[str]:
    theirs, ours = (statistics.median(value(run) for run in runs[name]) for name in ("llama", job))
    return [f"{theirs:.{digits}f}", f"{ours:.{digits}f}", f"{ours / theirs:.2f}"]


def bare_steps(n_tokens: int, n_rows: int, n_vocab: int) -> Iterator[Step]:
    """Full batches of one sequence with as many tokens and rows; the rows are spread evenly over the batches."""
    rng = np.random.default_rng(0)
    n_batches = -(-n_tokens // N_BATCH)
    for tokens, rows in zip(_spread(n_tokens, n_batches), _spread(n_rows, n_batches), strict=True):
        output = np.zeros(tokens, dtype=np.int8)
        output[tokens - rows :] = 1
        yield Step(
            tokens=rng.integers(0, n_vocab, tokens).astype(np.int32),
            pos=np.arange(tokens, dtype=np.int32),
            seq=np.zeros(tokens, dtype=np.int32),
            n_seq=np.ones(tokens, dtype=np.int32),
            output=output,
            row_ids=np.arange(rows),
            clear=True,
        )


def _spread(total: int, n_parts: int) -> list[int]:
    return np.diff(np.linspace(0, total, n_parts + 1).round().astype(int)).tolist()  # type: ignore[no-any-return]


def decode_row(model: Model, probe: TaskProbe, n_repeats: int) -> list[str]:
    """Decode time of a task and of a bare decode, in turn; the contexts' own making is in both."""
    n_tokens = n_probe_tokens(model, probe)
    geometry = Geometry(N_BATCH, 1, N_BATCH, N_BATCH, N_BATCH, unified=True)
    bare, ours, n_blocks = [], [], 0
    for _ in range(n_repeats):
        begin = time.perf_counter()
        with Context(model, geometry) as context:
            for _ in run_blocks(context, bare_steps(n_tokens, probe.n_rows, model.n_vocab)):
                pass
        middle = time.perf_counter()
        n_blocks = sum(1 for _ in probe_blocks(model, probe))
        bare.append(middle - begin)
        ours.append(time.perf_counter() - middle)
    pairs = [b / a for a, b in zip(bare, ours, strict=True)]
    counts = [f"{n:,}" for n in (n_tokens, n_naive_tokens(probe), probe.n_rows, n_blocks)]
    medians = statistics.median(bare), statistics.median(ours)
    ratio = f"{medians[1] / medians[0]:.2f}"
    return [probe.name, *counts, *(f"{m:.2f}" for m in medians), ratio, f"{min(pairs):.2f} to {max(pairs):.2f}"]


def print_rows(*rows: Sequence[str]) -> None:
    """Lines of a Markdown table as they are measured; titles get the line below them."""
    for line in rows:
        print("| " + " | ".join(line) + " |", flush=True)
        if line in (TITLES, DECODE_TITLES):
            print("| " + " | ".join(["---"] * len(line)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="llama-perplexity, best built from the llama.cpp that is installed")
    parser.add_argument(
        "--base", type=Path, required=True, help="the model that both score, for example SmolLM2 in F16"
    )
    parser.add_argument("--hellaswag", type=Path, required=True, help="questions in llama-perplexity's text form")
    parser.add_argument("--arc", type=Path, required=True, help="questions in llama-perplexity's binary form")
    parser.add_argument("--items", type=int, default=200, help="HellaSwag questions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--note", default="not a dedicated machine", help="said in the first line")
    args = parser.parse_args()
    load = psutil.getloadavg()[0]
    cases, known = make_cases(args), versions()
    print(
        f"{date.today()}, {cpu_name()}, {psutil.cpu_count()} cores, load average {load:.1f} at the start; {args.note}\n"
    )
    print(f"- quantprobe {known.quantprobe}, llama-cpp-python {known.llama_cpp_python} (llama.cpp {known.llama_cpp})")
    print(f"- {args.base.name}, {args.threads} threads, -np {N_PARALLEL}, flash attention on")
    print(f"- medians of {args.repeats} rounds, in turn; ratios are quantprobe / llama-perplexity, and task / bare\n")
    print_rows(TITLES)
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            print_rows(*table_rows(case, measure_case(case, args, Path(name))))
    with Model(read_model_info(args.base), Settings(n_threads=args.threads)) as model:
        tasks = read_tasks(Inputs((), tuple(case.task for case in cases)), Quiet())
        probes = [make_task_probe(model, task, Quiet()) for task in tasks]
        print()
        print_rows(DECODE_TITLES)
        for probe in probes:
            print_rows(decode_row(model, probe, args.repeats))


if __name__ == "__main__":
    main()
