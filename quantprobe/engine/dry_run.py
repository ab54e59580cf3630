"""What llama-quantize would make of a model, asked from llama.cpp's own dry run in a child process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantprobe.engine.quantize import run_child
from quantprobe.engine.recipe import JOB_DONE, Recipe
from quantprobe.errors import EngineError
from quantprobe.gguf.file_types import FILE_TYPES

_TENSOR = re.compile(r"^\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[[\d,\s]+\], type =\s*(\S+), size =.*?(?:\((\S+)\))?\s*$")
_FALLBACK = re.compile(r"warning: (\S+)\s+- ncols.*\(required for type\s+(\S+?)\s*\)")


@dataclass(frozen=True)
class PlannedType:
    """What one tensor gets; types by ggml's names in capitals."""

    type_name: str
    wanted: str
    """The type of the mixture: another one than `type_name` where the row length forces a fallback."""

    @property
    def is_forced(self) -> bool:
        return self.wanted != self.type_name


def dry_run(source: Path, jobs: Sequence[Mapping[str, object]]) -> list[Mapping[str, PlannedType]]:
    """The planned types of each job (`Recipe.job`), by tensor name; one child process for all, which writes nothing.

    Raises `EngineError` with llama.cpp's reason.
    """
    logs: list[list[str]] = []
    lines: list[str] = []
    failed: list[str] = []

    def take(line: str) -> None:
        nonlocal lines
        if not line.startswith(JOB_DONE):
            lines.append(line.rstrip("\n"))
            return
        if line.split()[-1] != "0":
            failed.extend(text for text in lines if "fail" in text or "error" in text)
        logs.append(lines)
        lines = []

    status, last = run_child(list(jobs), on_line=take)
    if status != 0 or len(logs) < len(jobs):
        raise EngineError(f"llama.cpp cannot quantize {source}: {'; '.join(failed or last[-3:])}")
    return [parse_log(log) for log in logs]


def parse_log(lines: Sequence[str]) -> Mapping[str, PlannedType]:
    """The planned types in the log of a dry run, by tensor name."""
    wanted = {found[1]: found[2].upper() for found in map(_FALLBACK.search, lines) if found}
    types = {found[1]: (found[3] or found[2]).upper() for found in map(_TENSOR.match, lines) if found}
    return {name: PlannedType(kind, wanted.get(name, kind)) for name, kind in types.items()}


def read_mixture(path: Path, file_type: str, has_imatrix: bool) -> Mapping[str, PlannedType] | None:
    """The type that this llama.cpp gives every tensor of a model's shapes in a file of `file_type`, by tensor name.

    Only headers are read, so the model may be of any type, also quantized; what is never quantized keeps its own type.
    That there is an importance matrix changes the mixture, whatever is in it. None for a file type that llama.cpp
    cannot make. Raises `EngineError` with llama.cpp's reason.
    """
    kind = FILE_TYPES.get(file_type)
    if kind is None or not kind.can_make:
        return None
    job = Recipe(file_type).job(path, None, 1)
    return dry_run(path, [{**job, "stands_for_imatrix": has_imatrix}])[0]
