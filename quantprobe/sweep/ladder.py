"""A ladder of quants of one model, made here and made once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantprobe.engine.devices import versions
from quantprobe.engine.quantize import quantize
from quantprobe.gguf.digests import content_digest
from quantprobe.gguf.model import split_paths
from quantprobe.sweep.inputs import Progress

RECORD = "made.json"
"""Beside the files: what each was made of, and the digest that it had."""


def make_quants(
    source: Path, folder: Path, names: Sequence[tuple[str, str]], progress: Progress, *, allow_requantize: bool = False
) -> list[Path]:
    """Quantize `source` into `folder`, one file for each (file name, file type); gives their paths in that order.

    A file that is there already is kept if it was made from the same source content, as the same
    type, by the same llama.cpp, and still has the content it had then; otherwise it is made anew.
    """
    source_sha256 = content_digest(split_paths(source))
    made: list[Path] = []
    for name, file_type in names:
        target = folder / name
        recipe = {"source_sha256": source_sha256, "file_type": file_type, "llama_cpp_version": versions().llama_cpp}
        if not _is_made(folder, target, recipe):
            _make(source, target, file_type, progress, allow_requantize)
            _remember(folder, target, recipe)
        made.append(target)
    return made


def _make(source: Path, target: Path, file_type: str, progress: Progress, allow_requantize: bool) -> None:
    done = 0

    def on_tensor(reached: int, total: int) -> None:
        nonlocal done
        if done == 0:
            progress.start(f"make {target.name}", total, "tensors")
        progress.advance(reached - done)
        done = reached

    try:
        quantize(source, target, file_type, allow_requantize=allow_requantize, on_tensor=on_tensor)
    finally:
        progress.finish()


def _is_made(folder: Path, target: Path, recipe: dict[str, Any]) -> bool:
    entry = _read_record(folder).get(target.name)
    if entry is None or not target.is_file():
        return False
    return bool(entry == {**recipe, "sha256": content_digest([target])})


def _remember(folder: Path, target: Path, recipe: dict[str, Any]) -> None:
    record = {**_read_record(folder), target.name: {**recipe, "sha256": content_digest([target])}}
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")
    partial.replace(folder / RECORD)


def _read_record(folder: Path) -> dict[str, Any]:
    """What was made here before; a record that is missing or damaged only means that files are made again."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
