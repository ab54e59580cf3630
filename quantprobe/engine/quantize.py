"""Quantizing through llama.cpp, in a child process: its assertions end the process they run in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.file_types import FILE_TYPES

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_PROGRESS_LINE = re.compile(r"^\[\s*\d+/\s*\d+\].*?type =\s*\S+\s*")
"""llama.cpp writes what goes wrong with a tensor at the end of the line on which it named the tensor."""
_COMPLAINT = re.compile(r"error|fail|abort|assert|invalid|missing|cannot|not found|unable", re.IGNORECASE)


def quantize(
    source: Path,
    target: Path,
    file_type: str,
    *,
    imatrix: Path | None = None,
    n_threads: int | None = None,
    allow_requantize: bool = False,
    on_tensor: Callable[[int, int], None] | None = None,
) -> None:
    """Write `source` as `file_type` to `target`, whole or not at all.

    Parameters
    ----------
    source, target
        GGUF files; of a split model, the first part. They must differ.
    file_type
        A name of `FILE_TYPES` that llama.cpp can make, in any case.
    imatrix
        Importance matrix in GGUF form; its origin is written into the new file as llama-quantize does.
    n_threads
        None: all cores.
    allow_requantize
        Also quantize tensors that are quantized already; what the first quantization lost stays lost.
    on_tensor
        Told `(done, total)` as llama.cpp reaches each tensor.

    Raises
    ------
    InputError
        Unknown type, missing source, a type that needs an importance matrix, a target that cannot be written.
    EngineError
        llama.cpp refused, or its process was killed; with its last lines.
    """
    name = file_type.upper()
    _check(source, target, name, imatrix)
    partial = target.with_name(f"{target.name}.partial")
    job = {
        "source": str(source),
        "target": str(partial),
        "file_type": FILE_TYPES[name].number,
        "imatrix": None if imatrix is None else str(imatrix),
        "n_threads": n_threads or 0,
        "allow_requantize": allow_requantize,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        status, last = _run_child(job, on_tensor)
        if status != 0:
            raise EngineError(f"llama.cpp could not make {name} of {source.name}: {_reason(status, last)}")
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _check(source: Path, target: Path, name: str, imatrix: Path | None) -> None:
    known = [kind.name for kind in FILE_TYPES.values() if kind.can_make]
    if name not in known:
        raise InputError(f"unknown file type {name!r}; llama.cpp makes {', '.join(known)}")
    if not source.is_file():
        raise InputError(f"there is no model {source}")
    if target.exists() and target.samefile(source):
        raise InputError(f"source and target are the same file, {source}; give another target")
    if imatrix is None and FILE_TYPES[name].needs_imatrix:
        raise InputError(f"{name} cannot be made without an importance matrix; give one, or choose Q2_K or IQ3_S")
    if imatrix is not None and not imatrix.is_file():
        raise InputError(f"there is no importance matrix {imatrix}")


def _run_child(job: dict[str, object], on_tensor: Callable[[int, int], None] | None) -> tuple[int, list[str]]:
    """Run the job to its end; gives the exit status and the child's last lines. The child never outlives the call."""
    last: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        [sys.executable, "-m", "quantprobe.engine.quantize_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(job))
            child.stdin.close()
            for line in child.stdout:
                found = _PROGRESS.search(line)
                if found and on_tensor is not None:
                    on_tensor(int(found[1]), int(found[2]))
                if line.strip():
                    last.append(line.strip())
            return child.wait(), list(last)
        finally:
            if child.poll() is None:
                child.kill()


def _reason(status: int, last: list[str]) -> str:
    """llama.cpp's own complaint, or how its process ended."""
    lines = [_PROGRESS_LINE.sub("", line) for line in last]
    complaints = [line for line in lines if _COMPLAINT.search(line)][-3:]
    if status < 0:
        complaints.append(f"its process was ended by signal {-status}; was there enough memory?")
    return "; ".join(complaints or lines[-3:] or [f"its process ended with status {status} and said nothing"])
