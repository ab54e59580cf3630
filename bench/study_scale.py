"""Time and memory of a study of 40 quants, 3 tasks of 2,000 items and 2 texts of 50,000 rows.

    python bench/study_scale.py

The synthetic run is written to a temporary folder first; that is not timed. The study runs in a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def write(folder: Path) -> None:
    from fake_run import FakeRun, ladder, write_fake_run

    tasks = dict.fromkeys(("arc", "hellaswag", "mmlu"), 2_000)
    texts = dict.fromkeys(("wiki", "code"), 50_000)
    write_fake_run(folder, FakeRun(quants=ladder(40), tasks=tasks, texts=texts, row_window=256))


def study(folder: Path) -> None:
    from quantprobe.run.cohort import read_cohort
    from quantprobe.study.findings import study_cohort

    findings = study_cohort(read_cohort([folder]))
    print(f"{len(findings.correlations)} correlations, {len(findings.sentences)} sentences")
    print(f"processor time {time.process_time():.1f} s (all threads, imports included)")


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "run")
        start = time.perf_counter()
        process = spawn.Process(target=study, args=(Path(name) / "run",))
        process.start()
        peak = 0
        while process.is_alive():
            try:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            process.join(0.02)
        print(f"wall time {time.perf_counter() - start:.1f} s, peak {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
