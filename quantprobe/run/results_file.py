"""results.json: what a sweep found, in the form that scripts and the other pages of a run rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from quantprobe.files import write_text

FORMAT_VERSION = 1

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


BASE = ("name", "path", "sha256", "size_bytes", "bpw", "architecture", "n_vocab", "tokenizer_sha256")
QUANT = ("name", "path", "sha256", "size_bytes", "bpw", "file_type")
IMATRIX = ("file", "dataset", "entries_count", "chunks_count")
NULL_TEXT = ("kld_mean", "kld_max", "same_top")
NULL_TASK = ("drops", "leapfrogs", "n_rows")
TASK_FACTS = (
    "rule", "template", "n_items", "n_left_out", "n_identical", "n_token_prefix", "n_empty_prefix", "n_tokens_decoded",
    "n_tokens_naive",
)  # fmt: skip


class Sweep(Protocol):
    """What a sweep found; `quantprobe.sweep.SweepResult` is one. This module runs where no engine can be loaded."""

    @property
    def base(self) -> Any: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def null_control(self) -> Any: ...
    @property
    def quants(self) -> Sequence[Any]: ...
    @property
    def tasks(self) -> Mapping[str, Any]: ...


def results_document(result: Sweep) -> dict[str, Json]:
    """The contents of `results.json`, plain JSON values only; None, NaN and infinities are null."""
    null = result.null_control
    return {
        "format_version": FORMAT_VERSION,
        "base": {key: plain(getattr(result.base, key)) for key in BASE},
        "settings": plain(result.settings),
        "null_control": {
            "texts": {name: _pick(summary, NULL_TEXT) for name, summary in null.texts.items()},
            "tasks": {name: _pick(summary, NULL_TASK) for name, summary in null.tasks.items()},
        },
        "tasks": {
            name: {key: plain(getattr(facts, key)) for key in TASK_FACTS} for name, facts in result.tasks.items()
        },
        "quants": [_quant(quant) for quant in result.quants],
        "study": None,
    }


def _quant(quant: Any) -> Json:
    imatrix = quant.info.imatrix
    return {
        **{key: plain(getattr(quant.info, key)) for key in QUANT},
        "imatrix": None if imatrix is None else {key: plain(getattr(imatrix, key)) for key in IMATRIX},
        "texts": plain(quant.texts),
        "tasks": plain(quant.tasks),
        "pooled": plain(quant.pooled),
    }


def _pick(summary: Mapping[str, Any] | None, keys: Sequence[str]) -> Json:
    """The named entries of a null control; None where it could not be run (an imported base file)."""
    return None if summary is None else {key: plain(summary[key]) for key in keys}


def plain(value: Any) -> Json:
    """`value` as JSON: tuples become lists, NumPy scalars Python numbers, paths strings, non-finite floats None."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if hasattr(value, "item") and not isinstance(value, (Mapping, list, tuple)):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in results.json")


def write_json(document: Json, path: Path) -> None:
    """Write JSON text (ASCII) atomically."""
    write_text(path, format_json(document))


def format_json(document: Json) -> str:
    """JSON text as every command writes it; NaN is refused, never written.

    Two spaces of indent; an object or list without others inside stands on one line, as an estimate has ten members.
    """
    return _format(document, "\n") + "\n"


def _format(value: Json, line: str) -> str:
    inside: list[Json] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    if not any(isinstance(entry, (dict, list)) for entry in inside):
        return json.dumps(value, allow_nan=False)
    deeper = line + "  "
    if isinstance(value, dict):
        entries = [f"{json.dumps(key)}: {_format(entry, deeper)}" for key, entry in value.items()]
        return "{" + deeper + f",{deeper}".join(entries) + line + "}"
    return "[" + deeper + f",{deeper}".join(_format(entry, deeper) for entry in inside) + line + "]"
