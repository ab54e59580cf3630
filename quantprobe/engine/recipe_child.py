"""The child process of `read_recipe`: one job as JSON on standard input, llama.cpp's log on standard output."""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp


def run(job: dict[str, Any]) -> int:
    """Plan, and write nothing; 0 if llama.cpp says so."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["file_type"]
    params.dry_run = True
    params.nthread = 1
    if job["has_imatrix"]:
        # that there is one changes the mixture, whatever is in it; its values are read by no dry run
        one = (ctypes.c_float * 1)(1.0)
        entries: Any = (llama_cpp.llama_model_imatrix_data * 2)()
        entries[0].name, entries[0].size = b"none", 1
        entries[0].data = ctypes.cast(one, ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    return int(llama_cpp.llama_model_quantize(job["source"].encode("utf-8"), b"", ctypes.byref(params)))


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _print_log(level: int, text: bytes, data: Any) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def main() -> int:
    job = json.load(sys.stdin)
    llama_cpp.llama_log_set(_print_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return run(job)


if __name__ == "__main__":
    sys.exit(main())
