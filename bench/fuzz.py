"""Damaged files of every format, by the hundred thousand: crashes, hangs, allocations and tracebacks, counted.

    python bench/fuzz.py --count 100000 [FORMAT ...] [--out findings.md]

Each format runs in a process of its own, so that a crash is counted and does not end the others. `tests/test_fuzz.py`
runs the same files, 1,000 of each format.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fuzz_targets import all_targets
from fuzzing import MEMORY_LIMIT, TIME_LIMIT, fuzz

HEAD = (
    "| format | inputs | read | refused | crashes | hangs | allocations | tracebacks | slowest (s) | most MB |",
    "| :--- " + "| ---: " * 9 + "|",
)


def run_one(name: str, count: int, seed: int) -> None:
    """Fuzz one format in this process; its report goes to standard output."""
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(all_targets(Path(folder))[name], count, seed)
    # asdict makes a Counter anew of its pairs, which then are its keys
    print(json.dumps({**asdict(replace(report, findings=Counter())), "findings": dict(report.findings)}))


def row(name: str, count: int, seed: int) -> tuple[str, dict[str, str]]:
    """The line of the table, and an input for each kind of finding."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        __file__,
        "--one",
        "--count",
        str(count),
        "--seed",
        str(seed),
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"| {name} | up to {count:,} | | | 1 | | | | | |", {f"exit {done.returncode}": done.stderr[-2000:]}
    found = json.loads(done.stdout.splitlines()[-1])
    kinds: dict[str, int] = {"hang": 0, "allocation": 0, "traceback": 0}
    for what, n in found["findings"].items():
        kinds[next((kind for kind in ("hang", "allocation") if kind in what), "traceback")] += n
    cells = [name, *(f"{found[key]:,}" for key in ("n_inputs", "n_read", "n_refused")), "0", *map(str, kinds.values())]
    return f"| {' | '.join(cells)} | {found['slowest']:.2f} | {found['most_bytes'] / 1e6:.1f} |", found["example"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="default: all")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here too, line by line")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run_one(given.formats[0], given.count, given.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        names = given.formats or list(all_targets(Path(folder)))
    lines = list(HEAD)
    print(*HEAD, sep="\n")
    for name in names:
        line, examples = row(name, given.count, given.seed)
        lines.append(line)
        print(line, flush=True)
        for what, data in examples.items():
            print(f"    {what}: {data[:200]}", file=sys.stderr, flush=True)
        if given.out is not None:
            given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    limits = f"a hang is more than {TIME_LIMIT:g} s of processor time, an allocation more than {MEMORY_LIMIT >> 20} MiB"
    print(f"\nRefused: with one line. Of one file, {limits}.")


if __name__ == "__main__":
    main()
