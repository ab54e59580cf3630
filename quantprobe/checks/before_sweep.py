"""The cheap checks that a sweep makes by itself: nothing is decoded, and weights are scanned where that is fast."""

from __future__ import annotations

from pathlib import Path

import psutil

from quantprobe.checks.outcome import FAIL, WARN, Check
from quantprobe.checks.subject import Subject, check_structure
from quantprobe.checks.validate import CHEAP
from quantprobe.checks.values import check_values
from quantprobe.errors import QuantprobeError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.gguf.tensors import Inventory, read_inventory


def file_findings(info: ModelInfo, base: ModelIdentity, base_model: Path | None = None) -> tuple[str, ...]:
    """What is odd or broken about a quant, one sentence each; empty for a sound file.

    The base's own file is compared with where it can be found. Weights are scanned if the file fits into memory, as it
    was hashed just before and is read from there.
    """
    structure = check_structure(info.path)
    checks = [structure.check]
    if structure.model is not None:
        subject = Subject(info.path, structure.model, _find_base(base, base_model), base)
        checks += [check(subject) for check in CHEAP]
        if info.size_bytes < psutil.virtual_memory().available:
            checks += check_values(subject)
    return tuple(_sentence(check) for check in checks if check.status in (FAIL, WARN))


def _find_base(base: ModelIdentity, base_model: Path | None) -> Inventory | None:
    path = base_model or Path(base.path)
    if not base.path or not path.is_file():
        return None
    try:
        found = read_inventory(path)
    except QuantprobeError:  # whoever needs the base says so; here it is one comparison less
        return None
    return found if base.size_bytes in (None, found.info.size_bytes) else None


def _sentence(check: Check) -> str:
    return f"{'broken' if check.status == FAIL else 'odd'} ({check.name}): {check.reason}"
