"""The child process of `quantize`: one job as JSON on standard input, llama.cpp's log on standard output."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from quantprobe.engine.imatrix_file import Imatrix, read_imatrix
from quantprobe.engine.library import Functions, library_folder, llama, load_backends
from quantprobe.engine.params import default_params, set_fields
from quantprobe.errors import QuantprobeError


def run(job: dict[str, Any]) -> int:
    """Quantize; 0 if llama.cpp says so."""
    params = default_params("llama_model_quantize")
    params.ftype = job["file_type"]
    params.nthread = job["n_threads"]
    params.allow_requantize = job["allow_requantize"]
    if job["imatrix"]:
        # these names keep alive what the parameters point to, until the call has returned
        imatrix = read_imatrix(Path(job["imatrix"]))
        entries, overrides = _imatrix_entries(imatrix), _imatrix_metadata(imatrix)
        params.imatrix, params.kv_overrides = entries, overrides
    source, target = job["source"].encode("utf-8"), job["target"].encode("utf-8")
    status = llama.llama_model_quantize(source, target, ctypes.byref(params))
    return int(status)


def _imatrix_entries(imatrix: Imatrix) -> ctypes.Array[Any]:
    """The weights as llama.cpp takes them, ended by an entry without a name; `imatrix` owns the arrays."""
    entries: ctypes.Array[Any] = (llama.llama_model_imatrix_data * (len(imatrix.weights) + 1))()
    for entry, (name, weights) in zip(entries, imatrix.weights.items(), strict=False):
        data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        set_fields(entry, name=name.encode("utf-8"), data=data, size=weights.size)
    return entries


def _imatrix_metadata(imatrix: Imatrix) -> ctypes.Array[Any]:
    """The four keys by which llama-quantize names the matrix in the new file; texts end after 127 bytes."""
    values: dict[str, int | str] = {
        "quantize.imatrix.file": str(imatrix.path),
        "quantize.imatrix.dataset": imatrix.datasets[0] if imatrix.datasets else "",
        "quantize.imatrix.entries_count": len(imatrix.weights),
        "quantize.imatrix.chunks_count": imatrix.n_chunks,
    }
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


def main() -> int:
    job = json.load(sys.stdin)
    llama.llama_log_set(_print_log, ctypes.c_void_p(0))
    try:
        load_backends(Functions(llama._lib, library_folder()), library_folder())
        llama.llama_backend_init()
        return run(job)
    except QuantprobeError as error:
        sys.stdout.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
