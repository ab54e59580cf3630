"""JSON as every command writes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from quantprobe.files import write_text

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def plain(value: Any) -> Any:
    """`value` as JSON: records become objects, tuples lists, NumPy scalars numbers, paths strings, NaN null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if hasattr(value, "item") and not isinstance(value, Mapping | list | tuple):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def write_json(document: Json, path: Path) -> None:
    """Write JSON text (ASCII), whole or not at all."""
    write_text(path, format_json(document))


def format_json(document: Json) -> str:
    """JSON text; NaN is refused, never written.

    Two spaces of indent; an object or list without others inside stands on one line, as an estimate has eight members.
    """
    return _format(document, "\n") + "\n"


def _format(value: Json, line: str) -> str:
    inside: list[Json] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    if not any(isinstance(entry, dict | list) for entry in inside):
        return json.dumps(value, allow_nan=False)
    deeper = line + "  "
    if isinstance(value, dict):
        entries = [f"{json.dumps(key)}: {_format(entry, deeper)}" for key, entry in value.items()]
        return "{" + deeper + f",{deeper}".join(entries) + line + "}"
    return "[" + deeper + f",{deeper}".join(_format(entry, deeper) for entry in inside) + line + "]"
