"""Where a file of the Hugging Face cache came from, by its path alone."""

from __future__ import annotations

import re
from pathlib import Path

_REPOSITORY = re.compile(r"(?P<kind>models|datasets)--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_source(path: Path) -> str:
    """`hf://OWNER/REPO@COMMIT/FILE` of a file in a snapshot of the hub's cache; "" of any other path.

    The cache lays files out as `models--OWNER--REPO/snapshots/COMMIT/FILE` (datasets: `datasets--...`, and the address
    begins with `hf://datasets/`). Owners and repositories have no `--` in their names, so the folder's name is
    unambiguous. Nothing is read.
    """
    parts = path.parts
    for i in range(len(parts) - 3):
        match = _REPOSITORY.fullmatch(parts[i])
        if match is not None and parts[i + 1] == "snapshots" and _COMMIT.fullmatch(parts[i + 2]):
            kind = "datasets/" if match["kind"] == "datasets" else ""
            return f"hf://{kind}{match['owner']}/{match['name']}@{parts[i + 2]}/{'/'.join(parts[i + 3 :])}"
    return ""
