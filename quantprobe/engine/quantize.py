"""Quantizing through llama.cpp, in a child process: its assertions end the process they run in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from quantprobe.engine.recipe import Recipe, check_recipe
from quantprobe.errors import EngineError, InputError
from quantprobe.files import sync_folder
from quantprobe.gguf.parts import split_paths
from quantprobe.gguf.split import split_gguf

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_PROGRESS_LINE = re.compile(r"^\[\s*\d+/\s*\d+\].*?type =\s*\S+\s*")
"""llama.cpp writes what goes wrong with a tensor at the end of the line on which it named the tensor."""
_COMPLAINT = re.compile(r"error|fail|abort|assert|invalid|missing|cannot|not found|unable", re.IGNORECASE)
_OURS = "quantprobe: "
"""Begins the child's own lines, which explain nothing."""

Child = subprocess.Popen[str]


def quantize(
    source: Path,
    target: Path,
    recipe: Recipe,
    *,
    n_threads: int | None = None,
    max_part_bytes: int | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
    on_child: Callable[[Child], None] | None = None,
) -> list[Path]:
    """Make `recipe` of `source` at `target`, whole or not at all; gives the files made, the first part first.

    Parameters
    ----------
    source, target
        GGUF files; of a split model, the first part. They must differ. The parts of a split target are named
        NAME-00001-of-0000N.gguf after it, and the first part, by which the model is found, comes last.
    n_threads
        None: all cores.
    max_part_bytes
        Most bytes of tensors in a part, as llama-gguf-split counts; None: one file, or with `keep_split` the parts of
        the source. llama.cpp makes one file first, so both lie on the disk for a while.
    on_tensor
        Told `(done, total)` as llama.cpp reaches each tensor.
    on_child
        Told the process, which may be killed from another thread.

    Raises
    ------
    InputError
        Unknown type, missing source, a type that needs an importance matrix, a target that cannot be written.
    EngineError
        llama.cpp refused, or its process was killed; with its last lines.
    """
    check_recipe(source, recipe)
    if target.exists() and target.samefile(source):
        raise InputError(f"source and target are the same file, {source}; give another target")
    work = target.with_name(f"{target.name}.partial")
    name = work / (target.name.removesuffix(".gguf") if recipe.keep_split else target.name)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        status, last = run_child(recipe.job(source, name, n_threads), on_tensor, on_child)
        if status != 0:
            raise EngineError(f"llama.cpp could not make {recipe.kind.name} of {source.name}: {_reason(status, last)}")
        return _publish(_finished(work, target, max_part_bytes), target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _finished(work: Path, target: Path, max_part_bytes: int | None) -> list[Path]:
    """What llama.cpp wrote, cut into parts if asked."""
    [first, *more] = sorted(work.iterdir())
    if more:
        return split_paths(first)
    # of an unsplit source, --keep-split makes one part of one
    whole = first.replace(work / target.name)
    return [whole] if max_part_bytes is None else split_gguf(whole, max_part_bytes)


def _publish(files: list[Path], folder: Path) -> list[Path]:
    """Flush the files to disk and give them their final names, the first part last."""
    for file in files:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
    for file in reversed(files):
        file.replace(folder / file.name)
    sync_folder(folder)
    return [folder / file.name for file in files]


def run_child(
    job: object,
    on_tensor: Callable[[int, int], None] | None = None,
    on_child: Callable[[Child], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> tuple[int, list[str]]:
    """Run a job, or a list of jobs, to its end; gives the exit status and the child's last lines.

    The child never outlives the call.
    """
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
            if on_child is not None:
                on_child(child)
            child.stdin.write(json.dumps(job))
            child.stdin.close()
            for line in child.stdout:
                found = _PROGRESS.search(line)
                if found and on_tensor is not None:
                    on_tensor(int(found[1]), int(found[2]))
                if on_line is not None:
                    on_line(line)
                if line.strip() and not line.startswith(_OURS):
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
