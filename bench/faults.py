"""Every call to the disk of a sweep fails once, in every way: what was lost, what was mixed.

    python bench/faults.py [--job "one more quant"] [--out table.md]

A point is one call (open, sync, rename, delete, make a folder, or open for reading) of a sweep of tiny models. After
each fault captures and results must be whole, the old ones or the new, and the same sweep must end with the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fault_runs import JOBS, check_point, make_case, work_calmly
from faults import ERRORS

KINDS = [*((name, False) for name in ERRORS), ("input/output", True), ("forbidden", True)]


def survived(job: str, kind: str, reads: bool) -> tuple[int, list[str]]:
    """Points of one job and fault, and what failed."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), job)
        calm = work_calmly(case, reads)
        for point in range(1, calm.n_calls + 1):
            try:
                check_point(case, calm, point, ERRORS[kind], reads)
            except Exception as error:
                last = traceback.format_exception_only(error)[-1].strip()
                failures.append(f"{job}, {kind}, point {point}: {last}")
    return calm.n_calls, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, action="append", help="default: all")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    given = parser.parse_args()
    lines = ["| sweep | fault | points | survived |", "| :--- | :--- | ---: | ---: |"]
    failures: list[str] = []
    for job in given.job or JOBS:
        for kind, reads in KINDS:
            n_points, failed = survived(job, kind, reads)
            what = f"{kind} at reading" if reads else kind
            lines.append(f"| {job} | {what} | {n_points} | {n_points - len(failed)} |")
            print(lines[-1], flush=True)
            failures += failed
    text = "\n".join([*lines, "", *failures]) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8", newline="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
