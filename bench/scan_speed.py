"""How fast `quantprobe validate` scans each block type: GB/s from the page cache, and the peak memory.

GB per CPU second, times the cores, is what an idle machine gives, whatever else runs on this one.

One made file per type (1 GB, random bytes with finite scales), written, read once, and timed; removed afterwards.

    python bench/scan_speed.py [--gb 1] [--threads 2] [--types Q4_K,F16] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quantprobe.gguf.block_layouts import FORMATS, LAYOUTS
from quantprobe.gguf.header import TENSOR_TYPES, Tensor
from quantprobe.gguf.scan import scan_tensors
from quantprobe.gguf.tensors import PlacedTensor, place_of

IDS = {name: type_id for type_id, (name, _, _) in TENSOR_TYPES.items()}


def make_file(path: Path, type_name: str, n_bytes: int) -> PlacedTensor:
    """One tensor of random blocks whose numbers are all finite; a 16-MB piece is repeated."""
    _, per_block, block_bytes = TENSOR_TYPES[IDS[type_name]]
    n_piece = (16 << 20) // block_bytes
    blocks = np.random.default_rng(0).integers(0, 256, (n_piece, block_bytes), dtype=np.uint8)
    for field in LAYOUTS[type_name]:
        size = FORMATS[field.format].n_bytes
        blocks[:, field.offset : field.offset + size] &= 0x3B  # clears the top bits of every exponent
    piece = blocks.tobytes()
    n_pieces = max(n_bytes // len(piece), 1)
    with path.open("wb") as file:
        for _ in range(n_pieces):
            file.write(piece)
    shape = (per_block, n_piece * n_pieces)
    tensor = Tensor("blk.0.made.weight", shape, IDS[type_name], 0, len(piece) * n_pieces)
    return PlacedTensor(path, tensor, place_of(tensor.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--types", default=",".join(name for name, fields in LAYOUTS.items() if fields))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    asked = parser.parse_args()
    print(f"{'type':8} {'GB/s':>6} {'GB/CPU s':>9} {'peak MB':>8}   ({asked.threads} threads, best of 3)")
    for name in asked.types.split(","):
        path = asked.folder / f"scan-{os.getpid()}-{name}.bin"
        try:
            tensor = make_file(path, name, int(asked.gb * 1e9))
            seconds, cpu = [], []
            for _ in range(4):  # the first compiles, and fills the cache
                begin, begin_cpu = time.perf_counter(), time.process_time()
                [found] = scan_tensors([tensor], asked.threads)
                seconds.append(time.perf_counter() - begin)
                cpu.append(time.process_time() - begin_cpu)
            assert found.n_bad == 0, found
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
            n_gb = tensor.tensor.n_bytes / 1e9
            speeds = f"{n_gb / min(seconds[1:]):6.2f} {n_gb / min(cpu[1:]):9.2f}"
            print(f"{name:8} {speeds} {peak:8.0f}", flush=True)
        finally:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
