"""Row metrics beside a plain parallel read of the same bytes, both with the same threads, in turn.

    python bench/row_bandwidth.py --n-vocab 49152 151936

Two blocks of random float32 logits are compared row by row; the plain read sums them. Bytes are those of both blocks.
The share of the bandwidth says how far the row metrics are from being limited by memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numba
import numpy as np
import psutil
from compare_with_llama_perplexity import cpu_name

from quantprobe.arrays import Float32Array
from quantprobe.compiling import use_threads
from quantprobe.metrics.rows import row_metrics
from quantprobe.settings import default_threads

BLOCK_BYTES = 96 * 1024 * 1024
"""Of logits in a block, as in a run."""


@numba.njit(parallel=True, fastmath=True)
def read_rows(base: Float32Array, quant: Float32Array, sums: Float32Array) -> None:
    """One sum for each thread: every entry is read once, and nothing else is done."""
    for part in numba.prange(len(sums)):
        total = np.float32(0.0)
        for row in range(part, base.shape[0], len(sums)):
            for i in range(base.shape[1]):
                total += base[row, i] + quant[row, i]
        sums[part] = total


def seconds_of(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(n_vocab: int, n_threads: int, n_repeats: int) -> tuple[float, float]:
    """GB/s of the plain read and of the row metrics, medians."""
    rng = np.random.default_rng(0)
    n_rows = max(n_threads, BLOCK_BYTES // (4 * n_vocab))
    base = 3 * rng.standard_normal((n_rows, n_vocab), dtype=np.float32)
    quant = base + np.float32(0.1) * rng.standard_normal((n_rows, n_vocab), dtype=np.float32)
    targets = rng.integers(0, n_vocab, n_rows).astype(np.int32)
    sums = np.zeros(n_threads, np.float32)
    works = (lambda: read_rows(base, quant, sums)), (lambda: row_metrics(base, quant, targets))
    for work in works:
        work()  # compiles
    times = [[seconds_of(work) for work in works] for _ in range(n_repeats)]
    read, rows = (2 * base.nbytes / 1e9 / statistics.median(column) for column in zip(*times, strict=True))
    return read, rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-vocab", type=int, nargs="+", default=[49_152, 151_936])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(arguments)
    use_threads(args.threads)
    load = psutil.getloadavg()[0]
    print(f"{cpu_name()}, {args.threads} threads, load average {load:.1f} at the start, medians of {args.repeats}\n")
    print("| vocabulary | plain read GB/s | row metrics GB/s | share | ns per logit pair and thread |")
    print("| --- | --- | --- | --- | --- |")
    for n_vocab in args.n_vocab:
        read, rows = measure(n_vocab, args.threads, args.repeats)
        print(f"| {n_vocab:,} | {read:.1f} | {rows:.2f} | {rows / read:.0%} | {8 * args.threads / rows:.2f} |")


if __name__ == "__main__":
    main()
