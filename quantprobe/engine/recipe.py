"""The tensor types that llama-quantize would choose for a model, asked from llama.cpp itself in a child process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantprobe.errors import EngineError
from quantprobe.gguf.file_types import FILE_TYPES

TIMEOUT_SECONDS = 300
_TENSOR = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[[^\]]*\], type =\s*(\S+), size =.*?MiB(?: ->.*\((\S+)\))?$")
_FALLBACK = re.compile(r"warning: (\S+)\s+- ncols\s+(\d+) not divisible by\s+(\d+) \(required for type\s+(\S+?)\s*\)")


@dataclass(frozen=True)
class RecipeEntry:
    """What llama-quantize gives one tensor."""

    type_name: str
    wanted: str
    """The type of the mixture: another one than `type_name` where the row length forces a fallback."""


def read_recipe(path: Path, file_type: str, has_imatrix: bool) -> Mapping[str, RecipeEntry] | None:
    """The type that this llama.cpp gives every tensor of a model's shapes in a file of `file_type`, by tensor name.

    Only headers are read (`dry_run`), so the model may be of any type, also quantized; what is never quantized keeps
    its own type. None for a file type that llama.cpp cannot make. Raises `EngineError` with llama.cpp's reason.
    """
    kind = FILE_TYPES.get(file_type)
    if kind is None or not kind.can_make:
        return None
    job = {"source": str(path), "file_type": kind.number, "has_imatrix": has_imatrix}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quantprobe.engine.recipe_child"],
            input=json.dumps(job).encode("utf-8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"llama.cpp did not plan {path.name} as {file_type} within {TIMEOUT_SECONDS} s") from error
    log = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        last = " / ".join(line.strip() for line in log.splitlines() if line.strip())[-300:]
        raise EngineError(f"llama.cpp could not plan {path.name} as {file_type} (status {done.returncode}): {last}")
    return parse_plan(log)


def parse_plan(log: str) -> Mapping[str, RecipeEntry]:
    """The entries of a dry run's log."""
    wanted = {match[1]: match[4].upper() for match in map(_FALLBACK.search, log.splitlines()) if match}
    entries = {}
    for line in log.splitlines():
        match = _TENSOR.search(line.rstrip())
        if match:
            found = (match[3] or match[2]).upper()
            entries[match[1]] = RecipeEntry(found, wanted.get(match[1], found))
    return entries
