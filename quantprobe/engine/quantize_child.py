"""The child process of `quantize`: jobs as JSON on standard input, llama.cpp's log on standard output."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.engine.library import Functions, library_folder, llama, load_backends
from quantprobe.engine.params import default_params, set_fields
from quantprobe.engine.recipe import JOB_DONE
from quantprobe.errors import QuantprobeError
from quantprobe.imatrix.file import read_imatrix
from quantprobe.imatrix.matrix import Imatrix


def run(job: dict[str, Any]) -> int:
    """Quantize; 0 if llama.cpp says so."""
    params = default_params("llama_model_quantize")
    params.ftype = job["file_type"]
    params.nthread = job["n_threads"]
    for name in ("allow_requantize", "pure", "keep_split", "dry_run"):
        setattr(params, name, job[name])
    for name in ("output_tensor_type", "token_embedding_type"):
        if job[name] is not None:
            setattr(params, name, job[name])
    # these names keep alive what the parameters point to, until the call has returned
    patterns = _patterns(job["tensor_types"])
    if job["tensor_types"]:
        params.tt_overrides = patterns
    if job["imatrix"]:
        imatrix = read_imatrix(Path(job["imatrix"]))
        means = {name: entry.means() for name, entry in imatrix.entries.items()}
        entries, overrides = _imatrix_entries(means), _imatrix_metadata(job["imatrix"], imatrix)
        params.imatrix, params.kv_overrides = entries, overrides
    elif job["stands_for_imatrix"]:
        # a dry run reads no values, and chooses other types where there is a matrix at all
        entries = _imatrix_entries({"none": np.ones(1, np.float32)})
        params.imatrix = entries
    source, target = job["source"].encode("utf-8"), job["target"].encode("utf-8")
    status = llama.llama_model_quantize(source, target, ctypes.byref(params))
    return int(status)


def _patterns(tensor_types: list[tuple[str, int]]) -> ctypes.Array[Any]:
    """Patterns and ggml types as llama.cpp takes them, ended by an entry without a pattern."""
    overrides: ctypes.Array[Any] = (llama.llama_model_tensor_override * (len(tensor_types) + 1))()
    for override, (pattern, type_id) in zip(overrides, tensor_types, strict=False):
        set_fields(override, pattern=pattern.encode("utf-8"), type=type_id)
    return overrides


def _imatrix_entries(means: dict[str, Any]) -> ctypes.Array[Any]:
    """The weights as llama.cpp takes them, ended by an entry without a name; `means` owns the arrays."""
    entries: ctypes.Array[Any] = (llama.llama_model_imatrix_data * (len(means) + 1))()
    for entry, (name, weights) in zip(entries, means.items(), strict=False):
        data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        set_fields(entry, name=name.encode("utf-8"), data=data, size=weights.size)
    return entries


def _imatrix_metadata(file: str, imatrix: Imatrix) -> ctypes.Array[Any]:
    """The keys by which llama-quantize names the matrix in the new file; texts end after 127 bytes."""
    values: dict[str, int | str] = {"quantize.imatrix.file": file}
    if imatrix.datasets:
        values["quantize.imatrix.dataset"] = imatrix.datasets[0]
    values["quantize.imatrix.entries_count"] = len(imatrix.entries)
    if imatrix.n_chunks > 0:
        values["quantize.imatrix.chunks_count"] = imatrix.n_chunks
    overrides: ctypes.Array[Any] = (llama.llama_model_kv_override * (len(values) + 1))()
    for override, (key, value) in zip(overrides, values.items(), strict=False):
        if isinstance(value, int):
            set_fields(override, tag=llama.LLAMA_KV_OVERRIDE_TYPE_INT, key=key.encode("ascii"))
            set_fields(override.value, val_i64=value)
        else:
            set_fields(override, tag=llama.LLAMA_KV_OVERRIDE_TYPE_STR, key=key.encode("ascii"))
            set_fields(override.value, val_str=value.encode("utf-8")[:127])
    return overrides


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _print_log(level: int, text: bytes, data: Any) -> None:
    """llama_cpp's own callback hides errors; this one hides nothing."""
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def _run_and_tell(job: dict[str, Any]) -> int:
    try:
        status = run(job)
    except QuantprobeError as error:
        sys.stdout.buffer.write(f"error: {error}\n".encode())
        status = 1
    sys.stdout.buffer.write(f"\n{JOB_DONE} {status}\n".encode())
    sys.stdout.buffer.flush()
    return status


def main() -> int:
    given = json.load(sys.stdin)
    llama.llama_log_set(_print_log, ctypes.c_void_p(0))
    try:
        load_backends(Functions(llama._lib, library_folder()), library_folder())
    except QuantprobeError as error:
        sys.stdout.write(f"error: {error}\n")
        return 1
    llama.llama_backend_init()
    return max(_run_and_tell(job) for job in (given if isinstance(given, list) else [given]))


if __name__ == "__main__":
    sys.exit(main())
